"""BI against MATLAB's definition in exact arithmetic, and what low resolution means for windows and networks."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from tecogan_dist.config.degradations import Degradation, bicubic_margin, is_centred, window_margin
from tecogan_dist.data.stream.windows import WindowConfig, crop_side
from tecogan_dist.ops.degrade import blur_down, degrade_frames, windows_to_frames
from tecogan_dist.ops.images import space_to_depth
from tecogan_dist.ops.imresize import imresize, imresize_crops
from tecogan_dist.ops.resampling import resize_bicubic, resize_bilinear

HALF = Fraction(1, 2)


def cubic(x: Fraction) -> Fraction:
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    if x <= 2:
        return -HALF * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2
    return Fraction(0)


def matlab_rows(image: np.ndarray, factor: int) -> np.ndarray:
    """``imresize.m``'s contributions and their sums along the first dimension, before rounding: exact fractions."""
    scale, size = Fraction(1, factor), len(image)
    exact = image.astype(object)
    mirror = [*range(size), *reversed(range(size))]
    rows = []
    for k in range(1, math.ceil(scale * size) + 1):
        centre = k / scale + (1 - 1 / scale) / 2
        width = 4 / scale
        left = math.floor(centre - width / 2)
        indices = [left + i for i in range(math.ceil(width) + 2)]
        weights = [scale * cubic(scale * (centre - index)) for index in indices]
        total = sum(weights)
        rows.append(sum(w / total * exact[mirror[(i - 1) % (2 * size)]] for w, i in zip(weights, indices, strict=True)))
    return np.array(rows, dtype=object)


def to_uint8(exact: np.ndarray) -> np.ndarray:
    """Nearest level, halves away from zero, saturated: MATLAB's cast."""
    return np.vectorize(lambda value: min(max(math.floor(value + HALF), 0), 255))(exact).astype(np.uint8)


def matlab_imresize(image: np.ndarray, factor: int) -> np.ndarray:
    """(H, W, C) uint8, pixel by pixel; rows first, rounded after each dimension."""
    rows = to_uint8(matlab_rows(image, factor))
    return to_uint8(matlab_rows(rows.transpose(1, 0, 2), factor)).transpose(1, 0, 2)


def frame(kind: str, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8."""
    generator = np.random.default_rng(height * width)
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    if kind == "random":
        return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "smooth":
        return (127 + 70 * np.sin(x / 9 + c) + 50 * np.cos(y / 7 - c)).astype(np.uint8)
    if kind == "edges":  # overshoots that must be clipped
        return np.where((x // 11 + y // 13 + c) % 2, 255, 0).astype(np.uint8)
    return 64 * generator.integers(0, 4, (height, width, 3), dtype=np.uint8)  # many sums are halves


def images(array: np.ndarray) -> Tensor:
    """(H, W, C) to (1, C, H, W)."""
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None]


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize(("height", "width"), [(32, 48), (37, 42), (23, 25), (5, 3), (1, 2)])
@pytest.mark.parametrize("kind", ["random", "smooth", "edges", "coarse"])
def test_imresize_is_matlabs_bit_for_bit(kind: str, height: int, width: int, factor: int) -> None:
    image = frame(kind, height, width)
    result = imresize(images(image), factor)
    assert result.dtype == torch.uint8
    assert result.shape == (1, 3, math.ceil(height / factor), math.ceil(width / factor))
    assert np.array_equal(result[0].permute(1, 2, 0).numpy(), matlab_imresize(image, factor))


def test_the_frames_above_tell_the_roundings_apart() -> None:
    for factor in (2, 4):
        image = frame("coarse", 37, 42)
        rows = matlab_rows(image, factor)
        to_even = np.vectorize(lambda value: min(max(round(value), 0), 255))(rows)
        assert (to_even != to_uint8(rows)).sum() > 5
        once = to_uint8(matlab_rows(rows.transpose(1, 0, 2), factor)).transpose(1, 0, 2)
        assert (once != matlab_imresize(image, factor)).any()


@pytest.mark.parametrize("factor", [1, 3, 5, 8])
def test_other_factors_of_floats(factor: int) -> None:
    image = frame("edges", 37, 42)
    result = imresize(images(image).double(), factor)[0].permute(1, 2, 0).numpy()
    exact = matlab_rows(matlab_rows(image, factor).transpose(1, 0, 2), factor).transpose(1, 0, 2).astype(float)
    np.testing.assert_allclose(result, exact, rtol=0, atol=1e-10)
    if factor > 1:
        assert result.max() > 255  # not clipped
        assert np.modf(result)[0].any()


@pytest.mark.gpu
def test_imresize_on_cuda_equals_cpu() -> None:
    image = images(frame("random", 135, 241))
    for factor in (2, 4):
        assert torch.equal(imresize(image.cuda(), factor).cpu(), imresize(image, factor))


@pytest.mark.parametrize("scale", [2, 4])
def test_bi_windows_hold_the_pixels_of_the_whole_frames(scale: int) -> None:
    data = WindowConfig(crop_size=8, degradation="BI", scale=scale)
    side, border = crop_side(data), window_margin("BI", scale)
    assert (side, border) == {2: (16 + 6, 3), 4: (32 + 12, 6)}[scale]
    whole = frame("random", 120, 100)
    small = imresize(images(whole), scale)
    for y, x in [(3, 2), (7, 5)]:  # low-resolution pixels
        top, left = scale * y - border, scale * x - border
        window = torch.from_numpy(whole[top : top + side, left : left + side].copy())
        lr_frames, hr_frames = windows_to_frames(window[None, None], degradation="BI", scale=scale)
        assert torch.equal(lr_frames[0], small[:, :, y : y + 8, x : x + 8].float() / 255)
        target = whole[scale * y : scale * (y + 8), scale * x : scale * (x + 8)]
        torch.testing.assert_close(hr_frames[0], images(target) / 255 * 2 - 1)


def test_the_margin_is_what_the_kernel_reaches() -> None:
    for factor in (2, 4):
        side = 8 * factor + 2 * bicubic_margin(factor)
        impulse = torch.zeros(1, 1, side, side, dtype=torch.float64)
        before = imresize_crops(impulse, factor)
        assert before.shape == (1, 1, 8, 8)
        for corner in (0, -1):
            impulse.zero_()[..., corner, corner] = 1
            changed = imresize_crops(impulse, factor).nonzero()[:, 2:].tolist()
            assert changed == [[7, 7] if corner else [0, 0]]


@pytest.mark.parametrize("degradation", ["BD", "BI"])
@pytest.mark.parametrize("scale", [2, 4])
def test_enlarging_lays_pixels_where_the_degradation_took_them(degradation: Degradation, scale: int) -> None:
    """A slope, degraded and enlarged again, is the same slope at the same place."""
    slope = (torch.arange(96.0)[:, None] + 2 * torch.arange(80.0)[None]).view(1, 1, 96, 80) / 256
    small = degrade_frames(slope, degradation, scale)
    assert small.shape == (1, 1, 96 // scale, 80 // scale)
    # Cubic convolution bends a slope where a is not -0.5; half a pixel beside it would be 1.5 / 256.
    for enlarge, tolerance in ((resize_bilinear, 3e-6), (resize_bicubic, 0.6 / 256)):
        again = enlarge(small, scale, centred=is_centred(degradation))
        assert again.shape == slope.shape
        inner = (..., slice(24, -24), slice(24, -24))
        torch.testing.assert_close(again[inner], slope[inner], rtol=0, atol=tolerance)


def test_bd_windows_of_scale_2_take_every_2nd_blurred_pixel() -> None:
    hr = torch.from_numpy(frame("random", 40, 40))
    by_four, _ = windows_to_frames(hr[None, None])
    by_two, target = windows_to_frames(hr[None, None], degradation="BD", scale=2)
    assert by_two.shape == (1, 1, 3, 16, 16)
    assert target.shape == (1, 1, 3, 32, 32)
    torch.testing.assert_close(by_two[..., ::2, ::2], by_four)
    whole = images(hr.numpy()).float() / 255
    assert torch.equal(blur_down(whole, 2)[..., ::2, ::2], blur_down(whole))


@pytest.mark.parametrize("scale", [2, 4])
def test_whole_frames_by_the_name_of_their_degradation(scale: int) -> None:
    levels = images(frame("random", 37, 42))
    floats = levels.float() / 255
    assert torch.equal(degrade_frames(levels, "BD", scale), blur_down(floats, scale))
    assert torch.equal(degrade_frames(floats, "BD", scale), blur_down(floats, scale))
    assert torch.equal(degrade_frames(levels, "BI", scale), imresize(levels, scale).float() / 255)  # as in a file
    assert torch.equal(degrade_frames(floats, "BI", scale), imresize(floats, scale))
    for pixels in (levels, floats):
        assert torch.equal(degrade_frames(pixels, None, scale), floats)


def test_space_to_depth_by_2() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    folded = space_to_depth(x, 2)
    assert folded.shape == (2, 12, 2, 3)
    for dy, dx, c in [(0, 0, 0), (0, 1, 2), (1, 0, 1), (1, 1, 2)]:
        assert torch.equal(folded[:, (2 * dy + dx) * 3 + c], x[:, c, dy::2, dx::2])
