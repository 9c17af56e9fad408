"""Inside a worker of ``control_run.py``: training as it is, with clocks around it; then its parts of control, alone.

The steps of N workers on two cores mostly wait for a core. So when training has ended, the workers do again, many times
and with nothing beside it, what they do with every step or checkpoint to agree. What a worker pays is the CPU time of
its whole process: on a cluster, where it has cores of its own, that is what it would hold the others up with.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar
from unittest.mock import patch

import psutil
import ray
import torch.distributed as dist
from torch import Tensor

from tecogan_dist.data.stream.stream import training_stream
from tecogan_dist.training import loop
from tecogan_dist.training.ledger import Flags, Ledger
from tecogan_dist.training.rank_zero import RankZero
from tecogan_dist.training.ray.board import Board
from tecogan_dist.training.ray.worker import RayReporter, train_worker
from tecogan_dist.training.saving import take_snapshot
from tecogan_dist.training.step import StepOutcome, TrainingStep
from tecogan_dist.training.task import TrainingTask

AGREEMENTS, QUESTIONS, LINES, SNAPSHOTS, IDLE = 200, 500, 500, 3, 20.0
"""How often each is repeated; seconds in which all workers do nothing."""
PAUSE = 0.02
"""Seconds between questions: about a short step."""
CENTRAL = {"controller": "ray::TrainController", "board": "ray::CountedBoard"}
"""Ray's processes of which a run has one, by the beginning of their title."""


class CountedBoard(Board):
    """The driver's board, which also counts who calls it."""

    calls: ClassVar[Counter[str]] = Counter()

    def counted(self) -> dict[str, int]:
        return dict(self.calls)


def _counted(name: str) -> Callable[..., Any]:
    method = getattr(Board, name)

    @functools.wraps(method)
    def call(self: CountedBoard, *args: Any) -> Any:
        self.calls[name] += 1
        return method(self, *args)

    return call


for _name in ("say", "log", "asked", "take", "give_up", "saved"):
    setattr(CountedBoard, _name, _counted(_name))


class Clock:
    """Where this process's time goes."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.marks: dict[str, tuple[float, float]] = {}
        """Name -> when (time.time()), and the CPU seconds of the process until then."""
        self.parts: dict[str, dict[str, float]] = {}
        """Name -> seconds, CPU seconds of this process, and on the first worker those of the central ones."""

    def mark(self, name: str) -> None:
        self.marks.setdefault(name, (time.time(), time.process_time()))

    @contextlib.contextmanager
    def part(self, name: str, *, times: int) -> Iterator[None]:
        """All workers begin together. Of ``times`` repetitions the mean is kept."""
        dist.barrier()
        central = central_cpu() if self.rank == 0 else {}
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.parts[name] = {"wall": wall / times, "cpu": cpu / times}
        if self.rank == 0:
            self.parts[name] |= {at: (now - central[at]) / times for at, now in central_cpu().items()}


def central_cpu() -> dict[str, float]:
    """CPU seconds so far of the processes that a run has once: called in a worker, whose parent is the raylet."""
    raylet = psutil.Process().parent()
    assert raylet is not None
    driver = raylet.parent()
    assert driver is not None
    found = {"driver": driver, "raylet": raylet}
    for child in driver.children():
        if "gcs_server" in child.name():
            found["gcs"] = child
    for child in raylet.children():
        with contextlib.suppress(psutil.Error, IndexError):
            title = child.cmdline()[0]
            found |= {name: child for name, beginning in CENTRAL.items() if title.startswith(beginning)}
    assert len(found) == 3 + len(CENTRAL), found
    return {name: sum(process.cpu_times()[:2]) for name, process in found.items()}


def measured_worker(task: TrainingTask, *, networks: ray.ObjectRef, board: Any) -> None:
    """:func:`train_worker`, then the parts of control alone. What was measured is written beside the run's folder."""
    rank = dist.get_rank()
    clock, born = Clock(rank), psutil.Process().create_time()
    clock.marks["process"] = (born, 0.0)
    clock.mark("function")
    seen: dict[str, Any] = {}

    def begin(*args: Any, **kwargs: Any) -> tuple[TrainingStep, str]:
        found = loop_begin(*args, **kwargs)
        clock.mark("engines")
        seen["step"] = found[0]
        return found

    def stream(*args: Any, **kwargs: Any) -> Iterator[Tensor]:
        return marked(training_stream(*args, **kwargs))  # which begins here

    def marked(batches: Iterator[Tensor]) -> Iterator[Tensor]:
        for windows in batches:
            clock.mark("windows")
            yield windows

    def one_step(*args: Any, **named: Any) -> StepOutcome:
        seen["outcome"] = original_step(*args, **named)
        clock.mark("step")
        return seen["outcome"]

    def progress(zero: RankZero, step: int, metrics: dict[str, float]) -> None:
        seen["metrics"] = metrics
        original_progress(zero, step, metrics)

    def asked_to_stop(reporter: RayReporter) -> bool:
        if original_question(reporter):
            seen.setdefault("told", seen["step"].state.step + 1)  # in this step
            return True
        return False

    loop_begin, original_step, original_progress = loop.begin, TrainingStep.__call__, RankZero.progress
    original_question = RayReporter.asked_to_stop
    with (
        patch.object(loop, "begin", begin),
        patch.object(TrainingStep, "__call__", lambda *args, **named: one_step(*args, **named)),
        patch.object(RankZero, "progress", progress),
        patch.object(RayReporter, "asked_to_stop", asked_to_stop),
    ):
        train_worker(task, networks=networks, board=board, stream=stream)
    central = central_cpu() if rank == 0 else {}
    step = seen["step"]
    clock.mark("trained")
    calls = ray.get(board.counted.remote()) if rank == 0 else {}
    sent = _alone(clock, task, board, seen)
    own = psutil.Process()
    found = {
        "marks": clock.marks,
        "parts": clock.parts,
        "central": central,
        "calls": calls,
        "steps": step.state.step,
        "steps_to_stop": step.state.step - seen.get("told", 0),
        "sent": sent,
        "unique_bytes": own.memory_full_info().uss,
        "files": own.num_fds(),
    }
    (task.output.path.parent / f"worker_{rank}.json").write_text(json.dumps(found))
    dist.barrier()


def _alone(clock: Clock, task: TrainingTask, board: Any, seen: dict[str, Any]) -> dict[str, int]:
    """The parts of control, each for itself; returns the collectives of a checkpoint and their bytes."""
    with clock.part("idle", times=1):
        time.sleep(IDLE)
    ledger = Ledger()
    with clock.part("agreement", times=AGREEMENTS):
        for number in range(AGREEMENTS):
            ledger.record(number, seen["outcome"].losses, Flags())
            ledger.settle()
    step: TrainingStep = seen["step"]
    sent, all_reduce = Counter(collectives=0, bytes=0), dist.all_reduce

    def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sent.update(collectives=1, bytes=tensor.nbytes)
        return all_reduce(tensor, *args, **kwargs)

    with patch.object(dist, "all_reduce", counted), clock.part("gathering", times=SNAPSHOTS):
        for _ in range(SNAPSHOTS):
            snapshot = take_snapshot(step.state, step.pair, step.average)
    if clock.rank:
        for _ in ("questions", "lines", "writing"):
            dist.barrier()
        return {}
    elsewhere = replace(task, output=task.output.parent / "alone")
    elsewhere.output.path.mkdir()
    with RankZero(elsewhere, RayReporter(board), first_step=0) as zero:
        with clock.part("questions", times=QUESTIONS):
            for _ in range(QUESTIONS):
                zero.requests()
                time.sleep(PAUSE)
        with clock.part("lines", times=LINES):
            for number in range(LINES):
                zero.progress(number, seen["metrics"])
            ray.get(board.counted.remote())  # the lines have arrived
        with clock.part("writing", times=SNAPSHOTS):
            for number in range(SNAPSHOTS):
                zero.save(replace(snapshot, state=replace(snapshot.state, step=number)), asked=True)
        zero.finish(replace(step.state, step=task.config.steps))
    return {name: count // SNAPSHOTS for name, count in sent.items()}
