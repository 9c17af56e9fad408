"""TensorBoard and W&B: what is recorded, read back."""

from __future__ import annotations

import io
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.training import wandb_client
from tecogan_dist.training.tracking import Tracker, encode_animation
from tecogan_dist.training.wandb_client import finish_wandb, start_wandb
from tests.support.plain_runs import make_config, run
from tests.support.wandb_files import read_wandb


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
    """The real client, offline; its record is read back: the config, every scalar at its step, the previews."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    summaries: dict[int, dict[str, float]] = {}
    summary = Tracker.summary

    def watched(self: Tracker, step: int, scalars: dict[str, float], animations: dict[str, Tensor]) -> None:
        summaries[step] = scalars
        summary(self, step, scalars, animations)

    monkeypatch.setattr(Tracker, "summary", watched)
    run(make_config(["--tracking.wandb_project", "test", "--tracking.summary_every", "3"]), tmp_path / "run")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    recorded = read_wandb(file)
    assert recorded.project == "test"
    assert recorded.config["loss"]["warp"] == 1.0
    assert [row["step"] for row in recorded.rows] == [3, 6] == list(summaries)
    for row in recorded.rows:
        scalars = summaries[row["step"]]
        assert scalars.keys() >= {"content", "warp", "discriminator", "learning_rate"}
        assert {name: row[name] for name in scalars} == pytest.approx(scalars)
        assert row["generated"]["_type"] == "video-file"


@pytest.mark.parametrize("listens", [True, False])
def test_wandb_that_does_not_answer_costs_little_time_and_no_record(
    listens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real client, a key, and a server that is silent or not there: the record is offline, and complete."""
    monkeypatch.setattr(wandb_client, "START_SECONDS", 1)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_SILENT", "true")
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1] if listens else 9}")
        begun = time.monotonic()
        run = start_wandb(tmp_path, place="runs/x", say=said.append, project="test", id="x")
        run.log({"step": 1, "content": 0.5})
        finish_wandb(run, say=said.append)
        assert time.monotonic() - begun < 40
    assert said[0].startswith("connecting to W&B, ")
    assert "the run goes on and is recorded offline; 'wandb sync runs/x/wandb/offline-run-*' sends it" in said[1]
    assert len(said) == 2
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert [row["content"] for row in read_wandb(file).rows] == [0.5]


@pytest.mark.parametrize("key", ["", "short"])
def test_wandb_without_a_key_that_it_takes(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", key)
    with pytest.raises(UserError, match=r"^W&B cannot be used \(.*: set WANDB_API_KEY .*or record offline"):
        start_wandb(tmp_path, place="runs/x", say=lambda _: None, project="test", id="x")
