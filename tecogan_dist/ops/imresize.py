"""MATLAB's ``imresize(image, 1 / factor, 'bicubic')``: the BI degradation, as the field's test sets were made with it.

Kernel, borders and sizes are those of ``imresize.m``: cubic convolution with a = -0.5, stretched by the factor against
aliasing; output pixel i is centred on input position factor * i + (factor - 1) / 2, its weights sum to 1; positions
outside reflect with the edge pixel repeated; the output has ceil(size / factor) pixels; of two equal scales the first
dimension, the rows, is resized first.

How a uint8 image is rounded is decided in ``imresizemex``, a binary. What is done here is after each of the two
dimensions: the sum in double, halves away from zero, clipped to 0..255. So does MATLAB's own code for MATLAB Coder,
which is readable: ``resizeAlongDim`` (that of ``imresize3`` was read) sums in double into an array of the input's
class through ``saturatingCast``, to nearest; the C++ generated from ``imresize`` for uint8 keeps ``unsigned char``
between the dimensions and computes ``floor(sum + 0.5)`` in one release, ``std::round(sum)`` in another.
``imresize.m`` says the same of the binary ("'out' datatype will be same as 'in' datatype"), and a port that rounds in
between gives exactly an image that MATLAB R2015b resized (fatheral/matlab_imresize, 512x512 to 123x234). Ports
that round once, at the end, as BasicSR's does on floats, differ in about one value of seven, by a level.

For factors 2 and 4 all weights are multiples of 1/256 and 1/4096. So halves do occur, and sums are exact: the same in
any order and on every device. Factors that are not powers of two have rounded weights, whose sums may miss a half
that is one in exact arithmetic, MATLAB's too: there a level of difference is possible.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tecogan_dist.config.degradations import bicubic_margin


def imresize(images: Tensor, factor: int) -> Tensor:
    """Whole images (N, C, H, W), of any device, shrunk to (N, C, ceil(H / factor), ceil(W / factor)).

    uint8 gives uint8, bit for bit MATLAB's for factors 1, 2, 4 and so on. Floats keep their type and are, as MATLAB's,
    neither rounded nor clipped: they may leave the input's range.
    """
    for dim in (-2, -1):
        images = _shrink(_reflect(images, factor, dim), factor, dim)
    return images


def imresize_crops(images: Tensor, factor: int) -> Tensor:
    """The same of crops (N, C, factor * h + 2 m, factor * w + 2 m), m being its bicubic_margin: returns (N, C, h, w).

    Output pixel (y, x) is what :func:`imresize` makes of the whole image there, if the crop less its margin begins at
    a multiple of the factor: nothing is reflected.
    """
    for dim in (-2, -1):
        images = _shrink(images, factor, dim)
    return images


def _reflect(images: Tensor, factor: int, dim: int) -> Tensor:
    """Rows or columns for ceil(size / factor) output pixels and their margin; a tiny image is reflected repeatedly."""
    size = images.shape[dim]
    outputs = -(-size // factor)
    positions = torch.arange(
        -bicubic_margin(factor), outputs * factor + bicubic_margin(factor), device=images.device
    ) % (2 * size)
    return images.index_select(dim, torch.minimum(positions, 2 * size - 1 - positions))


def _shrink(images: Tensor, factor: int, dim: int) -> Tensor:
    """One dimension, without what the kernel cannot reach; uint8 is rounded."""
    weights = _weights(factor)
    neighbourhoods = images.unfold(dim, len(weights), factor)  # a view, (..., len(weights))
    total = torch.zeros(neighbourhoods.shape[:-1], dtype=torch.float64, device=images.device)
    for tap, weight in enumerate(weights):
        total.add_(neighbourhoods[..., tap], alpha=weight)
    if images.dtype == torch.uint8:
        # What floor(x + 0.5) does to negative halves does not matter: they are clipped.
        total.add_(0.5).floor_().clamp_(0, 255)
    return total.to(images.dtype)


def _weights(factor: int) -> list[float]:
    """The weights of an output pixel's own pixels and of its margin."""
    centre = (factor - 1) / 2
    weights = [
        _cubic((i - centre) / factor) / factor for i in range(-bicubic_margin(factor), factor + bicubic_margin(factor))
    ]
    return [weight / sum(weights) for weight in weights]


def _cubic(x: float) -> float:
    """Keys' kernel with a = -0.5, for distances of at most 2."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
