"""The training loop in a plain process: what it keeps, how it goes on, what it records, and whose folder is whose."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import Tensor

from tecogan_dist import config as settings
from tecogan_dist.config import Config, DataConfig
from tecogan_dist.errors import UserError
from tecogan_dist.overrides import override
from tecogan_dist.training.ledger import Ledger
from tecogan_dist.training.reporter import FolderReporter
from tecogan_dist.training.run_folder import AUTO, NEVER, RunFolder, open_run_folder, write_run_file
from tecogan_dist.training.state import TrainingState, checkpoint_name, find_checkpoint, newest_checkpoint, read_state
from tecogan_dist.training.tracking import encode_animation, read_metrics
from tecogan_dist.training.worker import TrainingTask, train
from tecogan_dist.weights import read_run_config, read_weights


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
        [{k: v for k, v in line.items() if "second" not in k and k != "data_wait"} for line in read_metrics(folder)]
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
    assert [name[:19] for name in kept] == ["checkpoint_00000004", "checkpoint_00000006"]
    newest = newest_checkpoint(tmp_path / "run")
    assert newest is not None
    assert newest.name == kept[-1]
    assert read_run_config(newest) == config
    assert read_weights(newest).step == 6


def test_loss_that_is_not_finite_stops_the_run_before_it_is_kept(tmp_path: Path) -> None:
    config = make_config(["--model.output_init_scale", "1e25", "--tracking.save_every", "1"])
    with pytest.raises(UserError, match=r"'content' became (inf|nan) in step 1: lower optimizer.learning_rate"):
        run(config, tmp_path / "run")
    assert newest_checkpoint(tmp_path / "run") is None


def test_ledger_counts_the_step_when_it_is_settled() -> None:
    ledger = Ledger(0.5)
    ledger.record(0, {"balance": torch.tensor(1.5), "content": torch.tensor(2.0)})
    assert ledger.balance_average == 0.5
    ledger.settle()
    assert ledger.balance_average == pytest.approx(0.51)
    ledger.settle()
    assert ledger.balance_average == pytest.approx(0.51)
    ledger.record(1, {"balance": torch.tensor(0.51), "content": torch.tensor(4.0)})
    ledger.settle()
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


def test_newest_checkpoint_has_most_steps_then_the_latest_attempt(tmp_path: Path) -> None:
    names = [
        checkpoint_name(20, attempt=1700000009, workers=2),
        checkpoint_name(100, attempt=1700000001, workers=4),
        checkpoint_name(100, attempt=1700000005, workers=2),
    ]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text("{}")
    (tmp_path / checkpoint_name(200, attempt=1700000009, workers=2)).mkdir()  # its upload was cut off
    assert find_checkpoint(tmp_path) == tmp_path / names[2]
    assert find_checkpoint(tmp_path / names[0]) == tmp_path / names[0]
    with pytest.raises(UserError, match="nothing to resume from"):
        find_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("saved", "asked", "fits"),
    [
        ((2, 1), (2, 1), True),
        ((2, 1), (4, 1), False),
        ((2, 1), (2, 2), False),
        ((2, 0), (4, 0), True),
        ((1, None), (1, 1), False),
    ],
)
def test_state_goes_on_only_where_its_parts_fit(
    tmp_path: Path, saved: tuple[int, int | None], asked: tuple[int, int | None], fits: bool
) -> None:
    state = TrainingState(step=7, balance_average=0.1, discriminator_updates=5, discriminator_skips=2)
    content = dataclasses.asdict(state) | {"seed": 1, "workers": saved[0], "zero_stage": saved[1]}
    (tmp_path / "state.json").write_text(json.dumps(content))
    if fits:
        assert read_state(tmp_path, workers=asked[0], zero_stage=asked[1]) == state
    else:
        with pytest.raises(UserError, match=r"was written by .* and cannot go on with .*initial_weights"):
            read_state(tmp_path, workers=asked[0], zero_stage=asked[1])


@pytest.mark.parametrize("text", ["", "[]", '{"step": 3}', "not json"])
def test_damaged_state_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        read_state(tmp_path, workers=1, zero_stage=None)


def test_new_and_empty_folders_are_taken(tmp_path: Path) -> None:
    for output in (tmp_path / "new" / "deep", tmp_path):
        folder = open_run_folder(output, config=make_config([]), data=tmp_path, resume=AUTO)
        assert folder == RunFolder(path=output, checkpoint=None, resume_from=None)


def test_folder_of_a_run_is_taken_up_only_with_its_settings(tmp_path: Path) -> None:
    config, data, output = make_config([]), tmp_path / "store", tmp_path / "run"
    write_run_file(RunFolder(path=output, checkpoint=None, resume_from=None), config=config, data=data)

    def reopen(overrides: list[str], **changed: Any) -> RunFolder:
        arguments: dict[str, Any] = {"config": make_config(overrides), "data": data, "resume": AUTO} | changed
        return open_run_folder(output, **arguments)

    assert reopen([]).checkpoint is None
    reopen(["--steps", "99", "--tracking.display_every", "7", "--cluster.max_failures", "0"])
    with pytest.raises(UserError, match=r"a run with loss\.warp 1\.0, not 2\.0"):
        reopen(["--loss.warp", "2"])
    with pytest.raises(UserError, match="data path"):
        reopen([], data=tmp_path / "other")
    with pytest.raises(UserError, match="already holds a run"):
        reopen([], resume=NEVER)
    checkpoint = output / checkpoint_name(3, attempt=1, workers=1)
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text("{}")
    assert reopen([]).checkpoint == checkpoint
    with pytest.raises(UserError, match="did not begin from"):
        reopen([], resume=str(checkpoint))


def test_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds files but no run"):
        open_run_folder(tmp_path, config=make_config([]), data=tmp_path, resume=AUTO)
    with pytest.raises(UserError, match="is a file"):
        open_run_folder(tmp_path / "thesis.tex", config=make_config([]), data=tmp_path, resume=AUTO)
    (tmp_path / "run.yaml").write_text("steps: [")
    with pytest.raises(UserError, match="is damaged"):
        open_run_folder(tmp_path, config=make_config([]), data=tmp_path, resume=AUTO)


def test_run_that_began_from_another_is_taken_up_by_the_same_command(tmp_path: Path) -> None:
    other = tmp_path / "other" / checkpoint_name(3, attempt=1, workers=1)
    other.mkdir(parents=True)
    (other / "state.json").write_text("{}")
    arguments: dict[str, Any] = {"config": make_config([]), "data": tmp_path, "resume": str(tmp_path / "other")}
    folder = open_run_folder(tmp_path / "run", **arguments)
    assert folder.resume_from == other
    write_run_file(folder, config=arguments["config"], data=tmp_path)
    assert open_run_folder(tmp_path / "run", **arguments) == folder


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


def run(config: Config, output: Path) -> TrainingState:
    task = TrainingTask(config=config, data=output, training_scenes=(), validation_scenes=(), output=output)
    reporter = FolderReporter(output, keep=config.tracking.keep_checkpoints)
    return train(task, device=torch.device("cpu"), reporter=reporter, stream=noise)


def noise(
    _store: Path, *, data: DataConfig, seed: int, batch_size: int, first_step: int, steps: int, **_: Any
) -> Iterator[Tensor]:
    """Random windows, a function of seed and step as the real stream's are."""
    side = 4 * data.crop_size + 8
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
