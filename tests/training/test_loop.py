"""The training loop in a plain process: how it goes on, ends, counts, and leaves bad steps out."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.checkpoints import (
    EMA_FILE,
    WEIGHTS_FILE,
    checkpoint_name,
    newest_checkpoint,
    read_state,
)
from tecogan_dist.runs.find import read_weights
from tecogan_dist.runs.records import read_metrics
from tecogan_dist.training.begin import build_networks
from tecogan_dist.training.step import TrainingStep
from tests.support.comparing import assert_same_weights
from tests.support.plain_runs import make_config, run
from tests.support.records import timeless


def test_interrupted_run_ends_as_the_straight_one(tmp_path: Path) -> None:
    # The running balance of random weights is near 0: with this threshold the discriminator is skipped now and then.
    config = make_config(["--discriminator.balance_threshold", "1e-4"])
    straight = run(config, tmp_path / "straight")
    first = dataclasses.replace(config, steps=3)
    run(first, tmp_path / "halves")
    with (tmp_path / "halves" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss/content": 1.0}\n{"step": 6, "los')  # of an attempt that was lost
    resumed = run(config, tmp_path / "halves")
    assert resumed == straight
    assert resumed.step == 6
    assert resumed.discriminator_updates + resumed.discriminator_skips == 6
    assert min(resumed.discriminator_updates, resumed.discriminator_skips) > 0
    assert_same_weights(tmp_path / "straight", tmp_path / "halves")
    curves = [timeless(read_metrics(tmp_path / name)) for name in ("straight", "halves")]
    assert curves[0] == curves[1]
    assert [line["step"] for line in curves[0]] == list(range(1, 7))


def test_run_without_a_discriminator(tmp_path: Path) -> None:
    off = ["--loss.adversarial", "0", "--loss.feature_match", "0", "--loss.pingpong", "0", "--steps", "2"]
    state = run(make_config(off), tmp_path / "run")
    assert (state.step, state.discriminator_updates, state.discriminator_skips) == (2, 0, 0)
    assert read_weights(tmp_path / "run").discriminator is None
    assert read_metrics(tmp_path / "run")[-1].keys() >= {
        "loss/content",
        "raw/warp",
        "optim/learning_rate",
        "time/data_wait",
    }


def test_balance_average_is_an_average_from_zero_without_correction(tmp_path: Path) -> None:
    state = run(make_config([]), tmp_path / "run")
    expected = 0.0
    for line in read_metrics(tmp_path / "run"):  # a line a step
        expected = 0.99 * expected + 0.01 * line["raw/balance"]
        assert line["discriminator/balance"] == pytest.approx(expected, abs=1e-12)
    assert state.balance_average == pytest.approx(expected, abs=1e-12)


def test_run_stops_when_it_is_asked_to_and_goes_on(tmp_path: Path) -> None:
    config = make_config([])
    straight = run(config, tmp_path / "straight")
    questions = iter([False, False, True])
    said: list[str] = []
    stopped = run(config, tmp_path / "run", asked_to_stop=lambda: next(questions, True), say=said.append)
    assert stopped.step == 4  # the question of step 3 is answered with the next step
    assert said[-1] == "stopped after step 4: the same command goes on from there"
    assert run(config, tmp_path / "run") == straight
    assert_same_weights(tmp_path / "straight", tmp_path / "run")


def test_bad_steps_are_left_out_counted_and_said(tmp_path: Path) -> None:
    """Windows that are fine with, in two steps, a loss that is not: nothing of them stays, not even in averages."""
    config = make_config(["--optimizer.max_bad_steps", "2", "--optimizer.ema_decay", "0.9"])
    said: list[str] = []
    with spoiled_steps({1, 3}):
        state = run(config, tmp_path / "run", say=said.append)
    assert (state.step, state.bad_steps) == (6, 2)
    assert state.discriminator_updates + state.discriminator_skips == 4
    warnings = [line for line in said if "left out" in line]
    assert [line[:26] for line in warnings] == ["warning: step 2 is left ou", "warning: step 4 is left ou"]
    weights = read_weights(tmp_path / "run")
    assert weights.discriminator is not None
    assert all(tensor.isfinite().all() for tensor in [*weights.upscaler.values(), *weights.discriminator.values()])
    for line in read_metrics(tmp_path / "run"):
        strange = {name for name, value in line.items() if not math.isfinite(value)}
        assert bool(strange) == (line["step"] in (2, 4))
        assert all(name.startswith("grad_norm/") for name in strange)


def test_too_many_bad_steps_end_the_run_and_keep_the_last_good_checkpoint(tmp_path: Path) -> None:
    config = make_config(["--optimizer.max_bad_steps", "3", "--tracking.save_every", "1"])
    sentence = (
        r"3 steps in a row were not finite, the last time the loss .* became nan in step 5: lower optimizer"
        r".*; the newest checkpoint, .*checkpoint_00000002, is kept"
    )
    with spoiled_steps({2, 3, 4, 5}), pytest.raises(UserError, match=sentence):
        run(config, tmp_path / "run")
    newest = newest_checkpoint(Location.of(tmp_path / "run"))
    assert newest is not None
    assert newest.name == checkpoint_name(2)


@pytest.mark.parametrize("asked", [False, True])
def test_a_last_step_that_is_left_out_leaves_the_last_good_state(tmp_path: Path, asked: bool) -> None:
    """The run ends with the last step of its settings, or is asked to stop on a step; that one is not finite."""
    config = make_config(["--optimizer.ema_decay", "0.9"])
    questions = iter([False, False, False, asked])
    said: list[str] = []
    with spoiled_steps({4, 5}):
        state = run(config, tmp_path / "run", asked_to_stop=lambda: next(questions, asked), say=said.append)
    ended = 5 if asked else 6
    assert (state.step, state.bad_steps, state.bad_steps_in_a_row) == (ended, ended - 4, ended - 4)
    assert "the last step was left out: the checkpoint has the weights after step 4, the last good one" in said
    assert ("stopped after step 5: the same command goes on from there" in said) == asked
    newest = newest_checkpoint(Location.of(tmp_path / "run"))
    assert newest is not None
    assert newest.name == checkpoint_name(ended)
    assert read_state(newest).state == state
    assert read_state(newest).updates == {"upscaler": 4, "discriminator": state.discriminator_updates}
    run(dataclasses.replace(config, steps=4), tmp_path / "four")
    for name in (WEIGHTS_FILE, EMA_FILE):
        found, expected = (
            read_weights(tmp_path / folder / checkpoint_name(steps) / name).upscaler
            for folder, steps in (("run", ended), ("four", 4))
        )
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert (
        state.balance_average == read_state(Location.of(tmp_path / "four") / checkpoint_name(4)).state.balance_average
    )
    # Going on is what an undisturbed run does after two bad steps.
    assert run(dataclasses.replace(config, steps=8), tmp_path / "run").step == 8


def test_bad_steps_in_a_row_are_counted_across_a_stop(tmp_path: Path) -> None:
    config = make_config(["--optimizer.max_bad_steps", "3", "--steps", "9"])
    questions = iter([False, False, False, True])
    with spoiled_steps({3, 4, 5}):
        assert run(config, tmp_path / "run", asked_to_stop=lambda: next(questions, True)).step == 5
        with pytest.raises(UserError, match="3 steps in a row were not finite"):
            run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        # The very first update makes weights of 1e30, finite, whose every picture is not.
        (["--optimizer.learning_rate", "1e30"], "the loss 'content' became nan in step 4"),
        (["--optimizer.learning_rate", "1e30", "--steps", "1"], "so large that it gives no picture"),
        (
            ["--optimizer.learning_rate", "1e30", "--discriminator.learning_rate_scale", "1e30"],
            r"step 1 would be 1e\+60",
        ),
        # No gradient is finite from the first step on.
        (["--loss.warp", "1e30"], r"a gradient was not finite in step 3 \(of the upscaler\)"),
        (["--loss.warp", "1e30", "--steps", "2"], "not one of its steps was finite"),
    ],
)
def test_numbers_that_explode_from_the_start_are_one_sentence(
    tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    config = make_config(["--optimizer.max_bad_steps", "3", *overrides])
    advice = "lower optimizer.learning_rate .*check the clips and the initial weights; no checkpoint is written yet.$"
    with pytest.raises(UserError, match=f"{sentence}.*{advice}"):
        run(config, tmp_path / "run")
    assert newest_checkpoint(Location.of(tmp_path / "run")) is None


def test_weights_that_give_no_picture_are_not_kept(tmp_path: Path) -> None:
    said: list[str] = []
    config = make_config(["--steps", "2", "--tracking.save_every", "1", "--optimizer.learning_rate", "1e30"])
    with pytest.raises(UserError, match=r"ends without a checkpoint of step 2: .*no checkpoint is written yet"):
        run(config, tmp_path / "run", say=said.append)
    assert any(line.startswith("warning: no checkpoint of step 1 is written: the upscaler's") for line in said)


@contextlib.contextmanager
def spoiled_steps(bad: set[int]) -> Iterator[None]:
    """Make every loss of these 0-based steps not a number, in the step itself."""
    original = TrainingStep.forward

    def spoiled(self: TrainingStep, lr_frames: Tensor, hr_frames: Tensor) -> Any:
        factor = math.nan if self.state.step in bad else 1.0
        return original(self, lr_frames * factor, hr_frames)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "forward", spoiled)
        yield


def test_average_of_weights_follows_its_formula(tmp_path: Path) -> None:
    config = make_config(
        ["--optimizer.ema_decay", "0.5", "--tracking.save_every", "1", "--tracking.keep_checkpoints", "9"]
    )
    run(config, tmp_path / "run")
    name = "generator.output.weight"
    weights = [
        read_weights(tmp_path / "run" / checkpoint_name(step) / "weights.safetensors").upscaler[name]
        for step in range(1, 7)
    ]
    averages = [
        read_weights(tmp_path / "run" / checkpoint_name(step) / "weights_ema.safetensors").upscaler[name]
        for step in range(1, 7)
    ]
    expected = averages[0]
    for updates, (weight, average) in enumerate(zip(weights[1:], averages[1:], strict=True), start=2):
        decay = min(0.5, (1 + updates) / (10 + updates))
        expected = decay * expected + (1 - decay) * weight
        assert torch.allclose(average, expected, atol=1e-7)
    assert not torch.equal(averages[-1], weights[-1])
    run(dataclasses.replace(config, steps=3), tmp_path / "halves")
    run(config, tmp_path / "halves")
    resumed = read_weights(tmp_path / "halves" / checkpoint_name(6) / "weights_ema.safetensors").upscaler[name]
    assert torch.equal(resumed, averages[-1])


def test_micro_batches_give_the_step_of_the_whole(tmp_path: Path) -> None:
    """Without batch norm, which is over a micro-batch, their gradients add up to those of the whole."""
    off = ["--loss.adversarial", "0", "--loss.feature_match", "0", "--batch_size", "4", "--steps", "3"]
    run(make_config(off), tmp_path / "whole")
    run(make_config([*off, "--accumulation", "2"]), tmp_path / "parts")
    whole, parts = (read_weights(tmp_path / name).upscaler for name in ("whole", "parts"))
    start = build_networks(make_config(off), initial_weights=None)[0].state_dict()
    error = sum((whole[name] - parts[name]).square().sum() for name in whole)
    moved = sum((whole[name] - start[name]).square().sum() for name in whole)
    assert error < (1e-2) ** 2 * moved
    lines = [read_metrics(tmp_path / name)[0]["loss/content"] for name in ("whole", "parts")]
    assert lines[0] == pytest.approx(lines[1], rel=1e-5)
