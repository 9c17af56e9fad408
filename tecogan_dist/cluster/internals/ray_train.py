"""What is used of Ray Train that has no public name, as read in Ray 2.60.0."""

from __future__ import annotations

from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError as WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback as ControllerCallback
from ray.train.v2._internal.execution.controller.state import PreemptingState as PreemptingState
from ray.train.v2._internal.execution.controller.state import ReschedulingState as ReschedulingState
from ray.train.v2._internal.execution.controller.state import ResizingState as ResizingState
