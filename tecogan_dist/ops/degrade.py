"""High resolution to low resolution: the one module that knows what the names BD, BI and pairs do to pixels.

BD blurs and keeps every ``scale``-th pixel; its two functions stand here. BI is :mod:`tecogan_dist.ops.imresize`. Pairs
have low resolution of their own.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tecogan_dist.config.degradations import BLUR_MARGIN, Degradation, LrOrigin, window_margin
from tecogan_dist.ops.images import to_signed
from tecogan_dist.ops.imresize import imresize, imresize_crops
from tecogan_dist.ops.resampling import filter_planes, kernel_on

BLUR_SIGMA = 1.5
"""Standard deviation of BD's Gaussian, in high-resolution pixels (TecoGAN, section 4). It is the same for scale 2,
where only the stride changes."""
_RADIUS = 6
"""Of the blur of whole frames: OpenCV's round(8 * sigma + 1) | 1 = 13 taps."""


def degrade_frames(pixels: Tensor, degradation: Degradation | None, scale: int) -> Tensor:
    """What a network sees of whole frames (N, C, H, W), uint8 or float 0..1, on any device.

    Returns float (N, C, ceil(H / scale), ceil(W / scale)) around 0..1. BD is not rounded, as in the original's
    inference; BI keeps whole levels of uint8 frames, because the field's BI sets are files. Without a ``degradation``
    the frames are of low resolution already and keep their size.
    """
    if degradation == "BI":
        pixels = imresize(pixels, scale)
    values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    return blur_down(values, scale) if degradation == "BD" else values


def windows_to_frames(windows: Tensor, *, degradation: LrOrigin = "BD", scale: int = 4) -> tuple[Tensor, Tensor]:
    """Training frames from the stream's windows, on the windows' device.

    ``windows``: (N, T, scale * h + 2 m, scale * w + 2 m, 3) uint8, m being :func:`window_margin`; of pairs they are as
    :func:`data.stream.windows.cut_windows` packs them. Returns ``lr_frames`` (N, T, 3, h, w) in 0..1, and ``hr_frames``
    (N, T, 3, scale * h, scale * w) in -1..1, the crop without its margin.

    BD is not rounded, as in the original's training. BI is rounded to uint8 levels, because the field's BI sets are
    files; where the crop begins at a multiple of ``scale``, its pixels are those of the whole frame's ``imresize``.
    """
    n, t, side = windows.shape[:3]
    if degradation == "pairs":
        windows, packed = windows[..., :side, :], windows[..., side:, :]
        lr_side = side // scale
        lr_pixels = packed.reshape(n * t, lr_side, lr_side, 3).permute(0, 3, 1, 2)
    pixels = windows.flatten(0, 1).permute(0, 3, 1, 2)
    hr = pixels.float() * (1 / 255)
    if degradation == "BD":
        lr = blur_down_crops(hr, scale)
    else:
        lr = (imresize_crops(pixels, scale) if degradation == "BI" else lr_pixels).float() / 255
    margin = window_margin(degradation, scale)
    inner = hr[..., margin : hr.shape[-2] - margin, margin : hr.shape[-1] - margin]
    return lr.unflatten(0, (n, t)), to_signed(inner).unflatten(0, (n, t))


def blur_down(hr: Tensor, scale: int = 4) -> Tensor:
    """BD of whole frames, as the original's inference from high resolution does it with OpenCV.

    ``hr`` is (N, C, H, W); sigma 1.5 with the 13 taps that OpenCV picks for it on float images, edges mirrored without
    repeating the edge pixel, every ``scale``-th pixel: returns (N, C, ceil(H / scale), ceil(W / scale)). H and W are at
    least 7.
    """
    n, c, h, w = hr.shape
    profile = kernel_on(hr.device, hr.dtype, _frame_profile)
    planes = F.pad(hr.reshape(n * c, 1, h, w), (_RADIUS,) * 4, mode="reflect")
    rows = filter_planes(planes, profile.view(1, 1, 1, -1), (1, scale))
    lr = filter_planes(rows, profile.view(1, 1, -1, 1), (scale, 1))
    return lr.view(n, c, *lr.shape[-2:])


def blur_down_crops(hr: Tensor, scale: int = 4) -> Tensor:
    """BD of crops, as the original's training does it: 9x9 Gaussian of sigma 1.5, every ``scale``-th pixel, no padding.

    ``hr`` is (N, C, scale * h + 8, scale * w + 8) with BLUR_MARGIN pixels of margin; returns (N, C, h, w).
    Low-resolution pixel i is centred on pixel scale * i of the crop without its margin.
    """
    n, c, h, w = hr.shape
    lr = filter_planes(hr.reshape(n * c, 1, h, w), kernel_on(hr.device, hr.dtype, _crop_kernel), scale)
    return lr.view(n, c, *lr.shape[-2:])


def _frame_profile() -> np.ndarray:
    """(13,), float64: :func:`blur_down`'s weights along one direction."""
    profile = torch.exp(-0.5 * (torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64) / BLUR_SIGMA) ** 2)
    return (profile / profile.sum()).numpy()


def _crop_kernel() -> np.ndarray:
    """(1, 1, 9, 9), float64: :func:`blur_down_crops`' weights."""
    profile = np.exp(-0.5 * np.arange(-BLUR_MARGIN, BLUR_MARGIN + 1) ** 2 / BLUR_SIGMA**2)
    kernel = np.outer(profile, profile)
    return (kernel / kernel.sum())[None, None]
