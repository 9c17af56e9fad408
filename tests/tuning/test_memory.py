"""A machine that runs out of memory: Ray ends the trial's process, and the others go on."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
from ray import tune
from ray._private.utils import get_system_memory, get_used_memory

from tecogan_dist.cluster.internals.ray_tune import trials_may_run_out_of_memory
from tecogan_dist.tuning.ledger import NO_MEMORY, how_it_died
from tecogan_dist.tuning.sweep import quiet_tune
from tests.support.local_ray import small_ray

MORE = 4 * 2**30
"""Bytes above what is in use now, from which on Ray ends processes: more than other tests begin to use meanwhile."""


class Greedy(tune.Trainable):
    """Takes memory until its process is ended, in the first trial only."""

    def step(self) -> dict[str, Any]:
        taken: list[bytes] = []
        while self.config["greedy"] and len(taken) < 100:
            taken.append(b"x" * 2**27)
            time.sleep(0.05)
        return {"done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_trial_that_runs_out_of_memory_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threshold = min(0.95, (get_used_memory() + MORE) / get_system_memory())  # of a container, in one
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{threshold:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    with small_ray(cpus=1), quiet_tune(), trials_may_run_out_of_memory():
        tuner = tune.Tuner(
            tune.with_resources(Greedy, {"CPU": 1}),
            param_space={"greedy": tune.grid_search([True, False])},
            run_config=tune.RunConfig(name="trials", storage_path=str(tmp_path), verbose=0),
        )
        results = tuner.fit()
    greedy, modest = results[0], results[1]
    assert modest.error is None
    assert isinstance(greedy.error, ray.exceptions.RayActorError)
    assert how_it_died(cast(Any, SimpleNamespace(error_file=f"{greedy.path}/error.txt"))) == NO_MEMORY
