"""PSNR, SSIM, tOF and the protocols against independent formulas; tests/parity has the original's values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from tecogan_dist.base.errors import UserError
from tecogan_dist.metrics.frame import luma, psnr_y, ssim_y
from tecogan_dist.metrics.protocol import OFFICIAL, STANDARD, Protocol, match_size
from tecogan_dist.metrics.sequence import mean, measure
from tecogan_dist.metrics.temporal import grey, optical_flow

SIMPLE = ("psnr", "ssim", "tof")


def test_official_frames_leave_two_out_at_each_end() -> None:
    assert list(OFFICIAL.frames(8)) == [2, 3, 4, 5]
    assert list(OFFICIAL.frames(7)) == [2, 3, 4]
    with pytest.raises(UserError, match="5 frames and the official protocol needs 6"):
        OFFICIAL.frames(5)


def test_standard_measures_everything() -> None:
    assert list(STANDARD.frames(3)) == [0, 1, 2]
    assert STANDARD.region(33, 47) == (slice(0, 33), slice(0, 47))
    with pytest.raises(UserError, match="needs 2"):
        STANDARD.frames(1)


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (96, 128, slice(16, 80), slice(16, 112)),  # the offsets (16, 16) and ...
        (100, 140, slice(18, 82), slice(22, 118)),  # ... (18, 22) are in the original's log (metrics.json)
        (48, 576, slice(8, 40), slice(16, 560)),
        (79, 80, slice(23, 55), slice(8, 72)),
    ],
)
def test_official_crop(height: int, width: int, rows: slice, columns: slice) -> None:
    assert OFFICIAL.region(height, width) == (rows, columns)
    pixels = np.arange(height * width).reshape(1, height, width, 1)
    assert np.array_equal(OFFICIAL.crop(pixels), pixels[:, rows, columns])


def test_frames_too_small_for_the_crop_are_refused() -> None:
    with pytest.raises(UserError, match="48 pixels"):
        OFFICIAL.region(47, 200)


def test_results_smaller_than_the_targets_are_refused() -> None:
    with pytest.raises(UserError, match="no larger"):
        match_size(np.zeros((1, 60, 64, 3), np.uint8), np.zeros((1, 64, 60, 3), np.uint8))


def test_larger_results_are_cut_at_the_bottom_and_right() -> None:
    results = np.arange(52 * 56 * 3).reshape(1, 52, 56, 3).astype(np.uint8)
    assert np.array_equal(match_size(results, np.zeros((1, 49, 50, 3), np.uint8)), results[:, :49, :50])
    with pytest.raises(UserError, match="results' resolution"):
        match_size(np.zeros((1, 192, 256, 3), np.uint8), np.zeros((1, 48, 64, 3), np.uint8))


def test_luma_of_pure_colours() -> None:
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    expected = [16, 235, 16 + 219 * 0.299, 16 + 219 * 0.587, 16 + 219 * 0.114]  # BT.601
    assert luma(colours) == pytest.approx(expected, abs=1e-9)


def test_psnr_of_a_known_error() -> None:
    target = np.full((8, 8, 3), 100, np.uint8)
    result = target + np.uint8(5)  # grey: the luma differs by 5 * 219 / 255 everywhere
    assert psnr_y(luma(result), luma(target)) == pytest.approx(20 * math.log10(255 / (5 * 219 / 255)), abs=1e-9)


def test_equal_frames_are_perfect() -> None:
    frame = luma(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8))
    black = luma(np.zeros((48, 48, 3), np.uint8))
    assert psnr_y(frame, frame) == math.inf
    for data_range in (None, 255.0):
        assert ssim_y(frame, frame, data_range=data_range) == pytest.approx(1)
        assert ssim_y(black, black, data_range=data_range) == pytest.approx(1)
        assert 0 <= ssim_y(black, frame, data_range=data_range) < 0.1


@pytest.mark.parametrize("data_range", [None, 219.0])
def test_ssim_is_that_of_scikit_image(data_range: float | None) -> None:
    random = np.random.default_rng(1)
    target = random.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    result = np.clip(target + random.integers(-30, 30, target.shape), 20, 235).astype(np.uint8)
    x, y = luma(target), luma(result)
    expected = structural_similarity(x, y, data_range=data_range or y.max() - y.min())
    assert ssim_y(y, x, data_range=data_range) == pytest.approx(expected, abs=1e-12)


def moving_texture(dy: float, dx: float, *, frames: int = 3) -> NDArray[np.uint8]:
    """(T, 112, 112, 3): a smooth pattern that moves by (dy, dx) pixels a frame."""
    y, x = np.mgrid[0:112, 0:112].astype(float)
    steps = []
    for t in range(frames):
        yy, xx = y - dy * t, x - dx * t
        waves = np.sin(xx / 5) + np.cos(yy / 6) + np.sin((xx + yy) / 9) + np.cos((xx - 2 * yy) / 13)
        steps.append(np.repeat((128 + 28 * waves)[..., None], 3, axis=-1).astype(np.uint8))
    return np.stack(steps)


def test_flow_channel_0_is_along_columns() -> None:
    first, second, _ = map(grey, moving_texture(0.5, 2.0))
    flow = OFFICIAL.crop(optical_flow(first, second))
    assert np.median(flow[..., 0]) == pytest.approx(2.0, abs=0.1)
    assert np.median(flow[..., 1]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("protocol", [OFFICIAL, STANDARD])
def test_t_of_is_the_distance_of_the_motions(protocol: Protocol) -> None:
    still, moving = moving_texture(0, 0, frames=7), moving_texture(1.2, 1.6, frames=7)
    steps = len(protocol.frames(7)) - 1
    assert measure(moving, moving, protocol=protocol, metrics=["tof"])["tof"] == [0] * steps
    # |(1.2, 1.6)|: not the L1 norm, 2.8. Without a crop the borders, where texture enters, count as well.
    tolerance = 0.1 if protocol.crops else 0.25
    measured = measure(still, moving, protocol=protocol, metrics=["tof"])["tof"]
    assert measured == pytest.approx([2.0] * steps, rel=tolerance)


def test_measure_takes_frames_and_regions_of_its_protocol() -> None:
    random = np.random.default_rng(3)
    targets = random.integers(0, 256, (7, 50, 70, 3), dtype=np.uint8)
    results = random.integers(0, 256, (7, 52, 72, 3), dtype=np.uint8)
    official = measure(results, targets, metrics=SIMPLE)
    standard = measure(results, targets, metrics=SIMPLE, protocol=STANDARD)
    assert {name: len(values) for name, values in official.items()} == {"psnr": 3, "ssim": 3, "tof": 2}
    assert {name: len(values) for name, values in standard.items()} == {"psnr": 7, "ssim": 7, "tof": 6}
    for values, frames, rows, columns, span in (
        (official, [2, 3, 4], slice(9, 41), slice(19, 51), None),
        (standard, range(7), slice(0, 50), slice(0, 70), 255.0),
    ):
        for number, index in enumerate(frames):
            ours, theirs = luma(results[index, rows, columns]), luma(targets[index, rows, columns])
            assert values["psnr"][number] == psnr_y(ours, theirs)
            assert values["ssim"][number] == ssim_y(ours, theirs, data_range=span)


def test_sequences_of_different_length_are_refused() -> None:
    frames = np.zeros((8, 48, 48, 3), np.uint8)
    with pytest.raises(UserError, match="8 results and 7 targets"):
        measure(frames, frames[:7], metrics=SIMPLE)


def test_mean() -> None:
    assert mean([1.0, 2.0, 6.0]) == 3.0
    assert mean([1.0, math.inf]) == math.inf
    assert math.isnan(mean([]))
