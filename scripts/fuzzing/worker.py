"""A process that reads inputs one after the other and says of each what came of it."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from fuzzing import samples
from fuzzing.mutating import mutated
from fuzzing.readers import read
from fuzzing.samples import Files

STARTS = (
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "os.system",
    "pty.spawn",
)
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
"""Audit events; the first argument of the latter is a path, and that of a rename's and link's second too."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
TRACE_FILE, INPUT = "trace", "input"
NUMBER = int | None
"""Of a mutated input; None: the files come with the job."""


@dataclass(frozen=True)
class Job:
    kind: str
    number: NUMBER
    files: Files | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of an input: a value, a refusal, or something that should not be."""

    end: Literal["value", "refused", "found"]
    place: str = ""
    """Of a find: what and where, the same for all inputs that find the same."""
    trace: str = ""


def serve(connection: Connection, home: Path, made: dict[str, list[Files]], *, seed: int, megabytes: int) -> None:
    """Read inputs until the other side hangs up. ``home`` is the only folder that may be written to."""
    watch = _Watch(home)
    _settle(home, megabytes=megabytes, record=watch.record)
    connection.send(Outcome("value"))
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        number = 0 if job.number is None else job.number
        files = job.files or mutated(job.kind, made[job.kind], seed=seed, number=number)
        samples.write(files, home / INPUT)
        os.chdir(home / INPUT)
        outcome = _read(job.kind, home / INPUT, watch)
        os.chdir(home)
        for name in (INPUT, "tmp"):
            shutil.rmtree(home / name, ignore_errors=True)
        (home / "tmp").mkdir()
        os.ftruncate(1, 0)
        connection.send(outcome)


def _settle(home: Path, *, megabytes: int, record: Callable[[str, str], None]) -> None:
    """Limits, a home of its own, and traces of what ends the process."""
    for name in (INPUT, "tmp", "home"):
        (home / name).mkdir(parents=True, exist_ok=True)
    os.environ |= {"HOME": str(home / "home"), "TMPDIR": str(home / "tmp"), "RAY_TMPDIR": str(home / "tmp")}
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(home / "tmp")  # torch makes one when it is first used
    tempfile.tempdir = None
    os.chdir(home)
    output = os.open(home / "output", os.O_CREAT | os.O_RDWR | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    # Addresses, of which allocators and threads take more than they use: a stop for single huge allocations.
    limit = pages * resource.getpagesize() + 4 * megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
    trace = open(home / TRACE_FILE, "w")  # noqa: SIM115 - for as long as the process lives
    faulthandler.enable(trace)
    faulthandler.register(signal.SIGUSR1, trace)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.excepthook = lambda args: record("thread", _text(args.exc_value))
    sys.unraisablehook = lambda args: record("unraisable", _text(args.exc_value))


def _text(error: BaseException | None) -> str:
    return "".join(traceback.format_exception(error)) if error else ""


def _read(kind: str, folder: Path, watch: _Watch) -> Outcome:
    watch.found = []
    watch.active = True
    try:
        is_value = read(kind, folder)
    except BaseException as error:  # whatever it is: it is what is looked for
        return Outcome("found", place_of(error), _shortened(_text(error)))
    finally:
        watch.active = False
    for what, text in watch.found:
        return Outcome("found", f"{what}: {text.splitlines()[-1] if text else ''}"[:200], _shortened(text))
    strange = {path.name for path in folder.parent.iterdir()} - {INPUT, "tmp", "home", "output", TRACE_FILE}
    if strange:
        for name in strange:
            shutil.rmtree(folder.parent / name, ignore_errors=True)
            with contextlib.suppress(OSError):
                (folder.parent / name).unlink()
        return Outcome("found", f"wrote outside: {sorted(strange)}")
    return Outcome("value" if is_value else "refused")


def place_of(error: BaseException) -> str:
    """The exception's type and the last line of the package that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/tecogan_dist/" in frame.filename] or frames
    where = f"{ours[-1].filename.rpartition('/tecogan_dist/')[2]}:{ours[-1].lineno}" if ours else "nowhere"
    return f"{type(error).__name__} at {where}"


def _shortened(text: str) -> str:
    return text if len(text) < 8000 else f"{text[:3000]}\n...\n{text[-5000:]}"


class _Watch:
    """Of processes that are started, of files elsewhere that are changed, and of connections to other machines."""

    def __init__(self, home: Path) -> None:
        self.found: list[tuple[str, str]] = []
        self.active = False
        self._home = f"{home}/"
        sys.addaudithook(self._see)

    def record(self, what: str, text: str) -> None:
        self.found.append((what, text))

    def _see(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in STARTS:
            # Not the environment, which is another argument.
            stack = "".join(traceback.format_stack(limit=20))
            self.record("starts a process", f"{stack}{event} {args[0]!r} {args[1] if len(args) > 1 else ''}"[-3000:])
            raise RuntimeError(f"{event}: the fuzzer lets no process be started")
        if event == "socket.connect":
            address = args[1]
            if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
                self.record("connects elsewhere", repr(address))
                raise OSError("the fuzzer lets nothing connect elsewhere")
        if event == "open":
            path, mode, flags = args
            if any(letter in (mode or "") for letter in "wax+") or (not mode and flags & WRITING):
                self._check(event, path)
        elif (event in CHANGES and -1 in args[-2:]) or event == "os.truncate":
            for path in args[: 2 if event in ("os.rename", "os.link") else 1]:
                self._check(event, path)
        elif event == "shutil.rmtree":
            self._check(event, args[0])

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int):
            return
        text = os.path.abspath(os.fsdecode(path))
        if not f"{text}/".startswith(self._home) and text != os.devnull:
            self.record("changes a file outside", f"{event} {text}")
