"""Measuring held-out scenes while training: the numbers, who keeps the best, and what does not fit."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.schema import Config
from tecogan_dist.data.clips import ClipStore, open_clip
from tecogan_dist.data.writing import ClipStoreWriter
from tecogan_dist.metrics.sequence import mean, measure
from tecogan_dist.runs.checkpoints import checkpoint_name
from tecogan_dist.runs.find import load_upscaler
from tecogan_dist.runs.records import SCORES_FILE, best_step, read_metrics, read_scores
from tecogan_dist.training import validation
from tecogan_dist.training.loop import train
from tecogan_dist.training.reporter import PlainReporter
from tecogan_dist.training.task import TrainingTask
from tecogan_dist.training.validation import measured_scenes
from tecogan_dist.upscaling.sequence import upscale_frames
from tests.support.plain_runs import make_config, noise
from tests.support.store import add_scene

METRICS = ("psnr", "ssim", "tof")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """Scenes of smooth texture that moves, one of them too short to be measured; the last has an odd size."""
    path = tmp_path_factory.mktemp("data") / "store"
    random = np.random.default_rng(1)
    with ClipStoreWriter(path) as writer:
        for number, (frames, height, width) in enumerate([(5, 96, 96), (9, 96, 112), (12, 88, 96), (7, 81, 99)]):
            coarse = random.integers(0, 256, (16, 20, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
            pictures = (coarse[:height, i : i + width] for i in range(frames))
            add_scene(writer, 2000 + number, pictures)
    return ClipStore.open(path)


def task_of(config: Config, store: ClipStore, output: Path) -> TrainingTask:
    return TrainingTask(
        config=config,
        data=store.location,
        training_scenes=(),
        validation_scenes=store.scenes,
        output=Location.of(output),
    )


@pytest.mark.parametrize("changes", [[], ["--optimizer.ema_decay", "0.9"], ["--data.degradation", "BI"]])
def test_scores_are_evaluates_numbers_of_the_kept_weights(store: ClipStore, tmp_path: Path, changes: list[str]) -> None:
    settings = ["--steps", "4", "--tracking.validate_every", "2", "--tracking.save_every", "2"]
    config = make_config([*settings, "--tracking.validation_frames", "10", "--tracking.summary_every", "99", *changes])
    said: list[str] = []
    train(
        task_of(config, store, tmp_path),
        device=torch.device("cpu"),
        reporter=PlainReporter(say=said.append),
        stream=noise,
    )
    scores = read_scores(Location.of(tmp_path))
    assert list(scores) == [2, 4]
    assert [line[:6] for line in said if "held-out" in line] == ["step 2", "step 4"]
    recorded = [line for line in read_metrics(tmp_path) if "validation/official/psnr" in line]
    assert [line["step"] for line in recorded] == [2, 4]

    file = "weights_ema.safetensors" if config.optimizer.ema_decay else "weights.safetensors"
    model = load_upscaler(tmp_path / checkpoint_name(2) / file, "cpu")
    sums: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for scene in store.scenes[1:]:  # the first is too short
        frames = np.stack(list(_frames(store, scene.number)))[:10]
        degrade = config.data.degradation
        assert degrade != "pairs"
        images = upscale_frames(model, map(torch.from_numpy, frames), device=torch.device("cpu"), degrade=degrade)
        results = np.stack([image.numpy() for image in images])
        for metric, values in measure(results, frames, metrics=METRICS).items():
            sums[metric] += values
    assert scores[2] == pytest.approx({metric: mean(values) for metric, values in sums.items()}, rel=1e-3)


def test_a_run_that_fails_leaves_nothing_to_come(
    store: ClipStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being measured then has no records any more to go to."""
    config = make_config(["--steps", "9", "--tracking.validate_every", "2", "--tracking.summary_every", "99"])
    is_over = threading.Event()

    def measure_late(*args: Any, **kwargs: Any) -> dict[str, list[float]]:
        assert is_over.wait(60)
        return measure(*args, **kwargs)

    def broken(*args: Any, **kwargs: Any) -> Iterator[torch.Tensor]:
        for number, windows in enumerate(noise(*args, **kwargs)):
            if number == 3:
                raise UserError("The storage is gone.")
            yield windows

    monkeypatch.setattr(validation, "measure", measure_late)
    with pytest.raises(UserError, match="gone"):
        train(
            task_of(config, store, tmp_path),
            device=torch.device("cpu"),
            reporter=PlainReporter(),
            stream=broken,
        )
    left = sorted(tmp_path.rglob("*"))
    is_over.set()
    for thread in [thread for thread in threading.enumerate() if thread.name.startswith("validation")]:
        thread.join(60)
    assert sorted(tmp_path.rglob("*")) == left


def test_training_goes_on_while_scenes_are_measured(
    store: ClipStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring ends when training has displayed three more steps, which it could not if they waited for it."""
    often = ["--tracking.validate_every", "5", "--tracking.save_every", "10", "--tracking.display_every", "1"]
    config = make_config(["--steps", "30", *often, "--tracking.summary_every", "99"])
    displayed, measured_at = threading.Event(), list[int]()

    def measure_slowly(*args: Any, **kwargs: Any) -> dict[str, list[float]]:
        assert displayed.wait(60)
        return measure(*args, **kwargs)

    def log(step: int, metrics: dict[str, float]) -> None:  # noqa: ARG001
        if step >= 8:
            displayed.set()

    def say(line: str) -> None:
        if "held-out" in line:
            measured_at.append(int(line.split()[1].rstrip(":")))

    monkeypatch.setattr(validation, "measure", measure_slowly)
    train(
        task_of(config, store, tmp_path),
        device=torch.device("cpu"),
        reporter=PlainReporter(say=say, log=log),
        stream=noise,
    )
    assert measured_at == [5, 10, 15, 20, 25, 30]
    lines = read_metrics(tmp_path)
    first_measured = next(number for number, line in enumerate(lines) if "validation/official/psnr" in line)
    assert [line["step"] for line in lines].index(8) < first_measured


def _frames(store: ClipStore, number: int) -> list[np.ndarray]:
    (scene,) = store.select(number, number)
    return list(open_clip(store.path, scene).frames())


def test_the_best_checkpoint_stays_beside_the_newest(store: ClipStore, tmp_path: Path) -> None:
    every = ["--tracking.validate_every", "1", "--tracking.save_every", "1", "--tracking.keep_checkpoints", "1"]
    config = make_config([*every, "--tracking.summary_every", "99", "--tracking.best", "tof"])
    train(task_of(config, store, tmp_path), device=torch.device("cpu"), reporter=PlainReporter(), stream=noise)
    scores = read_scores(Location.of(tmp_path))
    # The last score comes after the last checkpoint has been written.
    best = best_step({step: values for step, values in scores.items() if step < 6}, "tof")
    assert best is not None
    kept = {folder.name for folder in tmp_path.glob("checkpoint_*")}
    assert kept == {checkpoint_name(best), checkpoint_name(6)}


def test_only_scenes_that_can_be_measured_are(store: ClipStore, tmp_path: Path) -> None:
    config = make_config(["--tracking.validation_scene_count", "2"])
    assert [scene.number for scene in measured_scenes(task_of(config, store, tmp_path))] == [2001, 2002]
    small = dataclasses.replace(store.scenes[1], height=47)
    task = dataclasses.replace(task_of(config, store, tmp_path), validation_scenes=(small,))
    assert measured_scenes(task) == ()


def test_a_score_that_a_kill_has_cost_is_measured_again(store: ClipStore, tmp_path: Path) -> None:
    """Between a checkpoint and its score: also after the last step, when nothing is left to train."""
    config = make_config(["--steps", "4", "--tracking.save_every", "2", "--tracking.summary_every", "99"])
    task = task_of(config, store, tmp_path)
    measured: list[tuple[int, dict[str, float]]] = []

    def go() -> None:
        reporter = PlainReporter(measured=lambda step, values: measured.append((step, values)))
        train(task, device=torch.device("cpu"), reporter=reporter, stream=noise)

    go()
    assert [step for step, _ in measured] == [2, 4]
    scores = tmp_path / SCORES_FILE
    content = json.loads(scores.read_text())
    scores.write_text(json.dumps({"2": content["2"]}))
    go()
    assert measured[2:] == [measured[1]]
    assert json.loads(scores.read_text()) == content
    go()
    assert len(measured) == 3  # all are there
