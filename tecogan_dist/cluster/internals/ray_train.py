"""What is used of Ray Train that has no public name, as read in Ray 2.60.0."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError as WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback as ControllerCallback
from ray.train.v2._internal.execution.controller.state import PreemptingState as PreemptingState
from ray.train.v2._internal.execution.controller.state import ReschedulingState as ReschedulingState
from ray.train.v2._internal.execution.controller.state import ResizingState as ResizingState


class LeanTrainer(TorchTrainer):
    """Ray's, without two actors that have nothing to do, a second each of a start on two cores.

    One would hand out datasets, which our workers do not get from Ray Train. The other gives back the workers' places
    when the run is gone and Ray goes on: not needed where Ray ends with the run (``ends_with_ray``), as one inside
    ``tecogan train`` does, and needed for a sweep's trials.
    """

    def __init__(self, *arguments: Any, ends_with_ray: bool, **keywords: Any) -> None:
        self._ends_with_ray = ends_with_ray
        super().__init__(*arguments, **keywords)

    def _create_default_callbacks(self) -> list[Any]:
        needless = (DatasetsCallback, PlacementGroupCleanerCallback) if self._ends_with_ray else (DatasetsCallback,)
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # Ray chooses the class at run time
        return [callback for callback in callbacks if not isinstance(callback, needless)]
