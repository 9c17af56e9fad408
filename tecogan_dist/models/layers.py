"""Convolutions as TensorFlow's SAME padding makes them, initialised as the original initialises them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def memory_format(device: torch.device) -> torch.memory_format:
    """In which a large convolution's weights are read as they are: others are brought into it for every pass."""
    return torch.contiguous_format if device.type == "cuda" else torch.channels_last


def channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) in the memory order in which large convolutions are fastest on a CPU; on CUDA x as it is.

    Generator and VGG19, most of a step's work, do this to their input, and their layers keep the order; that of the
    generator's weights, which DeepSpeed flattens, matters little. Flow network and discriminator stay in the plain
    order: it rounds half as much there, and their rounding decides kinks (max pool, leaky ReLU, the pixel that a flow
    points to).

    On CUDA a step at the published crop size is bound by the number of kernels, and channels_last adds some for
    flattened weights (H100, batch 4: 346 against 322 ms in fp32, 289 against 279 ms in bf16).
    """
    return x if x.is_cuda else x.contiguous(memory_format=torch.channels_last)


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
