"""What is used of Ray Tune that has no public name, as read in Ray 2.60.0."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.schedulers.pb2 import PB2


class _AfterFailures:
    """Synchronous PBT waits for every trial of the population, for ever also for one that has failed.

    Here the failed one leaves; and if it was the last that was waited for, the others exchange.
    """

    def on_trial_error(self: Any, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]
        living = tune_controller.get_live_trials()
        living.discard(trial)
        self._trial_state[trial].last_score = None  # nobody copies from it
        states = {other: self._trial_state[other] for other in living if not other.is_finished()}
        if states and all(state.last_train_time >= self._next_perturbation_sync for state in states.values()):
            other, state = next(iter(states.items()))
            self.on_trial_result(tune_controller, other, state.last_result)


class SynchronousPbt(_AfterFailures, PopulationBasedTraining):
    """PBT whose trials wait for each other at every exchange, without those that fail."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(synch=True, **settings)


class SynchronousPb2(_AfterFailures, PB2):
    """PB2 likewise."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(synch=True, **settings)
