"""What is used of Ray Tune that has no public name, as read in Ray 2.60.0."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, PopulationBasedTraining, TrialScheduler
from ray.tune.schedulers.pb2 import PB2


class _Synchronous:
    """What PBT and PB2 lack when all trials wait for each other at every exchange.

    They draw from the process's generators, so that a repeated sweep would choose otherwise: here each exchange has a
    seed of its own. And they wait for every trial of the population, for ever also for one that has failed: here the
    failed one leaves, and if it was the last that was waited for, the others exchange.

    It goes before a scheduler in a class's bases: what it calls of ``super()``, mypy looks for in ``object``.
    """

    def __init__(self, *, seed: int, time_attr: str, **settings: Any) -> None:
        super().__init__(synch=True, time_attr=time_attr, **settings)  # type: ignore[call-arg]  # a scheduler's
        self._exchange_seed = seed

    def on_trial_result(self: Any, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> Any:
        random.seed(f"{self._exchange_seed} {result[self._time_attr]}")
        np.random.seed(random.getrandbits(32))
        return super().on_trial_result(tune_controller, trial, result)  # type: ignore[misc]  # a scheduler's

    def on_trial_error(self: Any, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]  # a scheduler's
        tune_controller.get_live_trials().discard(trial)  # the controller's own set, where it would stay
        self._trial_state[trial].last_score = None  # nobody copies from it
        others = [other for other in tune_controller.get_trials() if other != trial and not other.is_finished()]
        states = [self._trial_state[other] for other in others]
        if others and all(state.last_train_time >= self._next_perturbation_sync for state in states):
            self.on_trial_result(tune_controller, others[0], states[0].last_result)


class SynchronousPbt(_Synchronous, PopulationBasedTraining):
    """PBT whose trials wait for each other at every exchange."""


class SynchronousPb2(_Synchronous, PB2):
    """PB2 likewise."""


class _Remembering:
    """A scheduler that stops trials, and that keeps to what it has decided before.

    A decision depends on the results that were there when it was taken. A sweep that goes on hears the old results in
    another order, with several trials at a time, and would stop others than it did. It knows afterwards what it knew:
    the results are the same.

    ``decided`` is the key of a result that says what was decided about it earlier, STOP or CONTINUE of Ray Tune's, or
    None. Like :class:`_Synchronous` it goes before a scheduler in a class's bases.
    """

    def __init__(self, *, decided: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._decided = decided

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(tune_controller, trial, result)  # type: ignore[misc]  # a scheduler's
        earlier: str | None = result[self._decided]
        if decision == TrialScheduler.STOP and earlier == TrialScheduler.CONTINUE:
            self.take_back(trial)
        return earlier or decision

    def take_back(self, trial: Trial) -> None:
        """Have the trial not count as stopped."""


class RememberingAsha(_Remembering, AsyncHyperBandScheduler):
    """ASHA that keeps to its decisions."""


class RememberingMedian(_Remembering, MedianStoppingRule):
    """The median stopping rule likewise."""

    def take_back(self, trial: Trial) -> None:
        self._stopped_trials.discard(trial)


@contextlib.contextmanager
def trials_may_run_out_of_memory() -> Iterator[None]:
    """Meanwhile a trial that Ray ends because its machine runs out of memory counts as one whose process died.

    Ray Tune takes that for a failure of its own, and ends all trials.
    """
    handle = RayActorManager._actor_task_failed

    def handle_all(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        handle(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = handle_all  # type: ignore[method-assign]  # until the end of the block
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = handle  # type: ignore[method-assign]  # Ray's own again
