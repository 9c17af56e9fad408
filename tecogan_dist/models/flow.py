"""FNet: the flow network between two consecutive low-resolution frames (FRVSR, Sajjadi et al. 2018)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tecogan_dist.models.layers import Conv3x3
from tecogan_dist.ops.resampling import resize_bilinear

MAX_FLOW = 24.0
"""Largest flow that can be expressed, in low-resolution pixels."""


class FlowNetwork(nn.Module):
    """Encoder-decoder over 3 levels. ``width`` is the first level's channel count (32 in the original)."""

    CENTRED: ClassVar[bool] = False
    """How the decoder's features are enlarged (:func:`tecogan_dist.ops.resampling.resize_bilinear`)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([_Pair(6, width), _Pair(width, 2 * width), _Pair(2 * width, 4 * width)])
        self.decoder = nn.ModuleList(
            [_Pair(4 * width, 8 * width), _Pair(8 * width, 4 * width), _Pair(4 * width, 2 * width)]
        )
        self.output = _Pair(2 * width, width, 2)

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        """Flow that brings ``previous`` onto ``current``.

        Both (N, 3, h, w), 0..1, h and w at least 8. Returns (N, 2, floor(h / 8) * 8, floor(w / 8) * 8) in
        low-resolution pixels, channel 0 along rows; sample ``previous`` at ``p - flow(p)``
        (:func:`tecogan_dist.ops.resampling.warp`).
        """
        x = torch.cat([previous, current], dim=1)
        for block in self.encoder:
            x = F.max_pool2d(F.leaky_relu(block(x), 0.2, inplace=True), 2)
        for block in self.decoder:
            x = resize_bilinear(F.leaky_relu(block(x), 0.2, inplace=True), 2, centred=self.CENTRED)
        return torch.tanh(self.output(x).float()) * MAX_FLOW


class _Pair(nn.Module):
    """Two 3x3 convolutions with a leaky ReLU between them (not after them)."""

    def __init__(self, in_channels: int, channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.conv1 = Conv3x3(in_channels, channels)
        self.conv2 = Conv3x3(channels, out_channels or channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.leaky_relu(self.conv1(x), 0.2, inplace=True))
