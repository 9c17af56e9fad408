"""The generator: a residual network that predicts the difference to a bicubic enlargement of the current frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tecogan_dist.models import layers
from tecogan_dist.models.layers import Conv3x3, DoublingConv3x3
from tecogan_dist.ops import SCALE, resize_bicubic, to_signed


class Generator(nn.Module):
    """``blocks`` residual blocks of ``channels`` features, then two transposed convolutions to 4 times the size."""

    def __init__(self, *, blocks: int = 16, channels: int = 64, output_init_scale: float = 1.0) -> None:
        super().__init__()
        self.input = Conv3x3(3 + 3 * SCALE * SCALE, channels)
        self.blocks = nn.ModuleList([ResidualBlock(channels) for _ in range(blocks)])
        self.up1 = DoublingConv3x3(channels, channels)
        self.up2 = DoublingConv3x3(channels, channels)
        self.output = Conv3x3(channels, 3)
        with torch.no_grad():
            self.output.weight.mul_(output_init_scale)

    def forward(self, lr_frame: Tensor, previous: Tensor) -> Tensor:
        """Upscale one frame.

        ``lr_frame``: (N, 3, h, w), 0..1. ``previous``: the last output, warped onto this frame and folded by
        :func:`tecogan_dist.ops.space_to_depth`, (N, 48, h, w), 0..1; zeros for the first frame. Returns
        (N, 3, 4 h, 4 w) around -1..1, not clipped.
        """
        x = F.relu(self.input(layers.channels_last(torch.cat([lr_frame, previous], dim=1))))
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.up1(x))
        x = F.relu(self.up2(x))
        return to_signed(self.output(x).float() + resize_bicubic(lr_frame))


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(channels, channels)
        self.conv2 = Conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))
