"""Ranges and layouts of images (N, C, H, W): each function is the original TensorFlow graph's (tests/parity)."""

from __future__ import annotations

import torch
from torch import Tensor


def to_signed(x: Tensor) -> Tensor:
    """0..1 to -1..1."""
    return x * 2 - 1


def to_unit(x: Tensor) -> Tensor:
    """-1..1 to 0..1."""
    return (x + 1) / 2


def space_to_depth(x: Tensor, scale: int = 4) -> Tensor:
    """(N, C, scale * H, scale * W) to (N, scale**2 * C, H, W).

    Output channel is (dy * scale + dx) * C + c, as in TensorFlow.
    """
    n, c, h, w = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(n, h // scale, scale, w // scale, scale, c)
    blocks = pixels.permute(0, 1, 3, 2, 4, 5).reshape(n, h // scale, w // scale, scale * scale * c)
    return blocks.permute(0, 3, 1, 2)


def pad_symmetric(x: Tensor, bottom: int, right: int) -> Tensor:
    """Mirror rows and columns outwards at the bottom and right, the edge pixel repeated first; no more than there are.

    It does not ask whether there are any: one exported graph (:mod:`tecogan_dist.upscaling.export`) is for all sizes.
    """
    return _mirrored(x, bottom, right, repeated=1)


def pad_reflect(x: Tensor, bottom: int, right: int) -> Tensor:
    """Likewise without the edge pixel, and fewer than there are."""
    return _mirrored(x, bottom, right, repeated=0)


def _mirrored(x: Tensor, bottom: int, right: int, *, repeated: int) -> Tensor:
    is_channels_last = x.is_contiguous(memory_format=torch.channels_last)
    for dim, more in ((-2, bottom), (-1, right)):
        size = x.shape[dim]
        positions = torch.arange(size + more, device=x.device)
        x = x.index_select(dim, torch.minimum(positions, 2 * size - 2 + repeated - positions))
    return x.contiguous(memory_format=torch.channels_last) if is_channels_last else x


def quantize(x: Tensor) -> Tensor:
    """0..1 floats to uint8, truncating as the original's image writer does."""
    return (x * 255).clamp(0, 255).to(torch.uint8)
