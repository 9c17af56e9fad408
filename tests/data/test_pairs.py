"""Own pairs of low and high resolution: from the store to the frames of a step, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.schema import Config
from tecogan_dist.data.clips import ClipStore
from tecogan_dist.data.stream.decoding import decode_windows
from tecogan_dist.data.stream.fits import check_scenes
from tecogan_dist.data.stream.windows import WindowConfig, sample_at
from tecogan_dist.data.writing import ClipStoreWriter, write_clip
from tecogan_dist.ops.degrade import windows_to_frames

SCALES = [4, 2]


def make_store(path: Path, *, scale: int, pairs: bool = True) -> ClipStore:
    """Two lossless scenes of noise, 8 frames of 96x80; low resolution is every ``scale``-th pixel, so it is known."""
    frames = np.random.default_rng(3).integers(0, 256, (8, 80, 96, 3), dtype=np.uint8)
    with ClipStoreWriter(path) as writer:
        for number in (2000, 2001):
            scene = write_clip(
                path,
                number,
                iter(frames),
                rate=Fraction(24),
                source="noise",
                source_start=0,
                downscale=1,
                encoding="lossless",
                lr_frames=iter(frames[:, ::scale, ::scale]) if pairs else None,
            )
            writer.enter(scene)
    return ClipStore.open(path)


def settings_of(scale: int) -> WindowConfig:
    data = replace(Config().data, sequence_length=4, crop_size=16, degradation="pairs", moving_first_frame=0.5)
    return WindowConfig(**vars(data), scale=scale)


@pytest.mark.parametrize("scale", SCALES)
def test_low_resolution_goes_with_its_window(tmp_path: Path, scale: int) -> None:
    store = make_store(tmp_path / "store", scale=scale)
    data = settings_of(scale)
    kinds = set()
    for index in range(24):
        sample = sample_at(index, seed=5, scenes=store.scenes, data=data)
        window = torch.from_numpy(decode_windows(store.location, sample.scene, [sample], data))
        lr_frames, hr_frames = windows_to_frames(window, degradation="pairs", scale=scale)
        assert lr_frames.shape == (1, 4, 3, 16, 16)
        assert hr_frames.shape == (1, 4, 3, 16 * scale, 16 * scale)
        hr = ((hr_frames + 1) / 2 * 255).round()
        # In a mirrored window the first of scale pixels is the last.
        first = scale - 1 if sample.flip else 0
        assert torch.equal((lr_frames * 255).round(), hr[..., ::scale, first::scale])
        kinds.add((sample.flip, sample.walk is not None))
        assert (sample.y % scale, sample.x % scale) == (0, 0)
        assert all(offset % scale == 0 for step in sample.walk or () for offset in step)
    assert len(kinds) == 4


def test_crops_reach_every_corner(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", scale=4)
    data = replace(settings_of(4), moving_first_frame=0.0)
    corners = {
        (sample.y, sample.x) for sample in (sample_at(i, seed=1, scenes=store.scenes, data=data) for i in range(999))
    }
    assert corners == {(y, x) for y in range(0, 80 - 64 + 1, 4) for x in range(0, 96 - 64 + 1, 4)}


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    plain = make_store(tmp_path / "plain", scale=4, pairs=False)
    with pytest.raises(UserError, match="2 of 2 scenes have no low resolution of their own"):
        check_scenes(plain.scenes, settings_of(4))
    halves = make_store(tmp_path / "halves", scale=2)
    data = settings_of(4)
    sample = sample_at(0, seed=5, scenes=halves.scenes, data=data)
    with pytest.raises(UserError, match=r"low-resolution frames of 48x40, which are not 4 times smaller"):
        decode_windows(halves.location, sample.scene, [sample], data)
