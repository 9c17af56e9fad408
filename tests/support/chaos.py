"""Commands that are killed at seeded random moments, whole or in part, and started again until they are done."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import psutil

from tests.support.training_runs import PATIENCE, Command, until

DRIVER = "driver"
RAY_PROCESSES = {
    "worker": r"^ray::RayTrainWorker",
    "decoder": r"^ray::MapBatches\(decode\)",
    "controller": r"^ray::TrainController",
    "raylet": r"/raylet/raylet ",
    "GCS": r"/gcs_server ",
    "agent": r"dashboard/agent\.py|runtime_env/agent/main\.py",
}
"""What the command lines of an embedded Ray's processes match."""
RAYS_OWN = {"raylet", "GCS", "agent"}
GONE_SECONDS = 30.0
"""After which nothing is left of a command whose driver was killed."""


EARLY = "decoder"
"""Who is there only at the beginning of an attempt."""


@dataclass(frozen=True)
class Kill:
    """A SIGKILL to come."""

    victim: str
    """DRIVER, or one of RAY_PROCESSES."""
    steps: int
    """Lines of progress to wait for first; 0: none."""
    seconds: float
    """To wait then."""


def kills(random: Random, victims: Iterable[str], *, steps: int, seconds: float) -> list[Kill]:
    """One for each victim, in random order: half of them after some lines of progress, half after some seconds.

    With no ``steps`` all after some seconds.
    """
    order = list(victims)
    random.shuffle(order)
    return [
        Kill(victim, random.randint(1, steps), random.uniform(0, 0.3))
        if steps and random.random() < 0.5
        else Kill(victim, 0, random.uniform(0, seconds))
        for victim in order
    ]


def until_done(
    start: Callable[[], Command],
    planned: Sequence[Kill],
    *,
    progress: str,
    has_begun: Callable[[], object] = lambda: True,
) -> list[str]:
    """Start a command, kill what is planned, start it again whenever it ended in failure, until it is done.

    ``progress`` is a pattern of lines. Lines and seconds count from when an attempt ``has_begun``, or from the last
    kill. Returns what happened, for a message. Nothing that an attempt has started outlives a killed driver for more
    than 30 seconds, but where Ray's own processes were killed: what is left then is killed too.
    """
    remaining, told = list(planned), list[str]()
    while True:
        with _attempt(start()) as (command, seen):
            remaining.sort(key=lambda kill: kill.victim != EARLY)
            lost = set[str]()
            since = 0
            while command.process.poll() is None and not has_begun():
                time.sleep(0.01)
            while remaining and command.process.poll() is None:
                kill = remaining.pop(0)
                if _done(command, kill, seen, since=since, progress=progress):
                    told.append(f"{kill} after {len(command.all(progress))} lines of progress")
                    lost.add(kill.victim)
                    since = len(command.lines)
                else:
                    remaining.append(kill)
                    if all(kill.victim == EARLY for kill in remaining):
                        break
            status = command.finish()
            told.append(f"ended with status {status} after {len(command.all(progress))} lines of progress")
            if not lost & RAYS_OWN:
                # Ray's agents may try for a minute to tell a Ray that is gone that it is.
                patience = GONE_SECONDS if DRIVER in lost else 3 * GONE_SECONDS
                until(seen.all_gone, f"the end of {[*map(_words, seen.left())]}", patience)
            assert status == 0 or lost, command.end
            if DRIVER not in lost:
                assert status == 0 or (status == 2 and command.all("^error: ")), command.end
            assert not any("Traceback" in line for line in command.lines), command.end
            if status == 0:
                return [*told, *(f"never happened: {kill}" for kill in remaining)]
            assert len(told) < 5 * (len(planned) + 1), "\n".join([*told, command.end])


def _done(command: Command, kill: Kill, seen: _Seen, *, since: int, progress: str) -> bool:
    """Kill when it is time. Whether somebody was; False if the command ended before, or it is too late for that."""
    began, is_time = time.monotonic(), False
    while command.process.poll() is None:
        seen.look()
        lines = sum(1 for line in command.lines[since:] if re.search(progress, line))
        if kill.victim == EARLY:
            is_time = True
            if command.all(progress):
                return False
        elif not is_time and lines >= kill.steps:
            is_time = bool(kill.steps) or time.monotonic() - began >= kill.seconds
            if is_time and kill.steps:
                time.sleep(kill.seconds)
        if is_time:
            for pid in [command.process.pid] if kill.victim == DRIVER else seen.matching(RAY_PROCESSES[kill.victim]):
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
                    return True
        assert time.monotonic() < began + PATIENCE, f"no {kill} came about:\n{command.end}"
        time.sleep(0.02)
    return False


class _Seen:
    """All processes below a command that were ever seen."""

    def __init__(self, command: Command) -> None:
        self._root = psutil.Process(command.process.pid)
        self.processes: dict[int, psutil.Process] = {}

    def look(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in self._root.children(recursive=True):
                self.processes.setdefault(process.pid, process)

    def matching(self, pattern: str) -> list[int]:
        found = []
        for process in self.processes.values():
            with contextlib.suppress(psutil.Error):
                if process.is_running() and re.search(pattern, " ".join(process.cmdline()) + " "):
                    found.append(process.pid)
        return sorted(found)

    def all_gone(self) -> bool:
        return not self.left()

    def left(self) -> list[psutil.Process]:
        """Those that still run."""
        left = []
        for process in self.processes.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(process)
        return left


@contextlib.contextmanager
def _attempt(command: Command) -> Iterator[tuple[Command, _Seen]]:
    seen = _Seen(command)
    try:
        yield command, seen
    finally:
        seen.look()
        command.kill()
        for process in seen.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(seen.left(), timeout=GONE_SECONDS)


def _words(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())[:100]
    return str(process.pid)
