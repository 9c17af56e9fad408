"""Searchers and schedulers: what is drawn and chosen can be repeated, and stays where the space says."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray import tune
from ray.tune.experiment import Experiment, Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.schedulers.pb2 import PB2
from ray.tune.schedulers.pbt import PopulationBasedTraining
from ray.tune.search import BasicVariantGenerator, Searcher

from tecogan_dist.tuning.checks import check_space
from tecogan_dist.tuning.configs import trial_config
from tecogan_dist.tuning.ranking import merit
from tecogan_dist.tuning.records import DECIDED
from tecogan_dist.tuning.schedulers import MERIT, make_scheduler, make_searcher, steering, within
from tecogan_dist.tuning.space import Space
from tests.support.spaces import BASE, PARETO, RANKS, TWO_GRIDS, space_of

ALL_KINDS = {
    "loss.warp": {"uniform": [0.5, 2.0]},
    "loss.pingpong": {"loguniform": [0.05, 5.0]},
    "optimizer.beta1": {"quniform": [0.5, 0.9, 0.1]},
    "optimizer.decay_steps": {"randint": [10, 20]},
    "optimizer.kind": {"choice": ["adam", "adam_tf1"]},
    "discriminator.balance_threshold": {"choice": [0.2, 0.4, 0.6]},
}
Values = dict[str, Any]


def drawn(space: Space, folder: Path, *, seed: int, count: int = 1) -> list[Values]:
    """What Tune draws where the searcher chooses nothing; ``count``: trials, or how often a grid is tried."""
    searcher, ranges = make_searcher(space, seed=seed, concurrent=0, recorded=())
    assert isinstance(searcher, BasicVariantGenerator)
    experiment = Experiment("drawn", tune.Trainable, config=ranges, num_samples=count, storage_path=str(folder))
    searcher.add_configurations([experiment])
    return [trial.config for trial in iter(searcher.next_trial, None)]


def is_within(space: Space, values: Values) -> bool:
    """Whether all values are what their distributions give."""
    for name, ranges in space.settings.items():
        value, ends = values[name], ranges.values
        if ranges.kind in ("choice", "grid"):
            fits = value in ends
        elif ranges.kind == "randint":
            fits = isinstance(value, int) and ends[0] <= value < ends[1]
        elif ranges.kind == "quniform":
            steps = (value - ends[0]) / ends[2]
            fits = ends[0] <= value <= ends[1] and math.isclose(steps, round(steps), abs_tol=1e-9)
        else:
            fits = ends[0] <= value <= ends[1]
        if not fits:
            return False
    return True


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    space = space_of(settings=ALL_KINDS)
    first = drawn(space, tmp_path, seed=1, count=20)
    assert len(first) == 20
    assert all(is_within(space, values) for values in first)
    assert first == drawn(space, tmp_path, seed=1, count=20)
    assert first[:5] == drawn(space, tmp_path, seed=1, count=5)  # more trials may be asked for later
    assert not any(values in first for values in drawn(space, tmp_path, seed=2, count=20))


def test_a_grid_has_all_combinations_once(tmp_path: Path) -> None:
    space = space_of(settings=TWO_GRIDS, searcher={"kind": "grid"}, trials=None)
    found = [(values["loss.warp"], values["loss.pingpong"]) for values in drawn(space, tmp_path, seed=1)]
    assert len(found) == 6
    assert set(found) == set(itertools.product((0.5, 1.0, 2.0), (0.1, 0.5)))


def scores(values: Values) -> dict[str, float]:
    """Two scores that want different settings."""
    off = math.log(values["loss.pingpong"])
    return {"tof": (off - 1) ** 2 + values["loss.warp"], "lpips": (off + 1) ** 2 + abs(values["loss.warp"] - 1.5)}


def chosen(
    space: Space,
    *,
    trials: int,
    concurrent: int = 1,
    recorded: Sequence[Values] = (),
    seed: int = 1,
    score: Callable[[Values], dict[str, float]] = scores,
) -> list[Values]:
    """Optuna's choices for so many trials, ``concurrent`` of which run at a time; the oldest ends first."""
    searcher, ranges = make_searcher(space, seed=seed, concurrent=concurrent, recorded=recorded)
    assert isinstance(searcher, Searcher)
    assert ranges == {}
    running: deque[str] = deque()
    found: dict[str, Values] = {}
    while len(found) < trials:
        name = f"{len(found):04d}"
        suggested = searcher.suggest(name)
        if suggested is not None:
            found[name] = dict(suggested)
            running.append(name)
            continue
        ended = running.popleft()
        measured = score(found[ended])
        one = {MERIT: merit(space.score, measured)} if space.score.combine == "one" else {}
        result = {"training_iteration": 1, **measured, **one}
        searcher.on_trial_result(ended, result)
        searcher.on_trial_complete(ended, result)
        assert len(running) == concurrent - 1
    return list(found.values())


def optuna_space(sampler: str, score: dict[str, Any]) -> Space:
    metric = {"metric": "lpips"} if score["combine"] == "ranks" else {}
    searcher = {"kind": "optuna", "sampler": sampler, "startup_trials": 4, **metric}
    space = space_of(settings=ALL_KINDS, score=score, searcher=searcher, trials=12)
    check_space(space, BASE)
    return space


ONE = {"metrics": {"tof": "min"}, "combine": "one"}
SCORES = pytest.mark.parametrize("score", [ONE, RANKS, PARETO], ids=["one", "ranks", "pareto"])
SAMPLERS = pytest.mark.parametrize("sampler", ["tpe", "nsga2"])


@SAMPLERS
@SCORES
@pytest.mark.parametrize("concurrent", [1, 3])
def test_optuna_goes_on_as_if_it_had_never_stopped(sampler: str, score: dict[str, Any], concurrent: int) -> None:
    space = optuna_space(sampler, score)
    undisturbed = chosen(space, trials=12, concurrent=concurrent)
    assert all(is_within(space, values) for values in undisturbed)
    for begun in (2, 7, 11):
        recorded = json.loads(json.dumps(undisturbed[:begun]))  # as they come from the trials' files
        assert chosen(space, trials=12, concurrent=concurrent, recorded=recorded) == undisturbed


@SAMPLERS
@SCORES
def test_optuna_chooses_by_what_it_was_told(sampler: str, score: dict[str, Any]) -> None:
    space = optuna_space(sampler, score)
    found = chosen(space, trials=12)
    assert found == chosen(space, trials=12)
    assert found[:4] != chosen(space, trials=12, seed=2)[:4]

    def otherwise(values: Values) -> dict[str, float]:
        return {name: -value for name, value in scores(values).items()}

    told_otherwise = chosen(space, trials=12, score=otherwise)
    assert told_otherwise[:4] == found[:4]  # which are random
    assert told_otherwise[4:] != found[4:]


def test_optuna_learns() -> None:
    """Of many trials the later ones are better, in the direction that the metric has."""
    space = space_of(
        settings={"loss.warp": {"uniform": [0, 1]}},
        score={"metrics": {"psnr": "max"}},
        searcher={"kind": "optuna", "startup_trials": 5},
        trials=40,
    )
    found = [values["loss.warp"] for values in chosen(space, trials=40, score=lambda v: {"psnr": v["loss.warp"]})]
    assert sum(found[20:]) / 20 > 0.8 > sum(found[:5]) / 5


def test_what_pbt_multiplies_comes_back_into_its_range() -> None:
    space = space_of(settings=ALL_KINDS)
    draw = random.Random(1)
    values: Values = {
        "loss.warp": 1.0,
        "loss.pingpong": 1.0,
        "optimizer.beta1": 0.7000000000000001,  # as Tune rounds
        "optimizer.decay_steps": 15,
        "optimizer.kind": "adam",
        "discriminator.balance_threshold": 0.4,
    }
    seen: dict[str, set[Any]] = {name: set() for name in values}
    for turn in range(300):
        for name, ranges in space.settings.items():
            if ranges.kind != "choice":
                (factor,) = draw.choices((0.8, 1.2), weights=(1, 3) if turn < 150 else (3, 1))
                value = values[name] * factor
                values[name] = round(value) if ranges.kind == "randint" else value  # as PBT does with whole numbers
        values = within(space, values)
        assert is_within(space, values)
        trial_config(BASE, space, values)  # its types are right
        for name, value in values.items():
            seen[name].add(value)
    assert {0.5, 2.0} <= seen["loss.warp"]
    assert {0.05, 5.0} <= seen["loss.pingpong"]
    assert {0.5, 0.9} <= seen["optimizer.beta1"]
    assert {10, 19} <= seen["optimizer.decay_steps"]
    assert seen["optimizer.kind"] == {"adam"}


@pytest.mark.parametrize(
    ("changes", "kind", "known"),
    [
        ({}, FIFOScheduler, {}),
        (
            {"scheduler": {"kind": "asha", "reduction": 2}},
            AsyncHyperBandScheduler,
            {"_time_attr": "step", "_metric": "merit", "_max_t": 60, "_reduction_factor": 2},
        ),
        (
            {"scheduler": {"kind": "median", "metric": "psnr", "grace_steps": 30, "minimum_trials": 4}},
            MedianStoppingRule,
            {"_time_attr": "step", "_metric": "psnr", "_grace_period": 30, "_min_samples_required": 4},
        ),
        (
            {"scheduler": {"kind": "pbt", "interval_steps": 30, "quantile": 0.5, "resample": 0.1}},
            PopulationBasedTraining,
            {
                "_time_attr": "step",
                "_metric": "merit",
                "_perturbation_interval": 30,
                "_quantile_fraction": 0.5,
                "_resample_probability": 0.1,
                "_synch": True,
            },
        ),
        (
            {"scheduler": {"kind": "pb2"}, "settings": {"loss.warp": {"uniform": [0.5, 2]}}},
            PB2,
            {"_perturbation_interval": 15, "_hyperparam_bounds": {"loss.warp": [0.5, 2.0]}, "_synch": True},
        ),
    ],
    ids=["fifo", "asha", "median", "pbt", "pb2"],
)
def test_a_scheduler_is_tunes_with_what_the_space_says(
    changes: dict[str, Any], kind: type[TrialScheduler], known: dict[str, Any]
) -> None:
    space = space_of(**changes)
    check_space(space, BASE)
    scheduler = make_scheduler(space, seed=1)
    assert isinstance(scheduler, kind)
    assert {name: getattr(scheduler, name) for name in known} == known


def test_what_is_compared_has_its_direction() -> None:
    assert [steering(metric) for metric in (None, "tof", "lpips", "psnr", "ssim")] == [
        (MERIT, "min"),
        ("tof", "min"),
        ("lpips", "min"),
        ("psnr", "max"),
        ("ssim", "max"),
    ]


Told = list[tuple[str, int, float]]
"""Results in their order: trial, step, score."""


def decisions(
    scheduler: TrialScheduler, told: Told, *, earlier: dict[tuple[str, int], str]
) -> dict[tuple[str, int], str]:
    """What a scheduler decides, until it stops a trial; ``earlier``: what it decided in another command."""
    controller = SimpleNamespace(get_live_trials=list)
    trials = {name: Trial("stub", stub=True, trial_id=name) for name, _, _ in told}
    for trial in trials.values():
        scheduler.on_trial_add(cast(Any, controller), trial)
    made: dict[tuple[str, int], str] = {}
    ended = set()
    for name, step, score in told:
        if name in ended:
            continue
        result = {"step": step, MERIT: score, DECIDED: earlier.get((name, step))}
        made[name, step] = scheduler.on_trial_result(cast(Any, controller), trials[name], result)
        if made[name, step] == TrialScheduler.STOP:
            ended.add(name)
            scheduler.on_trial_complete(cast(Any, controller), trials[name], result)
    return made


@pytest.mark.parametrize(
    "scheduler", [{"kind": "asha", "reduction": 2}, {"kind": "median", "minimum_trials": 1}], ids=["asha", "median"]
)
def test_decisions_outlive_another_order_of_results(scheduler: dict[str, Any]) -> None:
    space = space_of(scheduler=scheduler)  # 60 steps, measured every 15
    told: Told = [("a", 15, 3.0), ("b", 15, 2.0), ("c", 15, 4.0), ("a", 30, 2.5), ("b", 30, 1.5)]
    made = decisions(make_scheduler(space, seed=1), told, earlier={})
    stopped = {key for key, decision in made.items() if decision == TrialScheduler.STOP}
    assert ("c", 15) in stopped
    assert ("a", 15) not in stopped  # it came first; later it would have been worse than b

    another = sorted(told, key=lambda line: line[1:])  # b first
    assert decisions(make_scheduler(space, seed=1), another, earlier={}) != made
    assert decisions(make_scheduler(space, seed=1), another, earlier=made) == made
    # And who comes next is judged as if the order had been the first one.
    for score in (1.0, 2.2, 2.7, 3.5, 5.0):
        news: Told = [("d", 15, score), ("d", 30, score)]
        (after, then) = (
            decisions(make_scheduler(space, seed=1), [*told, *news], earlier=made) for told in (told, another)
        )
        assert after == then
