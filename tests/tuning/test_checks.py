"""Searches: what is refused before anything starts, and the configs of trials."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.config import load as settings
from tecogan_dist.config.leaves import leaves
from tecogan_dist.config.overrides import override
from tecogan_dist.config.schema import Config
from tecogan_dist.metrics.perceptual import WEIGHTS_VARIABLE
from tecogan_dist.tuning.checks import check_space, check_weights
from tecogan_dist.tuning.configs import (
    full_config,
    largest_perceptual,
    needed_metrics,
    number_of_trials,
    preset_values,
    trial_config,
)
from tecogan_dist.tuning.space import Grid, Pb2, Pbt, Space
from tecogan_dist.tuning.values import corners
from tests.support.lpips_files import write_trunk
from tests.support.spaces import BASE, PARETO, RANKS, TREE, TWO_GRIDS, one_sentence, searching, space_of


def refusal(space: Space, base: Config = BASE) -> str:
    with pytest.raises(UserError) as caught:
        check_space(space, base, source="mine.yaml")
    return one_sentence(caught.value)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        # names
        ({"settings": {"loss.ping_pong": {"choice": [1]}}}, "no setting loss.ping_pong: did you mean loss.pingpong?"),
        ({"fixed": {"loss": {"warp": 1}}}, "fixed: there is no setting loss: did you mean loss.warp?"),
        ({"fixed": {"loss.pingpong": 1.0}}, "loss.pingpong is in settings and in fixed: take it out of one"),
        ({"settings": {"seed": {"randint": [1, 9]}}}, "settings: seed has to be the same in all trials"),
        ({"settings": {"batch_size": {"choice": [4, 8]}}}, "batch_size has to be the same in all trials"),
        ({"settings": {"accumulation": {"choice": [1, 2]}}}, "set it under fixed or on the command line"),
        ({"settings": {"steps": {"choice": [1, 2]}}}, "so that they compare: write the space's steps"),
        ({"settings": {"initial_weights": {"choice": ["a"]}}}, "give --initial-weights to the command"),
        ({"settings": {"data.crop_size": {"choice": [32]}}}, "data.crop_size has to be the same"),
        ({"settings": {"model.blocks": {"choice": [10, 16]}}}, "model.blocks has to be the same"),
        ({"settings": {"cluster.zero_stage": {"choice": [0, 1]}}}, "cluster.zero_stage has to be the same"),
        ({"settings": {"tracking.best": {"choice": ["tof"]}}}, "the first of the space's score.metrics decides"),
        ({"settings": {"perceptual.weights": {"choice": ["a"]}}}, "perceptual.weights has to be the same"),
        ({"fixed": {"seed": 9}}, "fixed: seed is not set here: give --seed to the command"),
        ({"fixed": {"steps": 9}}, "fixed: steps is not set here: write the space's steps"),
        ({"fixed": {"cluster.workers": 2}}, "write the space's trial.workers"),
        ({"fixed": {"cluster.min_workers": 1}}, "a trial waits for all of the space's trial.workers"),
        ({"fixed": {"cluster.cpus_per_worker": 2}}, "write the space's trial.cpus_per_worker"),
        ({"fixed": {"cluster.resources_per_worker": {}}}, "write the space's trial.resources_per_worker"),
        ({"fixed": {"cluster.address": "auto"}}, "give --cluster.address to the command"),
        ({"fixed": {"initial_weights": "runs/frvsr"}}, "give --initial-weights to the command"),
        ({"fixed": {"tracking.validate_every": 5}}, "write the space's measure_every"),
        ({"fixed": {"tracking.save_every": 5}}, "write the space's measure_every"),
        ({"fixed": {"tracking.keep_checkpoints": 5}}, "a sweep keeps what its scheduler needs"),
        ({"fixed": {"tracking.best": "tof"}}, "the first of the space's score.metrics decides"),
        # score
        ({"score": {"metrics": {"psnr": "min"}}}, "psnr is better the higher it is: write psnr: max"),
        ({"score": {"metrics": {"tlp": "max"}}}, "tlp is better the lower it is: write tlp: min"),
        ({"score": {"metrics": {}}}, "score.metrics is empty: name what counts"),
        ({"score": {**RANKS, "combine": "one"}}, "score.combine one ranks by one metric, and score.metrics has 2"),
        ({"score": {"metrics": {"tof": "min"}, "combine": "ranks"}}, "score.combine ranks needs two metrics or more"),
        ({"score": {"metrics": {"tof": "min"}, "combine": "pareto"}}, "score.combine pareto needs two metrics"),
        ({"score": {**PARETO, "weights": {"tof": 2.0}}}, "score.weights are of ranks, and score.combine is pareto"),
        ({"score": {**TREE["score"], "weights": {"tof": 2.0}}}, "score.weights are of ranks, and score.combine is one"),
        ({"score": {**RANKS, "weights": {"tlp": 2.0}}}, "score.weights: tlp is not among score.metrics"),
        # steps
        ({"steps": 70}, "steps 70 is not a multiple of measure_every 15"),
        ({"scheduler": {"kind": "asha", "grace_steps": 20}}, "scheduler.grace_steps 20 is not a multiple"),
        ({"scheduler": {"kind": "median", "grace_steps": 60}}, "scheduler.grace_steps 60 has to be below steps 60"),
        ({"scheduler": {"kind": "asha"}, "measure_every": 60}, "measure_every 60 has to be below steps 60"),
        ({"scheduler": {"kind": "pbt", "interval_steps": 7}}, "scheduler.interval_steps 7 is not a multiple"),
        ({"scheduler": {"kind": "pb2", "interval_steps": 75}}, "interval_steps 75 has to be below steps 60: pb2 would"),
        # searchers
        ({"searcher": {"kind": "grid"}}, "loss.pingpong is loguniform, and searcher grid takes grids only"),
        (
            {"settings": TWO_GRIDS},
            "loss.warp is a grid, and searcher random draws values: write choice, or set searche",
        ),
        ({"settings": TWO_GRIDS, "searcher": {"kind": "optuna"}}, "searcher optuna draws values"),
        (
            {"settings": TWO_GRIDS, "searcher": {"kind": "grid"}, "trials": 5},
            "the grid has 6 combinations (3 x 2), and trials is 5: raise it, or take values out",
        ),
        ({"trials": None}, "trials is missing: say how many are tried"),
        ({"score": RANKS, "searcher": {"kind": "optuna"}}, "name the metric that optuna is told (searcher.metric)"),
        (
            {"score": RANKS, "searcher": {"kind": "optuna", "sampler": "nsga2"}},
            "name the metric that optuna is told (searcher.metric)",
        ),
        (
            {"score": PARETO, "searcher": {"kind": "optuna", "metric": "tof"}},
            "with score.combine pareto, optuna is told all of score.metrics: leave searcher.metric out",
        ),
        ({"searcher": {"kind": "optuna"}}, "tpe would never choose: the first 10 trials (searcher.startup_trials) are"),
        (
            {"searcher": {"kind": "optuna", "sampler": "nsga2", "startup_trials": 8}},
            "nsga2 would never choose: the first 8 trials (searcher.startup_trials) are its population",
        ),
        # schedulers
        ({"score": RANKS, "scheduler": {"kind": "asha"}}, "name the metric that asha compares (scheduler.metric)"),
        ({"score": RANKS, "scheduler": {"kind": "pbt"}}, "a sum of ranks is known only when all trials are there"),
        ({"score": PARETO, "scheduler": {"kind": "median"}}, "median compares one number, and score.metrics has more"),
        ({"score": PARETO, "scheduler": {"kind": "pb2"}}, "name the metric that pb2 compares"),
        (
            {"scheduler": {"kind": "pbt"}, "searcher": {"kind": "optuna", "startup_trials": 2}},
            "pbt changes settings itself, from random ones on: leave searcher optuna out",
        ),
        (
            {"scheduler": {"kind": "pbt"}, "searcher": {"kind": "grid"}, "settings": TWO_GRIDS},
            "pbt changes settings itself, from random ones on: leave searcher grid out",
        ),
        ({"scheduler": {"kind": "pbt"}, "trials": 3}, "trials is pbt's population, which needs 4 at least, not 3"),
        (
            {"scheduler": {"kind": "pbt"}, "settings": {"discriminator.temporal_only": {"choice": [True, False]}}},
            "which fit one discriminator.temporal_only: fix it",
        ),
        (
            {"scheduler": {"kind": "pbt"}, "settings": {"loss.adversarial": {"choice": [0.01, 0]}}},
            "with loss.adversarial 0 there is no discriminator among them: keep it above 0",
        ),
        ({"scheduler": {"kind": "pb2"}}, "settings: loss.pingpong: pb2 takes uniform ranges of fractional numbers"),
        (
            {"scheduler": {"kind": "pb2"}, "settings": {"optimizer.decay_steps": {"uniform": [1, 9]}}},
            "settings: optimizer.decay_steps: pb2 takes uniform ranges",
        ),
        (
            {
                "scheduler": {"kind": "pb2"},
                "settings": {"loss.warp": {"uniform": [1, 9]}},
                "score": {"metrics": {"tlp": "min"}, "limits": {"lpips": 0.2}},
            },
            "leave score.limits out, or use pbt",
        ),
        # trials
        ({"trial": {"workers": 2, "gpus_per_worker": 0.5}}, "trial.gpus_per_worker 0.5 goes with one worker"),
        ({"trial": {"workers": 3}}, "with trial.workers 3, batch_size 4 cannot be divided among 3 workers"),
        ({"repeat": {"top": 9}}, "repeat.top 9 is above the 8 trials that there are: lower it"),
        # values
        (
            {"settings": {"loss.warp": {"uniform": [-1, 1]}}},
            "settings: loss.warp: input should be greater than or equa",
        ),
        (
            {"settings": {"optimizer.beta1": {"uniform": [0.5, 1]}}},
            "optimizer.beta1: input should be less than 1, not 1",
        ),
        (
            {"settings": {"discriminator.temporal_crop": {"choice": [0.5, 1.5]}}},
            "temporal_crop: input should be less than or equal to 1, not 1.5",
        ),
        (
            {"settings": {"optimizer.kind": {"choice": ["adam", "sgd"]}}},
            "input should be 'adam' or 'adam_tf1', not 'sg",
        ),
        ({"settings": {"optimizer.kind": {"uniform": [0, 1]}}}, "optimizer.kind is one of adam, adam_tf1: write a cho"),
        ({"settings": {"loss.warp": {"choice": ["much"]}}}, "loss.warp: input should be a valid number"),
        ({"settings": {"loss.warp": {"choice": [0.5, True]}}}, "settings: loss.warp cannot be true"),
        ({"settings": {"optimizer.decay_steps": {"uniform": [1, 9]}}}, "is a whole number: write randint, or quniform"),
        ({"settings": {"optimizer.decay_steps": {"loguniform": [1, 9]}}}, "is a whole number: write randint"),
        ({"settings": {"optimizer.decay_steps": {"quniform": [1, 9, 0.5]}}}, "or quniform with whole numbers"),
        (
            {"settings": {"optimizer.decay_steps": {"randint": [0, 9]}}},
            "optimizer.decay_steps: input should be greater",
        ),
        (
            {"settings": {"optimizer.decay_steps": {"choice": [1.5]}}},
            "optimizer.decay_steps: input should be a valid i",
        ),
        (
            {"settings": {"discriminator.temporal_only": {"choice": [0, 1]}}},
            "is true or false: write {choice: [true, f",
        ),
        ({"settings": {"discriminator.temporal_only": {"uniform": [0, 1]}}}, "is true or false"),
        ({"settings": {"loss.feature_match_norms": {"choice": [1.0]}}}, "has several numbers and cannot be searched"),
        (
            {"settings": {"loss.adversarial": {"choice": [0.01, 0]}}},
            "with loss.adversarial 0, loss.feature_match needs the discriminator",
        ),
        (
            {
                "settings": {
                    "loss.adversarial": {"choice": [0.01, 0]},
                    "loss.warp": {"choice": [1, 2]},
                    "loss.feature_match": {"choice": [0, 0.02]},
                }
            },
            "with loss.adversarial 0 and loss.feature_match 0.02, loss.feature_match needs the discriminator",
        ),
        (
            {"fixed": {"loss.warp": -1}},
            "mine.yaml: fixed: loss.warp: input should be greater than or equal to 0, not -1",
        ),
        ({"fixed": {"data.crop_size": 30}}, "data.crop_size must be a multiple of 8"),
        (
            {"fixed": {"batch_size": 3}},
            "the best trial could not be trained at full length: batch_size 3 cannot be div",
        ),
        ({"fixed": {"data.validation_scenes": None}}, "say which with --data.validation-scenes FIRST LAST"),
    ],
)
def test_searches_that_cannot_be_done_are_one_sentence(changes: dict[str, Any], part: str) -> None:
    assert part in refusal(space_of(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"optimizer.decay_steps": {"quniform": [2, 8, 2]}}},
        {"settings": {"loss.warp": {"randint": [0, 3]}}},
        {"settings": {"loss.warp": {"quniform": [0, 0.3, 0.1]}}},
        {"settings": {"loss.adversarial": {"choice": [0.01, 0]}, "loss.feature_match": {"choice": [0]}}},
        {"settings": TWO_GRIDS, "searcher": {"kind": "grid"}, "trials": None, "repeat": {"top": 6}},
        {"settings": TWO_GRIDS, "searcher": {"kind": "grid"}, "trials": 6, "scheduler": {"kind": "asha"}},
        {"score": {"metrics": {"tlp": "min"}, "limits": {"lpips": 0.2}}, "scheduler": {"kind": "asha"}},
        {"score": {**RANKS, "weights": {"tof": 2}, "limits": {"psnr": 25}}},
        {"score": {**PARETO, "limits": {"tlp": 1}}, "searcher": {"kind": "optuna", "startup_trials": 7}},
        {"score": RANKS, "scheduler": {"kind": "pbt", "metric": "tof"}},
        {"scheduler": {"kind": "pb2"}, "settings": {"loss.warp": {"uniform": [0.5, 2]}}},
        {"trial": {"gpus_per_worker": 0.5}},
        {"trial": {"workers": 4, "gpus_per_worker": 1}},
        {"fixed": {"batch_size": 8, "data.train_scenes": [1, 9], "model.blocks": 10}},
    ],
)
def test_searches_that_can_be_done_are_not_refused(changes: dict[str, Any]) -> None:
    check_space(space_of(**changes), BASE)


def test_a_trial_differs_from_the_preset_by_what_the_space_says() -> None:
    trial = {"workers": 2, "cpus_per_worker": 3, "resources_per_worker": {"big": 0.5}}
    space = space_of(fixed={"batch_size": 8, "loss.warp": 2.0}, trial=trial)
    base = dataclasses.replace(BASE, cluster=dataclasses.replace(BASE.cluster, address="ray://head:10001"))
    assert changes_of(trial_config(base, space, {"loss.pingpong": 0.3}), base) == {
        "loss.pingpong": 0.3,
        "loss.warp": 2.0,
        "batch_size": 8,
        "steps": 60,
        "cluster.address": None,
        "cluster.cpus_per_worker": 3,
        "cluster.resources_per_worker": {"big": 0.5},
        "tracking.validate_every": 15,
        "tracking.save_every": 15,
        "tracking.best": "tof",
    }
    preset = trial_config(base, space, {})
    assert preset.loss.pingpong == base.loss.pingpong
    assert preset == trial_config(base, space, {"loss.pingpong": base.loss.pingpong})
    assert changes_of(full_config(base, space, {"loss.pingpong": 0.3}), base) == {
        "loss.pingpong": 0.3,
        "loss.warp": 2.0,
        "batch_size": 8,
    }


def test_two_trials_differ_in_nothing_but_what_is_searched() -> None:
    space = searching(
        loss__warp={"uniform": [0, 1]},
        optimizer__kind={"choice": ["adam", "adam_tf1"]},
        discriminator__temporal_only={"choice": [True, False]},
    )
    values = (
        {"loss.warp": 0.25, "optimizer.kind": "adam", "discriminator.temporal_only": True},
        {"loss.warp": 0.75, "optimizer.kind": "adam_tf1", "discriminator.temporal_only": False},
    )
    first, second = (trial_config(BASE, space, chosen) for chosen in values)
    assert changes_of(second, first) == values[1]
    assert changes_of(first, second) == values[0]


@pytest.mark.parametrize("scheduler", [Pbt(kind="pbt"), Pb2(kind="pb2", interval_steps=30)])
def test_who_may_be_copied_from_keeps_all_that_was_measured(scheduler: Pbt | Pb2) -> None:
    space = dataclasses.replace(searching(loss__warp={"uniform": [0.5, 2]}), scheduler=scheduler)
    check_space(space, BASE)
    assert trial_config(BASE, space, {}).tracking.keep_checkpoints >= space.steps // space.measure_every


def test_a_trial_waits_for_all_its_workers() -> None:
    elastic = override(BASE, ["--cluster.min-workers", "2"])
    space = space_of(trial={"workers": 1})
    check_space(space, elastic)
    assert trial_config(elastic, space, {}).cluster.min_workers is None
    assert full_config(elastic, space, {}).cluster.min_workers == 2


def test_values_that_a_setting_refuses_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"a trial's settings: loss.warp: input should be greater than or equal to 0"):
        trial_config(BASE, space_of(), {"loss.warp": -0.1})


def changes_of(config: Config, base: Config) -> dict[str, Any]:
    """Settings that are others than in ``base``."""
    before = dict(leaves(base))
    return {name: value for name, value in leaves(config) if value != before[name]}


def test_what_has_to_be_measured() -> None:
    assert needed_metrics(space_of()) == ("tof",)
    assert needed_metrics(space_of(score={"metrics": {"tlp": "min"}, "limits": {"lpips": 0.2}})) == ("lpips", "tlp")
    named = space_of(
        scheduler={"kind": "asha", "metric": "psnr"}, searcher={"kind": "optuna", "metric": "lpips"}, trials=20
    )
    check_space(named, BASE)
    assert needed_metrics(named) == ("psnr", "lpips", "tof")


@pytest.mark.parametrize("needed_by", ["metrics", "limits", "scheduler", "searcher"])
def test_lpips_without_its_weights_is_one_sentence(
    needed_by: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    check_weights(space_of())
    space = {
        "metrics": space_of(score={"metrics": {"lpips": "min"}}),
        "limits": space_of(score={**TREE["score"], "limits": {"lpips": 0.2}}),
        "scheduler": space_of(scheduler={"kind": "asha", "metric": "lpips"}),
        "searcher": space_of(searcher={"kind": "optuna", "metric": "lpips"}),
    }[needed_by]
    with pytest.raises(
        UserError, match=r"mine.yaml: lpips needs .* download https.* \$TECOGAN_LPIPS_WEIGHTS; or score b"
    ):
        check_weights(space, source="mine.yaml")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match=r"no weights of the LPIPS network are at .*none.pth.*or score by tof alone\.$"):
        check_weights(space, source="mine.yaml")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(write_trunk(tmp_path / "alexnet.pth")))
    check_weights(space)


def test_both_metrics_of_the_network_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="lpips and tlp need the weights"):
        check_weights(space_of(score={"metrics": {"tlp": "min"}, "limits": {"lpips": 0.2}}))


def test_a_grid_knows_its_number() -> None:
    space = space_of(settings=TWO_GRIDS, searcher={"kind": "grid"}, trials=50)
    assert space.searcher == Grid(kind="grid")
    assert number_of_trials(space) == 6
    assert number_of_trials(space_of()) == 8


@pytest.mark.parametrize(
    ("preset", "settings_of_space", "fixed", "largest"),
    [
        ("tecogan", {"loss.warp": {"uniform": [0.0, 1.0]}}, {}, 0.2),
        ("tecogan", {"loss.warp": {"uniform": [0.0, 1.0]}}, {"loss.perceptual": 0.0}, 0.0),
        ("tecogan", {"loss.perceptual": {"uniform": [0.0, 0.1]}}, {}, 0.2),  # the preset's own
        ("tecogan", {"loss.perceptual": {"loguniform": [0.1, 0.9]}}, {}, 0.9),
        ("smoke_tecogan", {"loss.warp": {"uniform": [0.0, 1.0]}}, {}, 0.0),
        ("smoke_tecogan", {"loss.perceptual": {"choice": [0.3, 0.5, 0]}}, {}, 0.5),
    ],
)
def test_vgg_is_needed_where_a_trial_or_the_preset_has_a_perceptual_loss(
    preset: str, settings_of_space: dict[str, Any], fixed: dict[str, Any], largest: float
) -> None:
    space = space_of(settings=settings_of_space, fixed=fixed)
    assert largest_perceptual(settings.load(preset), space) == largest


def test_the_preset_has_values_of_what_is_searched() -> None:
    space = space_of(settings={"loss.pingpong": {"choice": [1]}, "optimizer.kind": {"choice": ["adam", "adam_tf1"]}})
    values = {"loss.pingpong": BASE.loss.pingpong, "optimizer.kind": "adam"}
    assert preset_values(BASE, space) == values
    assert trial_config(BASE, space, values) == trial_config(BASE, space, {})


def test_any_two_settings_meet_at_any_of_their_ends() -> None:
    """The rules of a config are about two of the searched settings at most."""
    space = searching(
        loss__warp={"uniform": [0, 1]},
        loss__pingpong={"choice": [0.1, 0.2, 0.3]},
        optimizer__max_bad_steps={"randint": [1, 4]},
    )
    seen = [tuple(values.values()) for values in corners(space.settings)]
    ends = ((0.0, 1.0), (0.1, 0.2, 0.3), (1, 3))
    for (i, first), (j, second) in itertools.combinations(enumerate(ends), 2):
        assert {(values[i], values[j]) for values in seen} == set(itertools.product(first, second))
    assert list(corners(space_of().settings)) == [{"loss.pingpong": 0.05}, {"loss.pingpong": 5.0}]
