"""Warping and enlarging as the original TensorFlow graph does them (tests/parity).

Images are (N, C, H, W) in any memory format; channels_last stays channels_last. Values are 0..1 unless a docstring says
otherwise. Flow has 2 channels in pixels of the image it belongs to: channel 0 is along rows (y), channel 1 along
columns (x).

``scale`` is the factor between low and high resolution: 4, the original's, or 2. Where low-resolution pixel i lies
depends on the degradation: BD takes every ``scale``-th pixel, so it is centred on high-resolution pixel scale * i; BI
is called ``centred``, it lies over the middle of pixels scale * i to scale * i + scale - 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tecogan_dist.ops.cudnn import cudnn_flags

CHANNELS_AT_ONCE = 16
"""From which torch's CUDA kernel for channels_last takes over (aten/src/ATen/native/cuda/UpSampleBilinear2d.cu), which
works on all of them at once. The other one has a thread for each pixel go through all images and channels: 6 ms
instead of less than 0.5 for what a step enlarges, at the published settings on an H200."""


def warp(frames: Tensor, flow: Tensor) -> Tensor:
    """Sample ``frames`` (N, C, H, W) bilinearly at ``p - flow(p)``, flow (N, 2, H, W) in pixels, edges held.

    H and W are at least 2. The gradient with respect to the flow follows TensorFlow's dense_image_warp where a position
    is clamped or falls on a pixel: zero where the fraction is exactly 0, alive where it is exactly 1.
    """
    n, c, h, w = frames.shape
    top, fraction_y = _split_position(torch.arange(h, device=flow.device).view(1, h, 1) - flow[:, 0], h)
    left, fraction_x = _split_position(torch.arange(w, device=flow.device).view(1, 1, w) - flow[:, 1], w)
    corner = (top * w + left).view(n, h * w, 1)
    pixels = frames.permute(0, 2, 3, 1).reshape(n, h * w, c)

    def at(offset: int) -> Tensor:
        return pixels.gather(1, (corner + offset).expand(-1, -1, c))

    fraction_y, fraction_x = fraction_y.view(n, h * w, 1), fraction_x.view(n, h * w, 1)
    top_left, top_right, bottom_left, bottom_right = at(0), at(1), at(w), at(w + 1)
    upper = fraction_x * (top_right - top_left) + top_left
    lower = fraction_x * (bottom_right - bottom_left) + bottom_left
    sampled = fraction_y * (lower - upper) + upper
    return sampled.view(n, h, w, c).permute(0, 3, 1, 2)


def _split_position(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Index of the pixel before a position and the fraction beyond it, both clamped to the image."""
    # A flow that is not a number must not become an index: its loss will say so.
    before = position.detach().floor().nan_to_num(0).clamp(0, size - 2)
    fraction = position - before
    # torch.clamp passes gradient at both bounds; TensorFlow's max/min pair blocks it at 0 and passes it at 1.
    inside = (fraction > 0) & (fraction <= 1)
    return before.long(), torch.where(inside, fraction, fraction.detach().clamp(0, 1))


def resize_bilinear(x: Tensor, factor: int, *, centred: bool = False) -> Tensor:
    """Enlarge (N, C, H, W) by an integer factor; output pixel i samples position i / factor, edges held.

    This is TensorFlow 1's ``resize_bilinear`` without half-pixel centres: interpolation on a grid whose last row
    and column are doubled, with aligned corners. With ``centred`` output pixel i samples (i + 0.5) / factor - 0.5.
    """
    h, w = x.shape[-2:]
    if centred:
        return _interpolated(x, (h * factor, w * factor), align_corners=False)
    grown = _interpolated(_with_doubled_edges(x), (h * factor + 1, w * factor + 1), align_corners=True)
    return grown[..., : h * factor, : w * factor]


def _interpolated(x: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    if not x.is_cuda or x.shape[1] < CHANNELS_AT_ONCE:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
    grown = F.interpolate(
        x.contiguous(memory_format=torch.channels_last), size=size, mode="bilinear", align_corners=align_corners
    )
    return grown.contiguous() if x.is_contiguous() else grown


def _with_doubled_edges(x: Tensor) -> Tensor:
    """Images with their last row and column twice."""
    if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
        # The gradient of a replicating pad has another order in memory than torch.compile expects on a CPU.
        x = torch.cat([x, x[..., -1:]], dim=-1)
        return torch.cat([x, x[..., -1:, :]], dim=-2)
    return F.pad(x, (0, 1, 0, 1), mode="replicate")


def resize_bicubic(x: Tensor, scale: int = 4, *, centred: bool = False) -> Tensor:
    """Enlarge (N, C, H, W) by cubic convolution with a = -0.75, sampling as :func:`resize_bilinear` does, edges held.

    The generator's skip connection.
    """
    n, c, h, w = x.shape
    if centred:
        return F.interpolate(x, size=(h * scale, w * scale), mode="bicubic", align_corners=False)
    kernel = kernel_on(x.device, torch.float32, _bicubic_weights, scale)
    padded = F.pad(x, (1, 2, 1, 2), mode="replicate").reshape(n * c, 1, h + 3, w + 3)
    return F.pixel_shuffle(filter_planes(padded, kernel), scale).reshape(n, c, h * scale, w * scale)


def filter_planes(planes: Tensor, kernel: Tensor, stride: int | tuple[int, int] = 1) -> Tensor:
    """Convolve (N, 1, H, W) with a fixed kernel (O, 1, h, w), without padding.

    In full precision under autocast and where features are in TF32, too: these are images. TF32 keeps 10 bits of them.
    """
    exact = contextlib.nullcontext() if torch.compiler.is_compiling() else cudnn_flags(allow_tf32=False)
    with torch.autocast(planes.device.type, enabled=False), exact:
        return F.conv2d(planes, kernel, stride=stride)


def kernel_on(device: torch.device, dtype: torch.dtype, weights: Callable[..., np.ndarray], *arguments: int) -> Tensor:
    """What ``weights`` gives for ``arguments``, a fixed kernel, on the device.

    One for each device, kept: a copy from pageable memory would make each frame wait for the GPU, and cannot be part
    of a captured CUDA graph. Not kept is what stands for a tensor while torch traces (it is of a subclass), nor what
    is made while torch compiles.
    """
    key = (device, dtype, weights, arguments)
    kernel = _kernels.get(key)
    if kernel is None:
        # A tensor of inference mode could not be saved for a backward pass later.
        with torch.inference_mode(False):
            kernel = torch.tensor(weights(*arguments), dtype=dtype, device=device)
        if type(kernel) is Tensor and not torch.compiler.is_compiling():
            _kernels[key] = kernel
    return kernel


_kernels: dict[tuple[object, ...], Tensor] = {}


def _bicubic_weights(scale: int) -> np.ndarray:
    """(scale * scale, 1, 4, 4) float32: weights of the 4x4 neighbourhood for each of scale x scale output phases."""
    a = -0.75

    def cubic(distance: float) -> float:
        d = abs(distance)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * (d**3 - 5 * d**2 + 8 * d - 4)

    phases = np.array([[cubic(phase / scale - tap) for tap in (-1, 0, 1, 2)] for phase in range(scale)], np.float32)
    products = phases[:, None, :, None] * phases[None, :, None, :]
    return products.reshape(scale * scale, 1, 4, 4)
