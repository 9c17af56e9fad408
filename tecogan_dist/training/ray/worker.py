"""The training loop inside a Ray Train worker."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from tecogan_dist.base.storage import UnreachableError
from tecogan_dist.cluster.facts import nodes
from tecogan_dist.cluster.ray_errors import find_user_error
from tecogan_dist.data.stream.stream import training_stream
from tecogan_dist.runs.facts import with_nodes
from tecogan_dist.training.device import out_of_memory
from tecogan_dist.training.loop import LAST_SECONDS, Stream, train
from tecogan_dist.training.ray.board import FirstWorker
from tecogan_dist.training.ray.watchdog import Watchdog
from tecogan_dist.training.task import TrainingTask

FOLLOWING_SECONDS = 10.0
"""In which the first worker fails too, if all do."""


def train_worker(task: TrainingTask, *, networks: ray.ObjectRef, board: Any, stream: Stream = training_stream) -> None:
    """:func:`train` with ``networks`` from Ray's object store. ``board`` is the driver's actor for messages.

    Checkpoints go to the run's output by themselves and are found there: Ray Train only starts and replaces workers.
    """
    reporter = RayReporter(board)
    rank = ray.train.get_context().get_world_rank()
    watchdog = Watchdog(task.config.cluster.step_timeout, say=reporter.say, rank=rank)

    def heartbeat(patience: float) -> None:
        watchdog.heartbeat(patience)
        if rank == 0 and patience:
            board.first_is.remote(FirstWorker.ENDS)

    try:
        if rank == 0:  # the cluster as it is in this attempt, for the run's records
            ray.get(board.first_is.remote(FirstWorker.TRAINS))
            task = dataclasses.replace(task, facts=with_nodes(task.facts, nodes()))
        train(
            task,
            device=ray.train.torch.get_device(),
            reporter=reporter,
            networks=ray.get(networks),
            stream=stream,
            heartbeat=heartbeat,
        )
    except torch.cuda.OutOfMemoryError as error:
        _give_up(board, out_of_memory(error))
        raise
    except UnreachableError:
        raise  # storage that fails for a while: the next attempt may find it
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is not None:
            _give_up(board, str(user_error))
            if rank:
                _wait_for_the_first(board)
        raise
    finally:
        watchdog.close()
        if rank == 0:
            ray.get(board.first_is.remote(FirstWorker.HAS_ENDED))


def _give_up(board: Any, sentence: str) -> None:
    # The controller looks there before it starts another attempt.
    ray.get(board.give_up.remote(sentence))


def _wait_for_the_first(board: Any) -> None:
    """All workers fail together, and Ray ends them all as soon as it sees one that has: the first one's records of it
    would be lost. Where it does not fail, and waits for this worker, that is over soon."""
    begun = time.monotonic()
    while (where := ray.get(board.first.remote())) is not FirstWorker.HAS_ENDED:
        if time.monotonic() - begun > (LAST_SECONDS if where is FirstWorker.ENDS else FOLLOWING_SECONDS):
            return
        time.sleep(0.2)


class RayReporter:
    """Everything to the driver's board."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._question: Any = None
        self._stop = self._save = False

    def say(self, line: str) -> None:
        self._board.say.remote(line)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._board.log.remote(step, metrics)

    def measured(self, step: int, values: dict[str, float]) -> None:
        self._board.measured.remote(step, values)

    def checkpoint(self, step: int) -> None:
        self._board.checkpoint.remote(step)

    def asked_to_stop(self) -> bool:
        # One question is always on its way; its answer is read when it is there.
        if self._question is None:
            self._question = self._board.asked.remote()
        if ray.wait([self._question], timeout=0)[0]:
            self._stop, self._save = ray.get(self._question)
            self._question = None
        return self._stop

    def asked_to_save(self) -> bool:
        return self._save

    def saved(self) -> None:
        ray.get(self._board.saved.remote())
        self._question, self._save = None, False  # an answer that is on its way may be older
