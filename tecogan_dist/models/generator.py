"""The generator: a residual network that predicts the difference to a bicubic enlargement of the current frame."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tecogan_dist.base.invariants import require
from tecogan_dist.models import layers
from tecogan_dist.models.layers import Conv3x3, DoublingConv3x3
from tecogan_dist.ops.images import to_signed
from tecogan_dist.ops.resampling import resize_bicubic


class Generator(nn.Module):
    """``blocks`` residual blocks of ``channels`` features, then a transposed convolution for each doubling.

    The published network has two, for ``scale`` 4; that for 2, our choice, has one and is otherwise the same.
    ``centred`` says where the pixels of ``lr_frame`` lie (see :mod:`tecogan_dist.ops.resampling`).
    """

    DOUBLING: ClassVar[type[DoublingConv3x3]] = DoublingConv3x3

    def __init__(
        self,
        *,
        blocks: int = 16,
        channels: int = 64,
        output_init_scale: float = 1.0,
        scale: int = 4,
        centred: bool = False,
    ) -> None:
        require(scale in (2, 4), "the generator doubles once or twice")
        super().__init__()
        self.scale = scale
        self.centred = centred
        self.input = Conv3x3(3 + 3 * scale * scale, channels)
        self.blocks = nn.ModuleList([ResidualBlock(channels) for _ in range(blocks)])
        self.up1 = self.DOUBLING(channels, channels)
        self.up2 = self.DOUBLING(channels, channels) if scale == 4 else None
        self.output = Conv3x3(channels, 3)
        with torch.no_grad():
            self.output.weight.mul_(output_init_scale)

    def forward(self, lr_frame: Tensor, previous: Tensor) -> Tensor:
        """Upscale one frame.

        ``lr_frame``: (N, 3, h, w), 0..1. ``previous``: the last output, warped onto this frame and folded by
        :func:`tecogan_dist.ops.images.space_to_depth`, (N, 3 * scale**2, h, w), 0..1; zeros for the first frame.
        Returns (N, 3, scale * h, scale * w) around -1..1, not clipped.
        """
        x = F.relu(self.input(layers.channels_last(torch.cat([lr_frame, previous], dim=1))))
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.up1(x))
        if self.up2 is not None:
            x = F.relu(self.up2(x))
        return to_signed(self.output(x).float() + self.enlarged(lr_frame))

    def enlarged(self, lr_frame: Tensor) -> Tensor:
        """What the network's output is added to, (N, 3, scale * h, scale * w), 0..1."""
        return resize_bicubic(lr_frame, self.scale, centred=self.centred)


class ResidualBlock(nn.Module):
    """Two convolutions with a ReLU between them, whose result is added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(channels, channels)
        self.conv2 = Conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))
