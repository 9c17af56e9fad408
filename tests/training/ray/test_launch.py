"""How a run is handed to Ray Train."""

from __future__ import annotations

import pytest
import ray.train

from tecogan_dist.cluster.internals.ray_train import LeanTrainer

NEEDED = {"BackendSetupCallback", "UserCallbackHandler"}


@pytest.mark.parametrize(("ends_with_ray", "cleans_up"), [(True, False), (False, True)])
def test_actors_that_have_nothing_to_do_are_not_started(ends_with_ray: bool, cleans_up: bool) -> None:
    trainer = LeanTrainer(
        lambda: None,
        scaling_config=ray.train.ScalingConfig(),
        run_config=ray.train.RunConfig(),
        ends_with_ray=ends_with_ray,
    )
    names = {type(callback).__name__ for callback in trainer._create_default_callbacks()}
    assert names >= NEEDED
    assert "DatasetsCallback" not in names
    assert ("PlacementGroupCleanerCallback" in names) == cleans_up
    assert ("WithoutMeetings" in names) == ends_with_ray
