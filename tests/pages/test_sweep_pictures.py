"""The pictures of a sweep's page: pixel by pixel what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import ClipStore, open_clip
from tecogan_dist.data.writing import ClipStoreWriter, write_clip
from tecogan_dist.metrics.sequence import mean, measure
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.pages.sweep_pictures import bicubic_scores, showings
from tecogan_dist.runs.checkpoints import EMA_FILE, checkpoint_name
from tecogan_dist.runs.find import load_upscaler
from tecogan_dist.training.task import TrainingTask
from tecogan_dist.upscaling.images import to_image
from tecogan_dist.upscaling.sequence import upscale_float, upscale_frames
from tests.support.pages import pixels
from tests.support.plain_runs import make_config, run
from tests.support.sweep_pages import page_of, results_of, scores_of, trial


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """A scene too short to be measured and two others, of texture that moves; low resolution is every 4th pixel."""
    path = tmp_path_factory.mktemp("data") / "store"
    random = np.random.default_rng(1)
    with ClipStoreWriter(path) as writer:
        for number, (frames, height, width) in enumerate([(5, 96, 96), (9, 96, 112), (8, 88, 96)]):
            coarse = random.integers(0, 256, (16, 20, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
            moving = [coarse[:height, i : i + width] for i in range(frames)]
            scene = write_clip(
                path,
                2000 + number,
                iter(moving),
                rate=Fraction(24),
                source="made",
                source_start=0,
                downscale=1,
                encoding="lossless",
                lr_frames=(frame[::4, ::4] for frame in moving),
            )
            writer.enter(scene)
    return ClipStore.open(path)


@pytest.fixture
def threads_put_back() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def task_of(store: ClipStore, degradation: str) -> TrainingTask:
    config = make_config(["--data.degradation", degradation, "--tracking.validation_frames", "8"])
    return TrainingTask(
        config=config,
        data=store.location,
        training_scenes=(),
        validation_scenes=store.scenes,
        output=Location("unused"),
    )


@pytest.mark.usefixtures("threads_put_back")
@pytest.mark.parametrize("degradation", ["BD", "BI", "pairs"])
def test_pictures_are_the_measured_weights_frames(store: ClipStore, tmp_path: Path, degradation: str) -> None:
    options = ["--optimizer.ema_decay", "0.5", "--data.degradation", degradation] if degradation != "pairs" else []
    run(make_config(["--steps", "4", "--tracking.save_every", "2", *options]), tmp_path / "run")
    task = task_of(store, degradation)
    # Trial 1 was measured at step 2, the preset at step 4; the others' weights are not there.
    trials = [
        trial(0, steps=0, state="failed"),
        dataclasses.replace(trial(1), scores={2: scores_of(1, 2)}, folder=Location.of(tmp_path / "run")),
    ]
    results = results_of(trials)
    assert results.preset is not None
    preset = dataclasses.replace(results.preset, scores={4: scores_of(2, 4)}, folder=Location.of(tmp_path / "run"))
    shown = showings(task, dataclasses.replace(results, preset=preset))
    assert [showing.label for showing in shown] == ["truth", "bicubic", "preset", "trial 1 (rank 1)"]

    scene = store.scenes[1]  # the first that can be measured
    truth = np.stack(list(open_clip(store.path, scene).frames()))[:8]
    low = np.stack(list(open_clip(store.path, scene, low_resolution=True).frames()))[:8]
    degrade: Any = None if degradation == "pairs" else degradation
    inputs = low if degrade is None else truth
    expected = {"truth": truth}
    for name, step in (("preset", 4), ("trial 1 (rank 1)", 2)):
        file = tmp_path / "run" / checkpoint_name(step)
        model = load_upscaler(file / EMA_FILE if (file / EMA_FILE).exists() else file, "cpu")
        frames = upscale_frames(model, map(torch.from_numpy, inputs), device=torch.device("cpu"), degrade=degrade)
        expected[name] = np.stack([image.numpy() for image in frames])
    floats = upscale_float(model, map(torch.from_numpy, inputs), device=torch.device("cpu"), degrade=degrade)
    lows = torch.stack([frame.lr_frame for frame in floats])
    enlarged = resize_bicubic(lows, 4, centred=degradation != "BD")
    expected["bicubic"] = np.stack([to_image(frame).numpy() for frame in enlarged])

    y, x, side = shown[0].detail
    errors = np.abs(expected["bicubic"][4].astype(float) - truth[4]).mean(axis=2)
    assert errors[y : y + side, x : x + side].mean() >= errors[:side, :side].mean()
    for showing in shown:
        assert showing.positions == (2, 3, 4)
        np.testing.assert_array_equal(np.stack(showing.frames), expected[showing.label][2:5])
        np.testing.assert_array_equal(showing.profile, expected[showing.label][:, y + side // 2])

    page = page_of(results, shown)
    pictures = {attributes["alt"]: pixels(attributes["src"]) for attributes in page.named("img")}
    assert len(pictures) == 4 * (1 + 3 + 1)
    assert all(attributes["src"].startswith("data:image/png;") for attributes in page.named("img"))
    for name, sequence in expected.items():
        np.testing.assert_array_equal(pictures[name], sequence[3])
        np.testing.assert_array_equal(pictures[f"{name}, detail of frame 4"], sequence[4, y : y + side, x : x + side])
        np.testing.assert_array_equal(pictures[f"temporal profile of {name}"], sequence[:, y + side // 2])

    sums: dict[str, list[float]] = {"psnr": [], "ssim": [], "tof": []}
    for scene in store.scenes[1:]:
        targets = np.stack(list(open_clip(store.path, scene).frames()))[:8]
        low = np.stack(list(open_clip(store.path, scene, low_resolution=True).frames()))[:8]
        inputs = low if degrade is None else targets
        floats = upscale_float(model, map(torch.from_numpy, inputs), device=torch.device("cpu"), degrade=degrade)
        images = [to_image(resize_bicubic(f.lr_frame[None], 4, centred=degradation != "BD")[0]).numpy() for f in floats]
        for metric, numbers in measure(np.stack(images), targets, metrics=tuple(sums)).items():
            sums[metric] += numbers
    assert bicubic_scores(task) == pytest.approx({metric: mean(numbers) for metric, numbers in sums.items()})


def test_without_weights_or_scenes_there_are_no_pictures(store: ClipStore, tmp_path: Path) -> None:
    task = task_of(store, "BD")
    results = results_of([trial(0)])
    assert showings(task, results) == []
    nothing_held_out = dataclasses.replace(task, validation_scenes=())
    folder = Location.of(tmp_path / "gone")
    lost = results_of([dataclasses.replace(trial(0), folder=folder)])
    assert showings(nothing_held_out, lost) == []
    assert bicubic_scores(nothing_held_out) == {}
    with pytest.raises(UserError, match="no weights are at"):
        showings(task, lost)
    assert "There are none: no scene is held out" in page_of(results).words
