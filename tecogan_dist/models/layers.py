"""Convolutions as TensorFlow's SAME padding makes them, initialised as the original initialises them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def memory_format(device: torch.device, *, bf16: bool = False) -> torch.memory_format:
    """In which a large convolution's weights are read as they are: others are brought into it for every pass.

    ``bf16``: it runs under an autocast to that.
    """
    return torch.contiguous_format if device.type == "cuda" and not bf16 else torch.channels_last


def channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) in the memory order in which large convolutions are fastest; on CUDA in fp32 x as it is.

    Generator and VGG19, most of a step's work, do this to their input, and their layers keep the order; that of the
    generator's weights matters little. Flow network and discriminator stay in the plain order: it rounds half as much
    there, and their rounding decides kinks (max pool, leaky ReLU, the pixel that a flow points to).

    On CUDA, cuDNN's kernels for bf16 want channels_last, and bring everything else into it and back; those for fp32 are
    faster in the plain order (a captured step at the published settings on an H200: 75 instead of 97 ms in bf16, 216
    instead of 196 ms in fp32).
    """
    if x.is_cuda and not torch.is_autocast_enabled("cuda"):
        return x
    return x.contiguous(memory_format=torch.channels_last)


class Conv3x3(nn.Conv2d):
    """3x3, stride 1, SAME. Glorot-uniform weights, zero bias (tf.contrib.layers.xavier_initializer)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def reset_parameters(self) -> None:
        _glorot(self)


class HalvingConv4x4(nn.Conv2d):
    """4x4, stride 2, SAME on even sizes, without bias."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=False)

    def reset_parameters(self) -> None:
        _glorot(self)


class DoublingConv3x3(nn.ConvTranspose2d):
    """Transposed 3x3, stride 2, SAME: the last row and column of the full result are cut.

    ``padding=1, output_padding=1`` would shift the image by one pixel.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=2)

    def reset_parameters(self) -> None:
        _glorot(self)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(x, output_size)[..., :-1, :-1]


def _glorot(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
