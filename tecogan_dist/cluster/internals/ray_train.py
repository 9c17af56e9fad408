"""What is used of Ray Train that has no public name, read in Ray 2.60.0. Its controller imports it: no torch here."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray._private.ray_constants import env_integer
from ray.exceptions import GetTimeoutError
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.constants import (
    DEFAULT_TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S,
    TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S,
)
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError as WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback as ControllerCallback
from ray.train.v2._internal.execution.controller.state import PreemptingState as PreemptingState
from ray.train.v2._internal.execution.controller.state import ReschedulingState as ReschedulingState
from ray.train.v2._internal.execution.controller.state import ResizingState as ResizingState
from ray.train.v2._internal.execution.worker_group import state as group_state
from ray.train.v2._internal.execution.worker_group import worker_group as groups
from ray.train.v2._internal.util import TrainingFramework
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class LeanTrainer(DataParallelTrainer):
    """Ray's ``TorchTrainer``, without actors that have nothing to do, up to a second each of a start on two cores.

    One would hand out datasets, which our workers do not get from Ray Train. Two more are not needed where Ray ends
    with the run (``ends_with_ray``), as one inside ``tecogan train`` does. One of them gives back the workers' places
    when the run is gone and Ray goes on, as after a sweep's trial. At the other workers wait for each other when they
    report to Ray Train, which ours do not; where machines may be taken away, the controller calls it, too.
    """

    def __init__(self, *arguments: Any, ends_with_ray: bool, **keywords: Any) -> None:
        self._ends_with_ray = ends_with_ray
        super().__init__(*arguments, **keywords)

    def _create_default_callbacks(self) -> list[Any]:
        needless = (DatasetsCallback, PlacementGroupCleanerCallback) if self._ends_with_ray else (DatasetsCallback,)
        callbacks = super()._create_default_callbacks()
        more = [WithoutMeetings()] if self._ends_with_ray else []
        return [callback for callback in callbacks if not isinstance(callback, needless)] + more


class WithoutMeetings(ControllerCallback):
    """Runs in the controller: workers get no actor to meet at. One that reports to Ray Train all the same fails."""

    def after_controller_start(self, train_run_context: Any) -> None:  # noqa: ARG002  # as Ray calls it
        groups.SynchronizationActor = _Nobody  # type: ignore[misc, assignment]  # a stand-in for a class
        group_state._shutdown_sync_actor = _end_nobody  # type: ignore[assignment]  # one that takes anything


class _Nobody:
    """In the actor's place: made like it, and there is nothing of it."""

    @classmethod
    def options(cls, **_options: Any) -> type[_Nobody]:
        return cls

    @staticmethod
    def remote(**_given: Any) -> str:
        return "nobody"


def _end_nobody(_actor: Any) -> None:
    pass


@dataclass
class TorchInWorkers(BackendConfig):
    """Ray's ``TorchConfig``, for a controller without torch, whose import takes a second there.

    The controller has the workers call what Ray's own has them call, and imports torch for nothing else.
    """

    backend: str
    """Of torch's process group: gloo or nccl."""
    timeout_s: int
    """Of its collectives, in seconds."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _TorchInWorkers

    @property
    def train_func_context(self) -> Any:
        from ray.train.torch.config import TorchConfigContextManager  # asked for by the driver, which has torch

        return TorchConfigContextManager

    @property
    def framework(self) -> TrainingFramework:
        return TrainingFramework.TORCH

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class _TorchInWorkers(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        host, port = worker_group.execute_single(0, get_address_and_port)
        worker_group.execute(_prepare, host=host, port=port)  # all import torch, which takes some longer than others
        size = len(worker_group)
        given = asdict(backend_config) | {"world_size": size}
        ray.get([worker_group.execute_single_async(rank, _join, world_rank=rank, **given) for rank in range(size)])

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:  # noqa: ARG002  # as Ray calls it
        left = worker_group.execute_async(_leave, destroy=len(worker_group) > 1)
        name, default = TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S, DEFAULT_TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
        seconds = env_integer(name, default)
        try:
            ray.get(left, timeout=seconds)
        except GetTimeoutError:
            print(f"torch's process group has not ended within {seconds} s; its processes are ended now", flush=True)


def _prepare(*, host: str, port: int) -> None:
    """In a worker: say where the workers meet."""
    from ray.train.torch.config import _set_torch_distributed_env_vars

    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
    _set_torch_distributed_env_vars()


def _join(*, world_rank: int, world_size: int, backend: str, timeout_s: int) -> None:
    """In a worker: enter torch's process group."""
    from ray.train.torch.config import _setup_torch_process_group

    _setup_torch_process_group(backend, world_rank, world_size, init_method="env://", timeout_s=timeout_s)


def _leave(*, destroy: bool) -> None:
    """In a worker: leave it."""
    from ray.train.torch.config import _shutdown_torch

    _shutdown_torch(destroy_process_group=destroy)
