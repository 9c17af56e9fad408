"""The training of one trial, beside whoever watches it: in this process, or by Ray Train's workers.

Its news come through a queue, so that the trial can tell Ray Tune about a measurement while training goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.facts import nodes
from tecogan_dist.cluster.ray_errors import find_user_error
from tecogan_dist.runs.facts import with_nodes
from tecogan_dist.training.device import out_of_memory
from tecogan_dist.training.loop import train
from tecogan_dist.training.ray.board import Line, Measured, News, Progress, Saved
from tecogan_dist.training.ray.launch import Launch
from tecogan_dist.training.ray.watchdog import Watchdog
from tecogan_dist.training.reporter import PlainReporter
from tecogan_dist.training.task import Networks, TrainingTask


@dataclass(frozen=True)
class Ended:
    """The training is over; ``failure`` says in one sentence why it has failed, if it has."""

    failure: str | None = None


class TrialTraining:
    """A training that has been started. :meth:`next` gives its news, the last of which is :class:`Ended`."""

    def __init__(self, run: Callable[[TrialTraining], None]) -> None:
        self._news: queue.Queue[News | Ended] = queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(run,), name="training", daemon=True)
        self._thread.start()

    def tell(self, news: News) -> None:
        """Called by the training."""
        self._news.put(news)

    def asked_to_stop(self) -> bool:
        return self._stop.is_set()

    def next(self, timeout: float) -> News | Ended | None:
        """The next news; None if there are none in so many seconds."""
        try:
            return self._news.get(timeout=timeout)
        except queue.Empty:
            return None

    def stop(self, timeout: float) -> None:
        """Have it end after its present step, with a checkpoint, and wait for that, but not longer than ``timeout``."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self, run: Callable[[TrialTraining], None]) -> None:
        try:
            run(self)
        except BaseException as error:  # whatever it is, the trial has to hear of it
            self._news.put(Ended(reason(error)))
        else:
            self._news.put(Ended())


def train_here(task: TrainingTask, networks: Networks, *, use_gpu: bool) -> TrialTraining:
    """Train in this process, as the only worker of its own group: on DeepSpeed, as ``tecogan train`` does."""
    device = torch.device("cuda", 0) if use_gpu else torch.device("cpu")

    def run(training: TrialTraining) -> None:
        reporter = PlainReporter(
            say=lambda line: training.tell(Line(line)),
            log=lambda step, metrics: training.tell(Progress(step, metrics)),
            measured=lambda step, values: training.tell(Measured(step, values)),
            checkpoint=lambda step: training.tell(Saved(step)),
            asked_to_stop=training.asked_to_stop,
        )
        watchdog = Watchdog(task.config.cluster.step_timeout, say=reporter.say, rank=0)
        here = dataclasses.replace(task, facts=with_nodes(task.facts, nodes()))
        try:
            with _group_of_one(device):
                train(here, device=device, reporter=reporter, networks=networks, heartbeat=watchdog.heartbeat)
        finally:
            watchdog.close()

    return TrialTraining(run)


def train_on_workers(task: TrainingTask, networks: Networks, *, use_gpu: bool) -> TrialTraining:
    """Train on Ray Train's workers."""

    def run(training: TrialTraining) -> None:
        launched = Launch(task, networks=networks, use_gpu=use_gpu)
        asked = False

        def show(news: list[News]) -> None:
            nonlocal asked
            for item in news:
                training.tell(item)
            if training.asked_to_stop() and not asked:
                asked = True
                launched.ask_to_stop()

        launched.watch(show)
        launched.end()

    return TrialTraining(run)


@contextlib.contextmanager
def _group_of_one(device: torch.device) -> Iterator[None]:
    # What a launcher sets, and DeepSpeed reads.
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def reason(error: BaseException) -> str:
    """Why a training has failed, in one sentence."""
    user_error = find_user_error(error)
    if user_error is not None:
        return str(user_error)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return out_of_memory(error)
    if isinstance(error, UserError):
        return str(error)
    text = (str(error).strip() or "no reason given").splitlines()[-1].rstrip(".")
    return f"it failed ({type(error).__name__}: {text})."
