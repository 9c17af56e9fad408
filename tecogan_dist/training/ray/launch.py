"""A run on the connected Ray: started, watched to its end, asked to stop."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.capacity import resources_per_worker
from tecogan_dist.cluster.embedded import ends_with_this_process
from tecogan_dist.cluster.internals.ray_train import LeanTrainer, TorchInWorkers
from tecogan_dist.cluster.ray_errors import ACTOR_GONE
from tecogan_dist.runs.checkpoints import newest_checkpoint, read_state
from tecogan_dist.training.ray.board import Board, News
from tecogan_dist.training.ray.failures import AfterFailure, BeforeChange, explained
from tecogan_dist.training.ray.worker import train_worker
from tecogan_dist.training.task import Networks, TrainingTask


@dataclass(frozen=True)
class RunEnd:
    """Where a run that ended in order is."""

    checkpoint: Location
    step: int
    seconds: float


class Launch:
    """A run that has been started on the connected Ray."""

    def __init__(self, task: TrainingTask, *, networks: Networks, use_gpu: bool) -> None:
        self._task, self._started = task, time.monotonic()
        # Beside the driver: on another machine it could be lost while the run goes on.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._board: Any = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here).remote()
        trainer = _trainer(task, networks=ray.put(networks), board=self._board, use_gpu=use_gpu)
        self._outcome: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._fit, args=(trainer,), daemon=True).start()

    def ask_to_stop(self) -> None:
        """Have the run end after its present step, with a checkpoint."""
        self._board.ask_to_stop.remote()

    def watch(self, show: Callable[[list[News]], None]) -> None:
        """Wait until the run has ended, showing what the workers say."""
        try:
            while self._outcome.empty():
                show(ray.get(self._board.take.remote()))
                time.sleep(0.3)
            show(ray.get(self._board.take.remote()))
        except ACTOR_GONE as error:
            raise explained(error, self._task.output) from error

    def end(self) -> RunEnd:
        """Where the run is, after :meth:`watch`. Raises what ended it, explained."""
        result = self._outcome.get()
        if isinstance(result, BaseException):
            raise explained(result, self._task.output)
        checkpoint = newest_checkpoint(self._task.output)
        if checkpoint is None:
            raise UserError(
                f"the run has ended, and no checkpoint is in {self._task.output}: the same command begins it "
                "again; if that happens twice, something else removes files there."
            )
        return RunEnd(checkpoint, read_state(checkpoint).state.step, time.monotonic() - self._started)

    def _fit(self, trainer: LeanTrainer) -> None:
        # Not in the main thread: there Ray would take Ctrl-C for itself.
        try:
            self._outcome.put(trainer.fit())
        except BaseException as error:
            self._outcome.put(error)


def _trainer(task: TrainingTask, *, networks: ray.ObjectRef, board: Any, use_gpu: bool) -> LeanTrainer:
    config, cluster = task.config, task.config.cluster
    callbacks: list[Any] = [
        AfterFailure(board, max_failures=cluster.max_failures),
        BeforeChange(board, elastic=cluster.min_workers is not None),
    ]
    storage, name = storage_of(task.output)
    # Ray takes (min, max) too, which its annotation does not say yet.
    workers: Any = cluster.workers if cluster.min_workers is None else (cluster.min_workers, cluster.workers)
    return LeanTrainer(
        lambda: train_worker(task, networks=networks, board=board),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=use_gpu,
            resources_per_worker=resources_per_worker(config, use_gpu=use_gpu),
            placement_strategy=cluster.placement,
            accelerator_type=cluster.accelerator_type,
        ),
        run_config=ray.train.RunConfig(
            name=name,
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
            callbacks=callbacks,
            **storage,
        ),
        backend_config=TorchInWorkers(
            backend="nccl" if use_gpu else "gloo",
            timeout_s=int(2 * cluster.step_timeout) + 60,  # the watchdog notices first, and says so
        ),
        ends_with_ray=ends_with_this_process(),
    )


def storage_of(output: Location) -> tuple[dict[str, Any], str]:
    """Where Ray Train keeps its own notes of the run, beside the run's files, and their name there."""
    if output.is_local:
        return {"storage_path": str(output.path.parent)}, output.name
    files, path = output.filesystem()
    return {"storage_filesystem": files, "storage_path": path.rpartition("/")[0]}, output.name
