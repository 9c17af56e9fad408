"""The training loop in a plain process: what it keeps, how it goes on, what it records, and whose folder is whose."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config import load as settings
from tecogan_dist.config.overrides import override
from tecogan_dist.config.schema import Config
from tecogan_dist.data.stream.windows import WindowConfig, crop_side
from tecogan_dist.runs.checkpoints import (
    STATE_FILE,
    StateFile,
    TrainingState,
    checkpoint_name,
    find_checkpoint,
    newest_checkpoint,
    opened,
    read_state,
)
from tecogan_dist.runs.find import read_weights
from tecogan_dist.runs.records import best_step, read_metrics
from tecogan_dist.training.begin import build_networks
from tecogan_dist.training.ledger import Ledger
from tecogan_dist.training.loop import train
from tecogan_dist.training.reporter import PlainReporter
from tecogan_dist.training.step import Objective
from tecogan_dist.training.task import TrainingTask
from tecogan_dist.training.tracking import encode_animation


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_interrupted_run_ends_as_the_straight_one(tmp_path: Path) -> None:
    # The running balance of random weights is near 0: with this threshold the discriminator is skipped now and then.
    config = make_config(["--discriminator.balance_threshold", "1e-4"])
    straight = run(config, tmp_path / "straight")
    first = dataclasses.replace(config, steps=3)
    run(first, tmp_path / "halves")
    with (tmp_path / "halves" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "content": 1.0}\n{"step": 6, "con')  # of an attempt that was lost
    resumed = run(config, tmp_path / "halves")
    assert resumed == straight
    assert resumed.step == 6
    assert resumed.discriminator_updates + resumed.discriminator_skips == 6
    assert min(resumed.discriminator_updates, resumed.discriminator_skips) > 0
    assert same_weights(tmp_path / "straight", tmp_path / "halves")
    timeless = [
        [{k: v for k, v in line.items() if "second" not in k and "wait" not in k} for line in read_metrics(folder)]
        for folder in (tmp_path / "straight", tmp_path / "halves")
    ]
    assert timeless[0] == timeless[1]
    assert [line["step"] for line in timeless[0]] == list(range(1, 7))


def test_run_without_a_discriminator(tmp_path: Path) -> None:
    off = ["--loss.adversarial", "0", "--loss.feature_match", "0", "--loss.pingpong", "0", "--steps", "2"]
    state = run(make_config(off), tmp_path / "run")
    assert (state.step, state.discriminator_updates, state.discriminator_skips) == (2, 0, 0)
    assert read_weights(tmp_path / "run").discriminator is None
    assert read_metrics(tmp_path / "run")[-1].keys() >= {"content", "warp", "learning_rate", "data_wait"}


def test_balance_average_is_an_average_from_zero_without_correction(tmp_path: Path) -> None:
    state = run(make_config([]), tmp_path / "run")
    expected = 0.0
    for line in read_metrics(tmp_path / "run"):  # a line a step
        expected = 0.99 * expected + 0.01 * line["balance"]
        assert line["balance_average"] == pytest.approx(expected, abs=1e-12)
    assert state.balance_average == pytest.approx(expected, abs=1e-12)


def test_checkpoints_hold_the_run_and_only_the_newest_stay(tmp_path: Path) -> None:
    config = make_config(["--tracking.save_every", "2", "--tracking.keep_checkpoints", "2"])
    run(config, tmp_path / "run")
    kept = sorted(folder.name for folder in (tmp_path / "run").glob("*checkpoint*"))
    assert kept == ["checkpoint_00000004", "checkpoint_00000006"]
    newest = newest_checkpoint(Location.of(tmp_path / "run"))
    assert newest is not None
    assert newest.name == kept[-1]
    assert read_run_config(newest.path) == config
    assert read_weights(newest.path).step == 6
    assert not list((tmp_path / "run").glob(".staging*"))


def test_run_stops_when_it_is_asked_to_and_goes_on(tmp_path: Path) -> None:
    config = make_config([])
    straight = run(config, tmp_path / "straight")
    questions = iter([False, False, True])
    said: list[str] = []
    stopped = run(config, tmp_path / "run", asked_to_stop=lambda: next(questions, True), say=said.append)
    assert stopped.step == 4  # the question of step 3 is answered with the next step
    assert said[-1] == "stopped after step 4: the same command goes on from there"
    assert run(config, tmp_path / "run") == straight
    assert same_weights(tmp_path / "straight", tmp_path / "run")


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
    assert all(math.isfinite(value) for line in read_metrics(tmp_path / "run") for value in line.values())


def test_too_many_bad_steps_end_the_run_and_keep_the_last_good_checkpoint(tmp_path: Path) -> None:
    config = make_config(["--optimizer.max_bad_steps", "3", "--tracking.save_every", "1"])
    sentence = r"3 steps in a row were not finite, the last time the loss .* became nan in step 5: lower optimizer"
    with spoiled_steps({2, 3, 4, 5}), pytest.raises(UserError, match=sentence):
        run(config, tmp_path / "run")
    newest = newest_checkpoint(Location.of(tmp_path / "run"))
    assert newest is not None
    assert newest.name == checkpoint_name(2)


@contextlib.contextmanager
def spoiled_steps(bad: set[int]) -> Iterator[None]:
    """Make every loss of these 0-based steps not a number, in the step itself."""
    original = Objective.__call__

    def spoiled(self: Objective, lr_frames: Tensor, hr_frames: Tensor, *, step: int) -> Any:
        factor = math.nan if step in bad else 1.0
        return original(self, lr_frames * factor, hr_frames, step=step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "__call__", spoiled)
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


def test_accumulated_parts_give_the_step_of_the_whole(tmp_path: Path) -> None:
    """Without batch norm, which is over a part, gradients of parts add up to those of the whole."""
    off = ["--loss.adversarial", "0", "--loss.feature_match", "0", "--batch_size", "4", "--steps", "3"]
    run(make_config(off), tmp_path / "whole")
    run(make_config([*off, "--accumulation", "2"]), tmp_path / "parts")
    whole, parts = (read_weights(tmp_path / name).upscaler for name in ("whole", "parts"))
    start = build_networks(make_config(off), initial_weights=None)[0].state_dict()
    error = sum((whole[name] - parts[name]).square().sum() for name in whole)
    moved = sum((whole[name] - start[name]).square().sum() for name in whole)
    assert error < (1e-2) ** 2 * moved
    lines = [read_metrics(tmp_path / name)[0]["content"] for name in ("whole", "parts")]
    assert lines[0] == pytest.approx(lines[1], rel=1e-5)


def test_a_torn_checkpoint_is_ignored_and_cleared_away(tmp_path: Path) -> None:
    config = make_config(["--tracking.save_every", "2"])
    run(dataclasses.replace(config, steps=4), tmp_path / "run")
    torn = tmp_path / "run" / checkpoint_name(5)
    torn.mkdir()
    (torn / "weights.safetensors").write_bytes(b"half")
    newest = newest_checkpoint(Location.of(tmp_path / "run"))
    assert newest is not None
    assert newest.name == checkpoint_name(4)
    assert run(config, tmp_path / "run").step == 6
    assert not torn.exists()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    config = make_config(["--tracking.save_every", "2"])
    run(dataclasses.replace(config, steps=4), tmp_path / "run")
    damaged = tmp_path / "run" / checkpoint_name(4) / "moments.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    sentence = r"checkpoint_00000004 is damaged \(the checksum of moments.safetensors is wrong\): move it away"
    with pytest.raises(UserError, match=sentence):
        run(config, tmp_path / "run")
    damaged.unlink()
    with pytest.raises(UserError, match=r"moments\.safetensors is missing"), opened(Location.of(damaged.parent)):
        pass


def test_a_disk_that_is_full_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last checkpoint has to succeed; what could not be written leaves nothing torn."""
    monkeypatch.setattr("tecogan_dist.training.saving.PATIENCE", 0.0)
    config = make_config(["--tracking.save_every", "2"])
    output = tmp_path / "run"
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    asked = 0

    def asked_to_stop() -> bool:
        # Files may grow to 1 kB while steps 2 and 3 run: the checkpoint of step 2 fails.
        nonlocal asked
        asked += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if asked == 2 else limit[0], limit[1]))
        if asked == 3:
            time.sleep(1)
        return False

    try:
        state = run(config, output, say=say, asked_to_stop=asked_to_stop)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert state.step == 6
    assert any("could not be written" in line and "training goes on" in line for line in said)
    assert sorted(folder.name for folder in output.glob("checkpoint_*")) == [checkpoint_name(4), checkpoint_name(6)]


def test_best_step() -> None:
    scores = {1: {"psnr": 20.0, "tof": 0.5}, 2: {"psnr": 22.0, "tof": 0.7}, 3: {"psnr": 22.0, "tof": 0.6}, 4: {}}
    assert best_step(scores, "psnr") == 2
    assert best_step(scores, "tof") == 1
    assert best_step(scores, "lpips") is None
    assert best_step({}, "psnr") is None


def test_ledger_counts_the_step_when_it_is_settled() -> None:
    ledger = Ledger(0.5)
    ledger.record(0, {"balance": torch.tensor(1.5), "content": torch.tensor(2.0)}, stop=False)
    assert ledger.balance_average == 0.5
    ledger.settle()
    assert ledger.balance_average == pytest.approx(0.51)
    ledger.settle()
    assert ledger.balance_average == pytest.approx(0.51)
    ledger.record(1, {"balance": torch.tensor(0.51), "content": torch.tensor(4.0)}, stop=True)
    ledger.settle()
    assert ledger.stop
    ledger.record(2, {"balance": torch.tensor(0.5), "content": torch.tensor(math.nan)}, stop=False)
    ledger.settle()
    assert ledger.not_finite == "the loss 'content' became nan in step 3"
    assert not ledger.stop
    assert ledger.for_display.take() == pytest.approx({"balance": 1.005, "content": 3.0})


def test_tensorboard_has_scalars_and_animations(tmp_path: Path) -> None:
    run(make_config(["--tracking.summary_every", "3"]), tmp_path / "run")
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    found: dict[tuple[int, str], Any] = {}
    for event in EventFileLoader(str(events)).Load():
        for value in event.summary.value:
            found[event.step, value.tag] = value
    assert {step for step, _ in found} == {3, 6}
    assert {tag for _, tag in found} >= {"content", "discriminator", "lr", "hr", "generated", "warped_previous"}
    pictures = found[6, "generated"].tensor.string_val
    with Image.open(io.BytesIO(pictures[-1])) as animation:
        assert animation.format == "GIF"
        assert getattr(animation, "n_frames", 0) == 3
        assert animation.size == (2 * 64, 64)  # two windows side by side


def test_animation_shows_the_frames_at_three_a_second() -> None:
    frames = torch.zeros(5, 3, 3, 8, 8)
    frames[1, 2, 0] = 1.0  # the second window's third frame is red
    data, height, width = encode_animation(frames)
    assert (height, width) == (8, 32)
    with Image.open(io.BytesIO(data)) as animation:
        assert getattr(animation, "n_frames", 0) == 2  # Pillow joins the equal first two
        assert animation.info["duration"] == 2 * 330
        animation.seek(1)
        shown = animation.convert("RGB")
        assert shown.getpixel((12, 4)) == (255, 0, 0)
        assert shown.getpixel((4, 4)) == (0, 0, 0)
        assert 320 <= animation.info["duration"] <= 340


def test_wandb_records_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(make_config(["--tracking.wandb_project", "test", "--steps", "2"]), tmp_path / "run")
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


def test_newest_checkpoint_has_most_steps(tmp_path: Path) -> None:
    run_folder = Location.of(tmp_path)
    for step in (20, 100, 3):
        write_state(run_folder / checkpoint_name(step), step=step)
    (tmp_path / checkpoint_name(200)).mkdir()  # its writing was cut off
    assert find_checkpoint(run_folder) == run_folder / checkpoint_name(100)
    assert find_checkpoint(run_folder / checkpoint_name(20)) == run_folder / checkpoint_name(20)
    with pytest.raises(UserError, match="nothing to resume from"):
        find_checkpoint(run_folder / "nowhere")


def write_state(checkpoint: Location, *, step: int) -> None:
    content = StateFile(TrainingState(step=step), {"upscaler": step}, 0, {})
    (checkpoint / STATE_FILE).write_bytes(content.to_json())
    assert read_state(checkpoint) == content


@pytest.mark.parametrize("text", ["", "[]", '{"step": 3}', "not json"])
def test_damaged_state_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_FILE).write_text(text)
    with pytest.raises(UserError, match=r"state\.json is damaged"):
        read_state(Location.of(tmp_path))


def make_config(overrides: list[str]) -> Config:
    tree = {
        "steps": 6,
        "batch_size": 2,
        "model": {"blocks": 1, "channels": 8, "flow_width": 4},
        "loss": {"perceptual": 0},
        "optimizer": {"learning_rate": 1e-3},
        "data": {"sequence_length": 3, "crop_size": 16},
        "tracking": {"display_every": 1},
    }
    return override(settings.from_tree(tree, source="the test"), overrides)


def run(config: Config, output: Path, **reporter: Any) -> TrainingState:
    place = Location.of(output)
    task = TrainingTask(config=config, data=place, training_scenes=(), validation_scenes=(), output=place)
    return train(task, device=torch.device("cpu"), reporter=PlainReporter(**reporter), stream=noise)


def noise(
    _store: Location, *, data: WindowConfig, seed: int, batch_size: int, first_step: int, steps: int, **_: Any
) -> Iterator[Tensor]:
    """Random windows, a function of seed and step as the real stream's are."""
    side = crop_side(data)
    for step in range(first_step, first_step + steps):
        generator = torch.Generator().manual_seed(1000 * seed + step)
        shape = (batch_size, data.sequence_length, side, side, 3)
        yield torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def same_weights(one: Path, other: Path) -> bool:
    a, b = read_weights(one), read_weights(other)
    assert a.discriminator is not None
    assert b.discriminator is not None
    upscalers = all(torch.equal(a.upscaler[name], b.upscaler[name]) for name in a.upscaler)
    return upscalers and all(torch.equal(a.discriminator[name], b.discriminator[name]) for name in a.discriminator)
