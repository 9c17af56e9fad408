"""Workers that are processes of this machine, each with the model and a few threads of its own.

Nothing is left of them, however the command ends: they are ended by their handles, and end themselves when the process
that started them is gone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.invariants import present
from tecogan_dist.upscaling.segment import Kept, SegmentTask
from tecogan_dist.upscaling.workers import Done, Event, Failed, Lost, Ready, Workers
from tecogan_dist.upscaling.working import Order, thawed, work

SPAWN = multiprocessing.get_context("spawn")
"""Not forked: torch's threads and CUDA do not survive a fork."""
START_SECONDS = 300.0
"""For a process to load torch and the model, which takes 5 s on a quiet machine."""
MOST_STARTS = 3
"""Times that processes may be lost one after the other before one of them was ready or made a segment."""
END_SECONDS = 5.0


@dataclass
class _Process:
    process: SpawnProcess
    connection: Connection
    begun: float
    is_ready: bool = False


class Processes(Workers):
    """``count`` processes of ``threads`` threads each. ``model``: of :func:`tecogan_dist.upscaling.working.frozen`."""

    def __init__(self, model: bytes, *, count: int, threads: int, device: str = "cpu") -> None:
        self._model, self._count, self._threads, self._device = model, count, threads, device
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._processes: dict[int, _Process] = {}
        self._events: deque[Event] = deque()
        self._lost_starts = 0

    @property
    def count(self) -> int:
        return self._count

    @property
    def pids(self) -> list[int]:
        """Of the processes that are there, by worker."""
        return [one.process.pid or 0 for _, one in sorted(self._processes.items())]

    def __enter__(self) -> Processes:
        try:
            # In a file, which a pipe is too small for: all processes start at the same time.
            self._folder = tempfile.TemporaryDirectory(prefix="tecogan_model_")
            self._file.write_bytes(self._model)
            for worker in range(self._count):
                self._start(worker)
        except BaseException:
            self._end_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end_all()

    @property
    def _file(self) -> Path:
        return Path(present(self._folder, "processes are started in a block").name) / "model"

    def begin(self, worker: int, task: SegmentTask) -> None:
        try:
            self._processes[worker].connection.send(Order.of(task))
        except UserError as error:
            self._events.append(Failed(worker, str(error)))
        except OSError:  # it is gone, as event() will notice
            pass

    def stop(self, worker: int) -> None:
        self._end([worker])
        self._start(worker)

    def event(self, timeout: float) -> Event | None:
        if self._events:
            return self._events.popleft()
        places: dict[Any, int] = {}
        for worker, one in self._processes.items():
            places[one.connection] = worker
            places[one.process.sentinel] = worker
        for worker in dict.fromkeys(places[place] for place in wait(list(places), timeout)):
            self._take(worker)
        self._check_starts()
        return self._events.popleft() if self._events else None

    def _take(self, worker: int) -> None:
        """Receive what a process has sent, first of all, and then notice its end."""
        one = self._processes[worker]
        try:
            while one.connection.poll():
                event: Event = one.connection.recv()  # from our own process
                if isinstance(event, Lost):
                    self._replace(worker, event.reason)
                    return
                one.is_ready = one.is_ready or isinstance(event, Ready)
                if isinstance(event, (Done, Failed)):
                    self._lost_starts = 0
                self._events.append(event)
        except (EOFError, OSError):
            one.process.join(END_SECONDS)
            self._replace(worker, _reason(one.process.exitcode))
            return
        if not one.process.is_alive():
            self._replace(worker, _reason(one.process.exitcode))

    def _replace(self, worker: int, reason: str) -> None:
        self._lost_starts += 1
        if self._lost_starts > MOST_STARTS * self._count:
            raise UserError(f"processes that upscale cannot be kept alive: {reason}; free memory, or use --workers 1.")
        self._end([worker])
        self._events.append(Lost(worker, reason))
        self._start(worker)

    def _check_starts(self) -> None:
        for one in self._processes.values():
            if not one.is_ready and time.monotonic() - one.begun > START_SECONDS:
                raise UserError(
                    f"a process that upscales has not started in {START_SECONDS:.0f} s: wait until the machine is less "
                    "busy, or use --workers 1."
                )

    def _start(self, worker: int) -> None:
        here, there = SPAWN.Pipe()
        arguments = (there, self._file, worker, self._threads, self._device)
        process = SPAWN.Process(target=_serve, args=arguments, name=f"upscale-{worker}", daemon=True)
        with _interrupts_ignored():  # by the new process: Ctrl-C goes to all, and this one ends the others
            process.start()
        there.close()
        self._processes[worker] = _Process(process, here, time.monotonic())

    def _end_all(self) -> None:
        self._end(list(self._processes))
        self._events.clear()
        if self._folder is not None:
            self._folder.cleanup()

    def _end(self, workers: list[int]) -> None:
        ended = [self._processes.pop(worker) for worker in workers]
        for one in ended:
            one.process.kill()  # files appear whole or not at all, so there is nothing to wait for
        for one in ended:
            one.process.join(END_SECONDS)
            one.connection.close()
        self._events = deque(event for event in self._events if event.worker not in workers)


def _reason(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        memory = ", as the system does when memory is short" if -code == signal.SIGKILL else ""
        return f"a process was ended by {name}{memory}"
    return f"a process ended by itself with status {code}"


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """What is started in the block ignores Ctrl-C from its first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection, file: Path, worker: int, threads: int, device: str) -> None:
    """The life of a worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        model = thawed(file.read_bytes(), torch.device(device))
        connection.send(Ready(worker))
        kept = Kept()
        while True:
            order: Order = connection.recv()  # from the process that started this one
            work(order, model, kept=kept, worker=worker, tell=connection.send, threads=threads)
    except (EOFError, BrokenPipeError):
        return  # the command is at its end


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
