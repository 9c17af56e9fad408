"""Spaces: how their files are read, and what is refused in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.tuning.checks import check_space
from tecogan_dist.tuning.reading import read_space, shipped_spaces, space_from_yaml
from tecogan_dist.tuning.space import Asha, Distribution, Fifo, Optuna, Random
from tests.support.spaces import BASE, one_sentence, searching, space_of


def test_a_space_is_what_its_file_says(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        """
        settings:
          loss.perceptual: {loguniform: [0.02, 2]}
          loss.fade_in_start: {uniform: [0, 1]}
          optimizer.beta1: {quniform: [0.5, 0.95, 0.05]}
          optimizer.decay_steps: {randint: [10, 20]}
          discriminator.temporal_only: {choice: [false, true]}
          optimizer.kind: {choice: [adam, adam_tf1]}
        fixed: {batch_size: 8, optimizer.learning_rate: 1.0e-4}
        score: {metrics: {tof: min, psnr: max}, combine: ranks, weights: {tof: 2}, limits: {lpips: 0.2}}
        scheduler: {kind: asha, metric: tof, grace_steps: 30, reduction: 2}
        searcher: {kind: optuna, metric: tof, startup_trials: 4}
        trials: 8
        concurrent: 2
        trial: {workers: 2, cpus_per_worker: 3, gpus_per_worker: 1, resources_per_worker: {big: 0.5}}
        steps: 60
        measure_every: 15
        repeat: {top: 2, seeds: 3}
        """,
        encoding="utf-8",
    )
    space = read_space(file)
    assert space.settings == {
        "loss.perceptual": Distribution("loguniform", (0.02, 2.0)),
        "loss.fade_in_start": Distribution("uniform", (0.0, 1.0)),
        "optimizer.beta1": Distribution("quniform", (0.5, 0.95, 0.05)),
        "optimizer.decay_steps": Distribution("randint", (10, 20)),
        "discriminator.temporal_only": Distribution("choice", (False, True)),
        "optimizer.kind": Distribution("choice", ("adam", "adam_tf1")),
    }
    assert space.fixed == {"batch_size": 8, "optimizer.learning_rate": 1e-4}
    assert list(space.score.metrics.items()) == [("tof", "min"), ("psnr", "max")]
    assert (space.score.combine, space.score.weights, space.score.limits) == ("ranks", {"tof": 2}, {"lpips": 0.2})
    assert space.scheduler == Asha(kind="asha", metric="tof", grace_steps=30, reduction=2)
    assert space.searcher == Optuna(kind="optuna", metric="tof", startup_trials=4)
    assert (space.trial.workers, space.trial.cpus_per_worker, space.trial.gpus_per_worker) == (2, 3, 1)
    assert (space.trials, space.concurrent, space.steps, space.measure_every) == (8, 2, 60, 15)
    assert (space.repeat.top, space.repeat.seeds) == (2, 3) if space.repeat else pytest.fail("no repeat")
    check_space(space, BASE)


def test_what_is_left_out_has_its_default() -> None:
    space = space_of()
    assert (space.scheduler, space.searcher, space.repeat, space.concurrent) == (Fifo(), Random(), None, None)
    assert (space.score.combine, space.trial.workers, space.trial.gpus_per_worker) == ("one", 1, None)
    check_space(space, BASE)


@pytest.mark.parametrize(
    ("distribution", "part"),
    [
        ("{uniform: [0, 1], choice: [1]}", "has several keys (uniform, choice): write one distribution"),
        (
            "{normal: [0, 1]}",
            "'normal' is not a distribution: kinds are uniform, loguniform, quniform, randint",
        ),
        ("0.5", "write a distribution, such as {uniform: [0.0, 1.0]}"),
        ("{}", "write a distribution"),
        ("{uniform: 3}", "uniform takes [low, high], not 3"),
        ("{choice: adam}", "choice takes [a, b, ...], not 'adam'"),
        ("{uniform: [1]}", "uniform takes 2 numbers, [low, high], not 1"),
        ("{randint: [1, 2, 3]}", "randint takes 2 numbers, [low, high], not 3"),
        ("{quniform: [1, 2]}", "quniform takes 3 numbers, [low, high, step], not 2"),
        ("{uniform: [2, 1]}", "a low end below the high one, not 2 and 1"),
        ("{randint: [3, 3]}", "a low end below the high one, not 3 and 3"),
        ("{loguniform: [0, 1]}", "numbers above 0, whose logarithms there are, not 0"),
        ("{loguniform: [-1, 1]}", "numbers above 0"),
        ("{quniform: [0, 1, 0]}", "a step above 0, not 0"),
        ("{quniform: [0, 1, 0.3]}", "ends that are multiples of the step 0.3, not 1"),
        ("{uniform: [true, 2]}", "uniform takes numbers, not true"),
        ("{uniform: [a, b]}", "uniform takes numbers, not 'a'"),
        ("{uniform: [0, .inf]}", "inf is not a finite number"),
        ("{choice: [.nan]}", "nan is not a finite number"),
        ("{randint: [1, 2.5]}", "randint takes whole numbers, not 2.5"),
        ("{randint: [false, 2]}", "randint takes whole numbers, not false"),
        ("{choice: []}", "choice has no values: list at least one"),
        ("{grid: []}", "grid has no values"),
        ("{choice: [[1, 2]]}", "choice takes numbers, true, false and words, not [1, 2]"),
        ("{grid: [{a: 1}]}", "grid takes numbers, true, false and words, not a section"),
        ("{choice: [null]}", "not null"),
        ("{choice: [2020-01-01, [1]]}", "not [1]"),
        ("{choice: [1, 2, 1.0]}", "choice has 1.0 twice: keep one"),
        ("{loguniform: [1_0, 2_0]}", "'1_0' is text to YAML: write plain digits"),
        ("{choice: ['1.5e5']}", "'1.5e5' is text to YAML: write plain digits"),
        ("{grid: ['0.5']}", "'0.5' is text to YAML: write plain digits"),
    ],
)
def test_bad_distributions_are_one_sentence(distribution: str, part: str) -> None:
    text = f"settings:\n  loss.warp: {distribution}\nscore: {{metrics: {{tof: min}}}}\nsteps: 4\nmeasure_every: 2\n"
    with pytest.raises(UserError) as caught:
        space_from_yaml(text, source="mine.yaml")
    assert one_sentence(caught.value).startswith("mine.yaml: settings: loss.warp: ")
    assert part in str(caught.value)


def test_true_and_one_are_two_choices() -> None:
    assert searching(loss__warp={"choice": [True, 1]}).settings["loss.warp"].values == (True, 1)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"settings": {}}, "mine.yaml is an empty space: name what is searched under 'settings'"),
        ({"settings": None}, "is an empty space"),
        ({"settings": ["loss.warp"]}, "settings must be names with distributions"),
        ({"score": None}, "score is missing"),
        ({"steps": None}, "steps is missing"),
        ({"score": {"combine": "ranks"}}, "score: metrics is missing"),
        ({"setings": 1}, "unknown key 'setings': did you mean 'settings'?"),
        ({"score": {"metric": {"tof": "min"}}}, "score: unknown key 'metric': did you mean 'metrics'?"),
        ({"score": {"metrics": {"vmaf": "max"}}}, "should be 'psnr', 'ssim', 'lpips', 'tof' or 'tlp', not 'vmaf'"),
        ({"score": {"metrics": {"tof": "least"}}}, "score.metrics.tof: input should be 'min' or 'max', not 'least'"),
        ({"score": {"metrics": {"tof": "min"}, "limits": {"tof": float("nan")}}}, "valid number"),
        ({"score": 3}, "score: "),
        ({"scheduler": "asha"}, "scheduler: write its kind, such as {kind: asha}: kinds are fifo, asha, median, pbt"),
        ({"scheduler": {"metric": "tof"}}, "scheduler: write its kind"),
        ({"scheduler": {"kind": "hyperband"}}, "scheduler: there is no kind 'hyperband': kinds are fifo, asha, median"),
        ({"scheduler": {"kind": ["asha"]}}, "scheduler: there is no kind ['asha']"),
        ({"scheduler": {"kind": "asha", "quantile": 0.2}}, "unknown key 'quantile': asha takes metric, grace_steps"),
        ({"scheduler": {"kind": "fifo", "metric": "tof"}}, "unknown key 'metric': fifo takes no options"),
        ({"scheduler": {"kind": "asha", "reduction": 1}}, "scheduler: reduction: input should be greater than 1"),
        ({"scheduler": {"kind": "pbt", "quantile": 0.6}}, "scheduler: quantile: input should be less than or equal"),
        ({"searcher": {"kind": "bohb"}}, "searcher: there is no kind 'bohb': kinds are random, grid, optuna"),
        ({"searcher": {"kind": "random", "sampler": "tpe"}}, "unknown key 'sampler': random takes no options"),
        ({"searcher": {"kind": "optuna", "sampler": "cmaes"}}, "sampler: input should be 'tpe' or 'nsga2'"),
        ({"trials": 0}, "trials: input should be greater than 0, not 0"),
        ({"trials": True}, "trials takes a number or a word, not true"),
        ({"trial": {"workers": True}}, "trial.workers takes a number or a word, not true"),
        ({"trial": {"gpus_per_worker": 2}}, "trial.gpus_per_worker: input should be less than or equal to 1"),
        ({"repeat": {"seeds": 1}}, "repeat.seeds: input should be greater than or equal to 2, not 1"),
        ({"steps": "many"}, "steps: "),
    ],
)
def test_bad_files_are_one_sentence(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError) as caught:
        space_of(**changes)
    assert part in one_sentence(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is an empty space"),
        ("# nothing yet", "is an empty space"),
        ("settings: [", "is not valid YAML"),
        ("just words", "the top level must be keys with values"),
        ("- 1", "the top level must be keys with values"),
        ("steps: 1\nscore: {}\nsteps: 2", "the key 'steps' is there twice, line 3"),
        ("settings:\n  loss.warp: {choice: [1]}\n  loss.warp: {choice: [2]}", "the key 'loss.warp' is there twice"),
        ("a: &a {b: 1, b: 2}\nc: *a", "anchors and aliases are not taken"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_bad_yaml_is_one_sentence(text: str, part: str) -> None:
    with pytest.raises(UserError) as caught:
        space_from_yaml(text, source="mine.yaml")
    assert part in one_sentence(caught.value)


def test_a_missing_file_names_the_shipped_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = next(path for path in shipped_spaces() if path.stem == "smoke")
    with pytest.raises(UserError, match=r"no space is at smoke: did you mean .*smoke\.yaml"):
        read_space("smoke")
    monkeypatch.chdir(smoke.parents[1])
    with pytest.raises(UserError, match=r"did you mean tune_spaces/loss_weights\.yaml\?"):
        read_space(tmp_path / "loss_weight.yaml")
    with pytest.raises(UserError, match=r"such as discriminator, loss_weights, .* of .*tune_spaces"):
        read_space(tmp_path / "quite_other.yaml")
    with pytest.raises(UserError, match="is a folder where an ordinary file is wanted"):
        read_space(tmp_path)
