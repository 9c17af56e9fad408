"""PSNR, SSIM and tOF against the original's recorded values and against independent formulas."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from tecogan_dist.errors import UserError
from tecogan_dist.metrics.frame import luma, psnr_y, ssim_y
from tecogan_dist.metrics.protocol import crop, match_size, official_crop, official_frames
from tecogan_dist.metrics.temporal import optical_flow, t_of, t_of_flows

REFERENCE = Path(__file__).parent / "reference"
# The vectors' second sequence has 7 frames, but its recorded values run to frame 5, as if its target folder had held 8;
# every recorded value is compared here, and the selection of frames has tests of its own.
RECORDED = range(2, 6)


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[float]]:
    values: dict[str, list[float]] = json.loads((REFERENCE / "metrics.json").read_text())["per_frame"]
    return values


@pytest.fixture(scope="module", params=[0, 1])
def sequence(request: pytest.FixtureRequest) -> tuple[int, NDArray[np.uint8], NDArray[np.uint8]]:
    frames = np.load(REFERENCE / "metrics_frames.npz")
    targets = frames[f"tar_{request.param}"]
    return request.param, match_size(frames[f"res_{request.param}"], targets), targets


def test_psnr_and_ssim_equal_the_original(
    recorded: dict[str, list[float]], sequence: tuple[int, NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    number, results, targets = sequence
    pairs = [(crop(results[i]), crop(targets[i])) for i in RECORDED]
    assert [psnr_y(*pair) for pair in pairs] == pytest.approx(recorded[f"PSNR_0{number}"], abs=1e-4)
    assert [ssim_y(*pair) for pair in pairs] == pytest.approx(recorded[f"SSIM_0{number}"], abs=1e-6)


def test_t_of_equals_the_original(
    recorded: dict[str, list[float]], sequence: tuple[int, NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    number, results, targets = sequence
    measured = t_of(results[RECORDED.start : RECORDED.stop], targets[RECORDED.start : RECORDED.stop])
    assert measured == pytest.approx(recorded[f"tOF_0{number}"], rel=1e-3)


def test_official_frames_leave_two_out_at_each_end() -> None:
    assert list(official_frames(8)) == [2, 3, 4, 5]
    assert list(official_frames(7)) == [2, 3, 4]
    assert list(official_frames(5)) == [2]
    with pytest.raises(UserError, match="4 frames is too short"):
        official_frames(4)


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
    assert official_crop(height, width) == (rows, columns)
    pixels = np.arange(height * width).reshape(1, height, width, 1)
    assert np.array_equal(crop(pixels), pixels[:, rows, columns])


def test_frames_too_small_for_the_crop_are_refused() -> None:
    with pytest.raises(UserError, match="48 pixels"):
        official_crop(47, 200)


def test_results_smaller_than_the_targets_are_refused() -> None:
    with pytest.raises(UserError, match="no larger"):
        match_size(np.zeros((1, 60, 64, 3), np.uint8), np.zeros((1, 64, 60, 3), np.uint8))


def test_luma_of_pure_colours() -> None:
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    expected = [16, 235, 16 + 219 * 0.299, 16 + 219 * 0.587, 16 + 219 * 0.114]  # BT.601
    assert luma(colours) == pytest.approx(expected, abs=1e-9)


def test_psnr_of_a_known_error() -> None:
    target = np.full((8, 8, 3), 100, np.uint8)
    result = target + np.uint8(5)  # grey: the luma differs by 5 * 219 / 255 everywhere
    assert psnr_y(result, target) == pytest.approx(20 * math.log10(255 / (5 * 219 / 255)), abs=1e-9)


def test_equal_frames_are_perfect() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    assert psnr_y(frame, frame) == math.inf
    assert ssim_y(frame, frame) == pytest.approx(1)
    black = np.zeros((48, 48, 3), np.uint8)
    assert ssim_y(black, black) == pytest.approx(1)
    assert 0 <= ssim_y(black, frame) < 0.1


@pytest.mark.parametrize("data_range", [None, 219.0])
def test_ssim_formula(data_range: float | None) -> None:
    random = np.random.default_rng(1)
    target = random.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    result = np.clip(target + random.integers(-30, 30, target.shape), 20, 235).astype(np.uint8)
    x, y = luma(target), luma(result)
    span = data_range or y.max() - y.min()
    samples = 49 / 48
    mean_x, mean_y = uniform_filter(x, 7), uniform_filter(y, 7)
    var_x = samples * (uniform_filter(x * x, 7) - mean_x**2)
    var_y = samples * (uniform_filter(y * y, 7) - mean_y**2)
    covariance = samples * (uniform_filter(x * y, 7) - mean_x * mean_y)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    assert ssim_y(result, target, data_range=data_range) == pytest.approx(similarity[3:-3, 3:-3].mean(), abs=1e-9)


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
    flow = crop(next(optical_flow(moving_texture(0.5, 2.0))))
    assert np.median(flow[..., 0]) == pytest.approx(2.0, abs=0.1)
    assert np.median(flow[..., 1]) == pytest.approx(0.5, abs=0.1)


def test_t_of_is_the_distance_of_the_motions() -> None:
    still, moving = moving_texture(0, 0), moving_texture(1.2, 1.6)
    assert t_of(moving, moving) == [0, 0]
    assert t_of(still, moving) == pytest.approx([2.0, 2.0], rel=0.1)  # |(1.2, 1.6)|: not the L1 norm, 2.8


def test_t_of_with_flows_computed_once() -> None:
    still, moving = moving_texture(0, 0), moving_texture(1.2, 1.6)
    target_flows = list(optical_flow(moving))
    assert t_of_flows(still, target_flows) == t_of(still, moving)
    assert t_of_flows(moving, target_flows) == [0, 0]


def test_t_of_of_a_single_frame_is_empty() -> None:
    frame = moving_texture(0, 0, frames=1)
    assert t_of(frame, frame) == []
