"""Previews of a run: what they show, that they show the same all the time, and what a restart or a full disk does."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import ClipStore
from tecogan_dist.data.writing import ClipStoreWriter
from tecogan_dist.metrics.protocol import Images
from tecogan_dist.ops.degrade import degrade_frames
from tecogan_dist.runs.checkpoints import checkpoint_name
from tecogan_dist.runs.previews import FOLDER, INDEX_FILE, Worst, files_of, read_previews
from tecogan_dist.tracking import previews
from tecogan_dist.tracking.previews import Previews, Still, find_crop, outdated_steps, still_of, worst_of
from tecogan_dist.training.loop import train
from tecogan_dist.training.reporter import PlainReporter
from tecogan_dist.training.task import TrainingTask
from tecogan_dist.video.open import open_video
from tests.support.plain_runs import make_config, noise
from tests.support.s3_server import S3Server
from tests.support.small_disk import small_disk
from tests.support.store import add_scene

FRAMES, HEIGHT, WIDTH = 12, 240, 260


def moving(frames: int = FRAMES, *, height: int = HEIGHT, width: int = WIDTH, seed: int = 1) -> Images:
    """Texture of 8x8 squares that moves to the left."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8 + 1, (width + frames) // 8 + 1, 3), dtype=np.uint8)
    texture = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height]
    return np.stack([texture[:, shift : shift + width] for shift in range(frames)])


def spoiled(targets: Images, *, seed: int = 2) -> Images:
    return (targets ^ np.random.default_rng(seed).integers(0, 32, targets.shape, dtype=np.uint8)).astype(np.uint8)


def still_for(targets: Images, *, scene: int = 7) -> Still:
    return still_of(list(targets), list(targets), scene=scene, origin="BD", scale=4)


VALUES = {"psnr": [30.0] * 8, "tof": [0.1, 0.2, 0.9, 0.1, 0.1, 0.3, 0.8]}
"""Of frames 2 to 9 of 12: the first measured frame has no tOF."""


def picture(path: Path) -> Images:
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_files_show_what_they_say(tmp_path: Path) -> None:
    targets, folder = moving(), tmp_path / FOLDER
    results, still = spoiled(targets), still_for(targets)
    view, crop = still.view, still.view.crop
    kept = Previews(folder, Location.of(tmp_path), first_step=0, say=pytest.fail).keep(
        20, still, results, targets, VALUES
    )
    assert kept is not None
    assert sorted(path.name for path in folder.iterdir()) == sorted(["reference.png", INDEX_FILE, *files_of(20)])
    assert [path.name for path in (kept.video, kept.profile)] == list(files_of(20)[1:3])

    def cut(frames: Images) -> Images:
        return frames[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]

    assert (crop.height, crop.width) == (192, 192)
    assert view.strip_frames == tuple(range(2, 10))
    shown = list(view.strip_frames)
    assert np.array_equal(picture(folder / "00000020.png"), np.hstack(list(cut(results)[shown])))
    low, bicubic, high = np.split(picture(folder / "reference.png"), 3)
    assert np.array_equal(high, np.hstack(list(cut(targets)[shown])))
    # Of the whole frame, by the function that the network's input comes from.
    degraded = degrade_frames(torch.from_numpy(targets[shown]).permute(0, 3, 1, 2), "BD", 4)
    expected = (degraded.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    expected = cut(expected.repeat(4, axis=1).repeat(4, axis=2))
    assert np.array_equal(low, np.hstack(list(expected)))
    # Bicubic with its pixels on every fourth one of the high resolution leaves these as they are.
    assert np.abs(bicubic[::4, ::4].astype(int) - low[::4, ::4]).max() <= 1
    assert np.abs(bicubic.astype(int) - high).mean() < np.abs(low.astype(int) - high).mean()

    profile = picture(folder / "00000020_profile.png")
    assert profile.shape == (FRAMES * 16, 192 + 8 + 192, 3)
    row = crop.top + view.profile_row
    for frame in range(FRAMES):
        line = profile[16 * frame + 5]
        assert np.array_equal(line[:192], results[frame, row, crop.left : crop.left + 192])
        assert np.array_equal(line[200:], targets[frame, row, crop.left : crop.left + 192])

    video = open_video(folder / "00000020.mp4")
    decoded = list(video.frames())
    assert len(decoded) == FRAMES
    assert decoded[0].shape == (192 + 24, 5 * 192, 3)
    assert float(video.rate) == 12
    difference = np.minimum(np.abs(results[5].astype(int) - targets[5]) * 4, 255)
    expected_panels = (still.low[5], still.bicubic[5], cut(results)[5], cut(targets)[5], cut(difference[None])[0])
    for number, panel in enumerate(expected_panels):
        seen = decoded[5][24:, 192 * number : 192 * (number + 1)].astype(int)
        errors = [np.abs(seen - other).mean() for other in expected_panels]
        assert np.argmin(errors) == number, panel.shape

    worst = picture(folder / "00000020_worst.png")
    assert worst.shape == (3 * 192, 3 * 192, 3)
    index = read_previews(Location.of(tmp_path))
    assert index is not None
    assert index.view == view
    assert index.steps == {20: (Worst(5, "tof", 0.9), Worst(9, "tof", 0.8), Worst(8, "tof", 0.3))}
    rows = {frame.tobytes() for frame in _windows(targets[9])}
    assert worst[192:384, 192:384].tobytes() in rows


def _windows(frame: Images) -> list[Images]:
    return [
        np.ascontiguousarray(frame[top : top + 192, left : left + 192])
        for top in range(HEIGHT - 191)
        for left in range(WIDTH - 191)
    ]


def test_the_crop_is_where_there_is_detail_whatever_is_measured() -> None:
    flat = np.full((30, 400, 480, 3), 90, np.uint8)
    flat[:, 204:300, 240:352] = moving(30, height=96, width=112)
    crop = find_crop(list(flat), multiple=4)
    assert crop.top <= 204
    assert crop.top + 192 >= 300
    assert crop.left <= 240
    assert crop.left + 192 >= 352
    assert crop.top % 4 == crop.left % 4 == 0
    assert {find_crop(list(flat[:count]), multiple=4) for count in (6, 12, 30)} == {crop}
    assert find_crop(list(np.full((6, 81, 99, 3), 7, np.uint8)), multiple=4) == previews.Crop(0, 0, 80, 96)


@pytest.mark.parametrize(("origin", "centred"), [("BI", True), ("pairs", True), ("BD", False)])
def test_low_resolution_lies_where_its_origin_has_it(origin: Any, centred: bool) -> None:
    """Pictures of a slope: enlarged, they follow it, half a low-resolution pixel apart where pixels are centred."""
    slope = np.broadcast_to(np.arange(96, dtype=np.uint8)[None, :, None] * 2, (96, 96, 3))
    targets = [np.ascontiguousarray(slope)] * 6
    low = [np.ascontiguousarray(slope[1::4, 1::4] + 1)] * 6
    still = still_of(low if origin == "pairs" else targets, targets, scene=1, origin=origin, scale=4)
    inside = slice(24, 72)
    assert np.abs(still.bicubic[0, inside, inside].astype(int) - slope[inside, inside]).max() <= 1
    block = still.low[0, 40, 40:44, 0]
    assert len(set(block.tolist())) == 1
    assert abs(int(block[0]) - (83 if centred else 80)) <= 1


def test_worst_frames_without_flow_are_those_of_the_psnr() -> None:
    assert worst_of({"psnr": [31, 30, 29, 33, 31, 31, 20, 31], "tof": []}, 12) == [
        Worst(8, "psnr", 20),
        Worst(4, "psnr", 29),
        Worst(3, "psnr", 30),
    ]


def test_steps_that_are_kept_are_spread_over_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "MOST_STEPS", 8)
    steps: dict[int, None] = {}
    for step in range(0, 1000, 10):
        steps[step] = None
        for gone in outdated_steps(steps):
            del steps[gone]
    left = sorted(steps)
    assert len(left) == 8
    assert (left[0], left[-1]) == (0, 990)
    assert max(np.diff(left)) <= 4 * 1000 / 8


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "MOST_STEPS", 2)
    targets = moving(6, height=48, width=48)
    writer = Previews(tmp_path / FOLDER, Location.of(tmp_path), first_step=0, say=pytest.fail)
    for step in (10, 20, 30):
        writer.keep(step, still_for(targets), targets, targets, {"psnr": [30.0, 30.0]})
    index = read_previews(Location.of(tmp_path))
    assert index is not None
    assert list(index.steps) == [10, 30]
    names = {path.name for path in (tmp_path / FOLDER).iterdir()}
    assert names == {"reference.png", INDEX_FILE, *files_of(10), *files_of(30)}


def test_a_restart_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    targets = moving(6, height=48, width=48)
    still, folder, said = still_for(targets), tmp_path / FOLDER, list[str]()

    def attempt(first_step: int, *steps: int, still: Still = still) -> list[int]:
        writer = Previews(folder, Location.of(tmp_path), first_step=first_step, say=said.append)
        for step in steps:
            assert writer.keep(step, still, targets, targets, {"psnr": [30.0, 30.0]}) is not None
        index = read_previews(Location.of(tmp_path))
        assert index is not None
        return list(index.steps)

    assert attempt(0, 10, 20, 30) == [10, 20, 30]
    (folder / "mine.png").write_bytes(b"mine")
    assert attempt(20, 25) == [10, 20, 25]
    assert not (folder / files_of(30)[0]).exists()
    assert (folder / files_of(20)[0]).exists()
    assert attempt(25, 25) == [10, 20, 25]
    assert said == []

    # Another scene: pictures of two of them in one row would look like one.
    other = still_for(targets, scene=8)
    assert attempt(25, 30, still=other) == [30]
    assert said == ["the previews begin anew: other frames are held out, or others of them are measured"]
    assert {path.name for path in folder.iterdir()} == {"mine.png", "reference.png", INDEX_FILE, *files_of(30)}

    (folder / INDEX_FILE).write_text('{"version": 1')
    with pytest.raises(UserError, match=r"index.json is damaged \(.*\): move the folder previews away"):
        read_previews(Location.of(tmp_path))
    assert attempt(30, 40, still=other) == [40]
    assert "is damaged" in said[1]
    assert said[1].endswith("; the previews begin anew")


@pytest.mark.parametrize(
    "damage",
    [
        b"[]",
        b'{"version": 2}',
        b"null",
        b"\xff",
        b'"steps"',
    ],
)
def test_an_index_that_is_none_is_one_sentence(damage: bytes, tmp_path: Path) -> None:
    assert read_previews(Location.of(tmp_path)) is None
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / INDEX_FILE).write_bytes(damage)
    with pytest.raises(UserError, match=r"^.*index.json is damaged"):
        read_previews(Location.of(tmp_path))


def test_values_of_an_index_are_looked_at(tmp_path: Path) -> None:
    targets = moving(6, height=48, width=48)
    Previews(tmp_path / FOLDER, Location.of(tmp_path), first_step=0, say=pytest.fail).keep(
        3, still_for(targets), targets, targets, {"psnr": [float("inf"), 30.0]}
    )
    file = tmp_path / FOLDER / INDEX_FILE
    whole = file.read_text()
    index = read_previews(Location.of(tmp_path))
    assert index is not None
    assert [worst.frame for worst in index.steps[3]] == [3, 2]
    for old, new in (
        ('"scene": 7', '"scene": "../x"'),
        ('"height": 48', '"height": 52'),
        ('"3":', '"../3":'),
        ('"psnr"', '"<b>"'),
        ('"frame": 3', '"frame": -3'),
        ('"scale": 4', '"scale": true'),
    ):
        assert old in whole
        file.write_text(whole.replace(old, new, 1))
        with pytest.raises(UserError, match=r"index\.json is damaged"):
            read_previews(Location.of(tmp_path))


def test_a_full_disk_costs_a_warning(tmp_path: Path) -> None:
    targets, said = moving(), list[str]()
    still, results = still_for(targets), spoiled(targets)
    with small_disk(tmp_path / "disk", 300) as disk:
        writer = Previews(disk / FOLDER, Location.of(disk), first_step=0, say=said.append)
        assert writer.keep(10, still, results, targets, VALUES) is None
        assert len(said) == 1
        assert said[0].startswith("warning: the preview of step 10 is not complete (")
        assert "No space left on device" in said[0]
        assert said[0].endswith("; training goes on")
        index = read_previews(Location.of(disk))
        assert index is None or not index.steps
        assert not [path.name for path in (disk / FOLDER).iterdir() if path.name.startswith(".")]


def test_an_object_store_gets_the_same_files(tmp_path: Path, server: S3Server) -> None:
    targets = moving(6, height=48, width=48)
    values = {"psnr": [30.0, 30.0]}
    output, local = Location.of(server.uri("run")), tmp_path / "temporary" / FOLDER
    writer = Previews(local, output, first_step=0, say=pytest.fail)
    for step in (1, 2, 3, 4, 5):
        kept = writer.keep(step, still_for(targets), spoiled(targets, seed=step), targets, values)
        assert kept is not None
        assert (output / FOLDER / kept.video.name).read_bytes() == kept.video.read_bytes()
    expected = {"reference.png", INDEX_FILE, *(name for step in range(1, 6) for name in files_of(step))}
    assert set((output / FOLDER).names()) == expected
    # Here only the newest stay.
    assert {path.name[:8] for path in local.glob("0*")} == {"00000003", "00000004", "00000005"}
    with Image.open(io.BytesIO((output / FOLDER / files_of(4)[0]).read_bytes())) as strip:
        assert strip.size == (6 * 48, 48)
    again = Previews(tmp_path / "other", output, first_step=4, say=pytest.fail)
    again.keep(6, still_for(targets), targets, targets, values)
    index = read_previews(output)
    assert index is not None
    assert list(index.steps) == [1, 2, 3, 4, 6]
    assert files_of(5)[0] not in (output / FOLDER).names()


def test_who_may_not_write_leaves_nothing(tmp_path: Path) -> None:
    def taken() -> None:
        raise UserError("taken over.")

    targets = moving(6, height=48, width=48)
    writer = Previews(tmp_path / FOLDER, Location.of(tmp_path), first_step=0, say=pytest.fail, may_write=taken)
    assert writer.keep(3, still_for(targets), targets, targets, {"psnr": [30.0, 30.0]}) is None
    assert not (tmp_path / FOLDER).exists()


def test_a_run_leaves_them_at_each_validation_and_the_same_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with ClipStoreWriter(path) as writer:
        add_scene(writer, 2000, moving(8, height=96, width=112))
    store = ClipStore.open(path)
    config = make_config(["--steps", "6", "--tracking.save_every", "2", "--tracking.summary_every", "99"])
    run = tmp_path / "run"
    task = TrainingTask(
        config=config,
        data=store.location,
        training_scenes=(),
        validation_scenes=store.scenes,
        output=Location.of(run),
    )
    train(task, device=torch.device("cpu"), reporter=PlainReporter(), stream=noise)
    index = read_previews(task.output)
    assert index is not None
    assert list(index.steps) == [2, 4, 6]
    assert index.view.scene == 2000
    strips = {step: (run / FOLDER / files_of(step)[0]).read_bytes() for step in index.steps}
    assert len(set(strips.values())) == 3

    # As if it had been killed after the validation of step 4: what follows is done again.
    for file in (run / checkpoint_name(6)).iterdir():
        file.unlink()
    (run / FOLDER / files_of(6)[0]).write_bytes(b"of the lost attempt")
    train(dataclasses.replace(task, config=config), device=torch.device("cpu"), reporter=PlainReporter(), stream=noise)
    assert read_previews(task.output) == index
    assert {step: (run / FOLDER / files_of(step)[0]).read_bytes() for step in index.steps} == strips
