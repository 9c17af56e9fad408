"""Processes that read inputs, watched from outside: one that takes too long or too much is ended and replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from fuzzing.samples import Files
from fuzzing.worker import TRACE_FILE, Job, Outcome, serve

FORK = multiprocessing.get_context("fork")
"""A child has everything imported already. This process itself must do nothing that starts threads."""
INPUTS_A_PROCESS = 4000
WALL_FACTOR = 6
"""Seconds by the clock for each of the limit's seconds of CPU time: the machine may be busy, a reader may wait."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one input."""

    seconds: float
    """Of CPU time."""
    megabytes: int
    """Of resident memory, beyond what the process has before."""


class Worker:
    """One process and the input that it has."""

    def __init__(self, home: Path, made: dict[str, list[Files]], *, seed: int, limits: Limits) -> None:
        self._home, self._limits = home, limits
        home.mkdir(parents=True, exist_ok=True)
        self.connection, theirs = FORK.Pipe()
        self._process: BaseProcess = FORK.Process(
            target=_serve, args=(theirs, self.connection, home, made, seed, limits.megabytes), daemon=True
        )
        self._process.start()
        theirs.close()
        self._watched = psutil.Process(self._process.pid)
        if not self.connection.poll(120):
            raise SystemExit("a process of the fuzzer did not start within two minutes")
        self.connection.recv()
        self.job: Job | None = None
        self.done = 0
        self._base = self._watched.memory_info().rss
        self._begin()

    def give(self, job: Job) -> None:
        self.job = job
        self._begin()
        self.connection.send(job)

    def take(self) -> Outcome:
        """What came of its input; also where the process has died of it."""
        self.done += 1
        with contextlib.suppress(EOFError, ConnectionResetError):
            outcome: Outcome = self.connection.recv()
            return outcome
        self._process.join(30)
        code = self._process.exitcode or 0
        what = signal.Signals(-code).name if code < 0 else f"status {code}"
        return self._ended(f"the process died ({what})")

    def over(self) -> Outcome | None:
        """The process's end, if it is beyond a limit."""
        with contextlib.suppress(psutil.Error):
            used = self._cpu() - self._cpu_before
            waited = time.monotonic() - self.began
            grown = (self._watched.memory_info().rss - self._base) / 2**20
            if used > self._limits.seconds or waited > WALL_FACTOR * self._limits.seconds:
                return self.end(f"took {used:.0f} s of CPU time, {waited:.0f} s")
            if grown > self._limits.megabytes:
                return self.end(f"took {grown:.0f} MB")
        return None

    def end(self, reason: str) -> Outcome:
        """Kill the process, with a trace of where it was."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid or 0, signal.SIGUSR1)
            time.sleep(0.3)
        self.close()
        return self._ended(reason)

    @property
    def is_worn(self) -> bool:
        """Whether it should be replaced before its next input."""
        with contextlib.suppress(psutil.Error):
            grown = (self._watched.memory_info().rss - self._base) / 2**20
            return self.done >= INPUTS_A_PROCESS or grown > self._limits.megabytes / 2
        return True

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _begin(self) -> None:
        self.began, self._cpu_before = time.monotonic(), self._cpu()

    def _cpu(self) -> float:
        times = self._watched.cpu_times()
        return float(times.user + times.system)

    def _ended(self, reason: str) -> Outcome:
        trace = (self._home / TRACE_FILE).read_text("utf-8", "replace")
        ours = re.search(r'/tecogan_dist/(\S+\.py)", line (\d+)', trace)
        where = f"{ours[1]}:{ours[2]}" if ours else "an unknown place"
        return Outcome("found", f"{re.sub(r'[0-9]+ ?', '', reason)} at {where}", f"{reason}\n{trace}")


def _serve(
    connection: Connection, parents: Connection, home: Path, made: dict[str, list[Files]], seed: int, megabytes: int
) -> None:
    parents.close()
    serve(connection, home, made, seed=seed, megabytes=megabytes)


def run(
    jobs: Iterator[Job],
    made: dict[str, list[Files]],
    *,
    folder: Path,
    processes: int,
    seed: int,
    limits: Limits,
    report: Callable[[Job, Outcome, float], None],
) -> None:
    """Read the jobs' inputs. ``report`` gets each with what came of it, and the seconds that it took."""

    def new(number: int) -> Worker:
        return Worker(folder / f"worker_{number}", made, seed=seed, limits=limits)

    workers: dict[int, Worker] = {}
    try:
        for number in range(processes):
            workers[number] = new(number)
            _next(workers[number], jobs)
        while any(worker.job for worker in workers.values()):
            busy = {number: worker for number, worker in workers.items() if worker.job}
            ready = wait([worker.connection for worker in busy.values()], timeout=0.05)
            for number, worker in busy.items():
                outcome = worker.take() if worker.connection in ready else worker.over()
                if outcome is None or worker.job is None:
                    continue
                report(worker.job, outcome, time.monotonic() - worker.began)
                if worker.is_worn:
                    worker.close()
                    workers[number] = worker = new(number)
                _next(worker, jobs)
    finally:
        for worker in workers.values():
            worker.close()


def _next(worker: Worker, jobs: Iterator[Job]) -> None:
    job = next(jobs, None)
    worker.job = None
    if job is not None:
        worker.give(job)


def apart(task: Callable[..., Any], *arguments: Any) -> Any:
    """What ``task`` returns, run in a process of its own."""
    ours, theirs = FORK.Pipe()

    def answer() -> None:
        theirs.send(task(*arguments))

    process = FORK.Process(target=answer)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit("the fuzzer could not make its inputs: see above") from None
    finally:
        process.join()
