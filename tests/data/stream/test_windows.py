from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.schema import Config, DataConfig, ModelConfig
from tecogan_dist.data.clips import Scene, Scenes
from tecogan_dist.data.stream.windows import (
    Sample,
    WindowConfig,
    crop_side,
    cut_windows,
    decode_of,
    needed_frames,
    sample_at,
    scene_of_decode,
    window_config,
)
from tests.support.video_files import FRAMES_PER_SCENE, coded_frame, read_code

SCALES: tuple[Literal[4, 2], ...] = (4, 2)
DEGRADATIONS: tuple[Literal["BD", "BI"], ...] = ("BD", "BI")


def make_scenes(count: int, *, frames: int = 12, height: int = 170, width: int = 200) -> list[Scene]:
    return [
        Scene(
            number=2000 + number,
            file=f"clips/scene_{2000 + number}.mp4",
            frames=frames,
            height=height,
            width=width,
            rate="24/1",
            source="",
            source_start=0,
            downscale=1,
            sha256="",
        )
        for number in range(count)
    ]


def make_samples(count: int, *, data: WindowConfig, scenes: list[Scene], seed: int = 1) -> list[Sample]:
    return [sample_at(index, seed=seed, scenes=scenes, data=data) for index in range(count)]


def test_distributions_are_the_originals() -> None:
    """The set-up of the reference's datacheck: 2 scenes of 12 frames of 200x170, windows of 5 frames, crop 32.

    Expected values are the probabilities of the original's code with both ends of the ranges included; tolerances are
    four standard deviations.
    """
    data = WindowConfig(sequence_length=5)
    count = 4000
    samples = make_samples(count, data=data, scenes=make_scenes(2))
    four_sigma = 4 / np.sqrt(count)
    assert abs(np.mean([sample.flip for sample in samples]) - 0.5) < 0.5 * four_sigma
    assert abs(np.mean([sample.walk is not None for sample in samples]) - 0.3) < np.sqrt(0.21) * four_sigma
    starts = Counter(sample.start for sample in samples)
    assert sorted(starts) == list(range(8))
    assert max(abs(starts[start] / count - 1 / 8) for start in starts) < np.sqrt(7 / 64) * four_sigma
    still = [sample for sample in samples if sample.walk is None]
    assert {sample.x for sample in still} == set(range(65))
    assert {sample.y for sample in still} == set(range(35))
    assert abs(np.mean([sample.x for sample in still]) - 32) < 4 * np.sqrt(65**2 / 12 / len(still))

    walks = np.array([sample.walk for sample in samples if sample.walk is not None])
    assert (walks.min(axis=1) == 0).all()
    steps = np.diff(walks, axis=1).ravel()
    histogram = {step: np.mean(steps == step) for step in range(-4, 5)}
    expected = {step: 1 / 16 if abs(step) == 4 else 1 / 8 for step in range(-4, 5)}
    assert np.isin(steps, range(-4, 5)).all()
    for step in expected:
        assert abs(histogram[step] - expected[step]) < 4 * np.sqrt(expected[step] / steps.size), step
    moving = [sample for sample in samples if sample.walk is not None]
    assert max(sample.x + max(x for x, _ in sample.walk or ()) for sample in moving) == 64
    assert max(sample.y + max(y for _, y in sample.walk or ()) for sample in moving) == 34
    assert min(sample.x for sample in moving) == min(sample.y for sample in moving) == 0


def test_scenes_are_used_equally_often_and_rotate() -> None:
    data = WindowConfig(sequence_length=5, scenes_in_mix=4, windows_per_decode=3)
    scenes = make_scenes(7)
    count = 7 * 12 * 4
    samples = make_samples(count, data=data, scenes=scenes)
    assert set(Counter(sample.scene.number for sample in samples).values()) == {count // 7}
    decodes = [decode_of(index, data) for index in range(24)]
    assert decodes == [0, 1, 2, 3] * 3 + [4, 5, 6, 7] * 3
    passes = [tuple(samples[d // 4 * 12 + d % 4].scene.number for d in range(7 * p, 7 * p + 7)) for p in range(8)]
    assert all(sorted(one_pass) == list(range(2000, 2007)) for one_pass in passes)
    assert len(set(passes)) > 1


def test_a_sample_depends_on_seed_and_number_only() -> None:
    data, scenes = WindowConfig(sequence_length=5), make_scenes(5)
    samples = make_samples(50, data=data, scenes=scenes)
    backwards = [sample_at(index, seed=1, scenes=scenes, data=data) for index in reversed(range(50))]
    assert samples == backwards[::-1]
    assert samples != make_samples(50, data=data, scenes=scenes, seed=2)
    first = samples[0]
    assert (first.scene.number, first.start, first.y, first.x, first.flip, first.walk) == EXPECTED_FIRST


# Written down once: a change here changes what every earlier run would resume with.
EXPECTED_FIRST = (2004, 2, 31, 2, True, None)


def test_samples_are_those_of_every_version_before() -> None:
    """A run that is resumed goes on with the samples that it began with; found by the version of issue 14."""
    scenes = [
        dataclasses.replace(scene, frames=20 + n % 100, height=150 + n % 7, width=160 + n % 11, sha256="0" * 64)
        for n, scene in enumerate(make_scenes(1000))
    ]

    def facts(index: int, scenes: Sequence[Scene]) -> tuple[object, ...]:
        sample = sample_at(index, seed=7, scenes=scenes, data=WindowConfig())
        return sample.index, sample.scene.number - 2000, sample.start, sample.y, sample.x, sample.flip, sample.walk

    for some in (scenes, Scenes.of(scenes)):
        assert facts(10**9, some) == (10**9, 341, 42, 10, 6, False, None)
        assert facts(99_999, some)[:6] == (99_999, 545, 38, 8, 5, False)
        samples = repr([facts(index, some) for index in range(0, 40_000, 37)])
        assert (
            hashlib.sha256(samples.encode()).hexdigest()
            == "78c1cacad97cf3df2cd6065c5626ebd4a0dee17c2f1a7b0765d3f19dd16f2230"
        )
    many: Any = range(10**6)
    decodes = [0, 1, 999_999, 10**6, 10**9]
    found: list[Any] = [scene_of_decode(decode, seed=7, scenes=many) for decode in decodes]
    assert found == [663157, 31198, 904053, 201842, 536750]


def test_switches_turn_flip_and_movement_off() -> None:
    data = WindowConfig(sequence_length=5, flip=False, moving_first_frame=0.0)
    samples = make_samples(200, data=data, scenes=make_scenes(2))
    assert not any(sample.flip or sample.walk for sample in samples)


def test_windows_show_the_pixels_that_their_samples_name() -> None:
    data = WindowConfig(sequence_length=4, crop_size=8)
    scenes = make_scenes(1, frames=FRAMES_PER_SCENE, height=64, width=72)
    samples = make_samples(60, data=data, scenes=scenes)
    positions = needed_frames(samples, 4)
    frames = (coded_frame(0, position, height=64, width=72) for position in positions)
    windows = cut_windows(frames, samples, data)
    assert windows.shape == (60, 4, 40, 40, 3)
    assert windows.dtype == np.uint8
    assert any(sample.walk for sample in samples)
    for window, sample in zip(windows, samples, strict=True):
        for step, frame in enumerate(window):
            x, y = (0, 0) if sample.walk is None else sample.walk[step]
            shown = sample.start if sample.walk else sample.start + step
            assert read_code(frame) == (0, shown, sample.y + y, sample.x + x, sample.flip)
            assert frame[0, 39 if sample.flip else 0].tolist()[:2] == [3 * (sample.x + x), 3 * (sample.y + y)]


def test_the_crop_is_the_target_with_the_margin_of_its_degradation() -> None:
    sides = {
        (scale, degradation): crop_side(
            window_config(Config(model=ModelConfig(scale=scale), data=DataConfig(degradation=degradation)))
        )
        for scale in SCALES
        for degradation in DEGRADATIONS
    }
    assert sides == {(4, "BD"): 136, (4, "BI"): 140, (2, "BD"): 72, (2, "BI"): 70}
    data = WindowConfig(sequence_length=4, crop_size=8, degradation="BI", scale=2)
    samples = make_samples(20, data=data, scenes=make_scenes(1, height=22, width=30))
    frames = (coded_frame(0, 0, height=22, width=30) for _ in needed_frames(samples, 4))
    assert cut_windows(frames, samples, data).shape == (20, 4, 22, 22, 3)
    assert {sample.y for sample in samples} == {0}


def test_a_scene_as_small_as_the_crop_is_enough() -> None:
    data = WindowConfig(sequence_length=5, crop_size=8, moving_first_frame=1.0)
    samples = make_samples(100, data=data, scenes=make_scenes(1, frames=5, height=40, width=42))
    for sample in samples:
        assert sample.walk is not None
        assert (sample.start, sample.y) == (0, 0)
        assert all(y == 0 and 0 <= sample.x + x <= 2 for x, y in sample.walk)
    assert len({sample.walk for sample in samples}) > 10


def test_only_needed_frames_are_asked_for_and_a_short_scene_is_named() -> None:
    data = WindowConfig(sequence_length=4, crop_size=8, moving_first_frame=0.0)
    samples = make_samples(2, data=data, scenes=make_scenes(1, frames=100, height=64, width=72))
    positions = needed_frames(samples, 4)
    assert positions == sorted({sample.start + step for sample in samples for step in range(4)})
    frames = iter([coded_frame(0, 0, height=64, width=72)] * (len(positions) + 5))
    cut_windows(frames, samples, data)
    assert len(list(frames)) == 5
    with pytest.raises(UserError, match=r"scene_2000\.mp4 ends before"):
        cut_windows(iter([coded_frame(0, 0, height=64, width=72)]), samples, data)
