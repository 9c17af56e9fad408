"""A Ray that a command starts inside itself: on loopback only, with a token of its own, and gone with the command."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import resource
import secrets
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray

from tecogan_dist.base.console import say
from tecogan_dist.base.environment import RAY_SOCKET, SOCKET_BYTES, check_ray_folder
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.importing import import_aside
from tecogan_dist.base.signals import interrupted_afterwards, keeping_handlers
from tecogan_dist.cluster import reaper
from tecogan_dist.cluster.internals.ray_core import (
    leaving_sigterm,
    on_loopback,
    read_environment_anew,
    temporary_folder,
    without_needless_processes,
)
from tecogan_dist.cluster.lost_ray import ending_when_lost
from tecogan_dist.cluster.tokens import MODE, TOKEN, check_mode, check_own_token
from tecogan_dist.cluster.worker_output import ray_logging, worker_output

LOOPBACK = "lo"
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Over which the workers of one machine talk to each other."""
EMBEDDED = "TECOGAN_EMBEDDED_RAY"
"""Set in the environment of all its processes."""
ON_ONE_MACHINE = {
    # An actor that asks whether a cloud takes machines away: not this one without the command, and it takes a second.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Seconds until Ray Train's controller looks at the workers again: of two, a run's end waits one for it.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Ray's processes look for each other's sockets every 0.1 s for 10 s. Ray's own choice, every second, leaves it idle
    # for a second of each start, since the first look always comes a little too early.
    "RAY_raylet_client_connect_timeout_milliseconds": "100",
    "RAY_raylet_client_num_connect_attempts": "100",
}
"""What Ray is told unless the environment says otherwise."""
IMPORTED = {"RAY_preload_python_modules": "tecogan_dist.base.in_workers"}
"""What each worker process imports first."""
LEAST_FILES, ENOUGH_FILES = 256, 65536
"""Open files of a process: below the first Ray's own processes end without a word."""
SHARED_MEMORY = Path("/dev/shm")
STARTS = 2


def is_embedded() -> bool:
    """Whether the Ray that this process belongs to ends with a command."""
    return EMBEDDED in os.environ


def ends_with_this_process() -> bool:
    """Whether the connected Ray ends when this process does: it is the command that has started it, no worker of it."""
    return is_embedded() and ray.get_runtime_context().get_actor_id() is None


@contextlib.contextmanager
def embedded_ray(*, cpus: int, dashboard: bool, importing: Sequence[str] = ()) -> Iterator[None]:
    """Ray inside this process, with at least ``cpus`` CPUs, which are numbers for scheduling only.

    Modules that are named ``importing`` are imported while it starts.

    It listens on loopback, and so does its dashboard, if one is wanted. It asks everybody for a token, which only this
    process and those that it starts have; unless the environment says ``RAY_AUTH_MODE=disabled``, and then a line says
    what that means. Raises :class:`UserError` if this machine cannot start it.
    """
    _check_machine()
    given: dict[str, Any] = {
        "num_cpus": max(os.cpu_count() or 1, cpus),
        **ray_logging(),
    }
    with _environment(), _ended_with_this_process() as follow:
        folder = str(_private_folder() / "ray")
        try:
            with interrupted_afterwards():
                imports = import_aside(*importing)
                _start(dashboard=dashboard, _temp_dir=folder, **given)
                follow(_children())
                imports.join()
            with ending_when_lost(), worker_output():
                yield
        finally:
            ray.shutdown()


def _start(*, dashboard: bool, **given: Any) -> None:
    """``ray.init``, once more if it takes too long. Raises :class:`UserError` after that, and for all else."""
    for attempt in range(1, STARTS + 1):
        before = set(_children())
        try:
            lean = without_needless_processes(dashboard=dashboard)
            with on_loopback(), lean, leaving_sigterm(), keeping_handlers():
                ray.init("local", include_dashboard=dashboard, **given)
            return
        except Exception as error:
            ray.shutdown()
            _end(set(_children()) - before)
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if "timed out" not in reason.lower() or attempt == STARTS:
                often = f" ({STARTS} times)" if attempt > 1 else ""
                raise UserError(
                    f"Ray could not be started on this machine{often}: {reason.rstrip('.')}; its logs are in "
                    f"{given['_temp_dir']}/session_latest/logs. Mend what they say, or wait until the machine is less "
                    "busy."
                ) from error
            say("note: Ray has not started in time on this machine; it is started once more")


def _check_machine() -> None:
    """Raise :class:`UserError` for what would make Ray end in a trace or without a word."""
    check_ray_folder()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        raise UserError(
            f"a process may have {soft} open files here, too few for Ray, which needs {LEAST_FILES} at the very least: "
            f"raise the limit (ulimit -n {ENOUGH_FILES})."
        )
    try:
        with tempfile.TemporaryFile(dir=SHARED_MEMORY):
            pass
    except OSError as error:
        raise UserError(
            f"nothing can be written to {SHARED_MEMORY} ({error.strerror}), where Ray keeps what its processes share: "
            "mount a tmpfs there; a container gets one with --shm-size."
        ) from error


def _private_folder() -> Path:
    """A folder that nobody else may enter, above the one that Ray makes for everybody's use.

    Raises :class:`UserError` if it is somebody else's.
    """
    folder = Path(temporary_folder())
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _is_private(folder):
            return folder
        folder /= f"tecogan_{os.getuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        if not _is_private(folder):
            raise UserError(
                f"{folder} is not a folder of yours that only you may enter, as Ray's files need it: remove it, or let "
                "RAY_TMPDIR name a folder of yours with mode 700."
            )
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made for Ray's files ({error.strerror}): let RAY_TMPDIR name a folder that you may "
            "write to."
        ) from error
    if len(os.fsencode(folder)) + len(RAY_SOCKET) > SOCKET_BYTES:
        raise UserError(
            f"{folder} is too long for the paths of Ray's sockets: let RAY_TMPDIR name a folder of yours with mode 700 "
            "and a shorter path."
        )
    return folder


def _is_private(folder: Path) -> bool:
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


@functools.cache
def _token() -> str:
    """This process's. The same for each Ray that it starts: a process keeps the first that it was set up with."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """What Ray's processes and the workers find in theirs: a token, and loopback. As before when it is left."""
    check_mode()
    ours = {EMBEDDED: "1"}
    if os.environ.get(MODE, "").lower() == "disabled":
        say(
            f"warning: {MODE} is 'disabled', so that the Ray inside this command asks for no token: whoever reaches "
            f"this machine can run code as you until the command ends. Unset {MODE} to close that."
        )
    else:
        check_own_token(environment_only=True)
        ours[MODE] = "token"
        if not os.environ.get(TOKEN):
            ours[TOKEN] = _token()
    if LOOPBACK in (name for _, name in socket.if_nameindex()):
        ours |= {name: LOOPBACK for name in INTERFACES if name not in os.environ}
    told = ON_ONE_MACHINE | (IMPORTED if _is_installed() else {})
    ours |= {name: value for name, value in told.items() if name not in os.environ}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    read_environment_anew()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        read_environment_anew()


def _is_installed() -> bool:
    """Whether every process of this Python can import this package; those of a source tree may not."""
    try:
        return bool(importlib.metadata.version("tecogan_dist"))
    except importlib.metadata.PackageNotFoundError:
        return False


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _end(processes: set[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(processes), timeout=10)


@contextlib.contextmanager
def _ended_with_this_process() -> Iterator[Any]:
    """A function that takes processes, which end when this one does, however that comes about."""
    words = [sys.executable, "-I", "-S", reaper.__file__]
    nowhere = subprocess.DEVNULL
    watcher = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, start_new_session=True)
    pipe: Any = watcher.stdin

    def follow(processes: list[psutil.Process]) -> None:
        starts = {process.pid: reaper.begun(process.pid) for process in processes if process.pid != watcher.pid}
        with contextlib.suppress(BrokenPipeError):  # it was killed itself
            pipe.write("".join(f"{pid} {start}\n" for pid, start in starts.items() if start).encode())
            pipe.flush()

    try:
        yield follow
    finally:
        with contextlib.suppress(BrokenPipeError):
            pipe.write(reaper.DONE)
            pipe.flush()
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
        watcher.wait()
