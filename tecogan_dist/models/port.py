"""The arithmetic of TecoGAN-PyTorch (skycrapers/TecoGAN-PyTorch at 903b070), for which its published weights are.

The layers are the original's, under our names. Between them much differs by a pixel or a fraction of one, so that
weights of one arithmetic give shifted, blurred pictures in the other:

- transposed convolutions have ``padding=1, output_padding=1``: what the original has in a pixel, they have in the one
  up and left of it
- the flow network enlarges its features with half-pixel centres
- for BD the skip and the flow are enlarged by the original's bicubic, for BI (and pairs) both bilinearly, with
  half-pixel centres
- flow is continued at the bottom and right by reflection, without the edge pixel
- warping goes by ``grid_sample`` with aligned corners, whose rounding is not the original's
- images are rounded, and a sequence begins without a warm-up

It computes on 0..1, and its flow has the columns first and points the other way. Here outputs are around -1..1 and flow
is as everywhere in this package, so that upscaling and training take either model. tests/parity/test_port.py compares
with vectors that its own code computed.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tecogan_dist.models.flow import FlowNetwork
from tecogan_dist.models.generator import Generator
from tecogan_dist.models.layers import DoublingConv3x3
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops.images import pad_reflect, space_to_depth, to_signed, to_unit
from tecogan_dist.ops.resampling import resize_bicubic, resize_bilinear


class PortDoublingConv3x3(DoublingConv3x3):
    """Transposed 3x3, stride 2: the first row and column of the full result are cut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        nn.ConvTranspose2d.__init__(
            self, in_channels, out_channels, kernel_size=3, stride=2, padding=1, output_padding=1
        )

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return nn.ConvTranspose2d.forward(self, x, output_size)


class PortFlowNetwork(FlowNetwork):
    """The flow network, which sees the current frame first."""

    CENTRED: ClassVar[bool] = True

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        """As :meth:`FlowNetwork.forward`: (N, 2, ...) with rows first, to sample ``previous`` at ``p - flow(p)``."""
        return -super().forward(current, previous).flip(1)


class PortGenerator(Generator):
    """The generator with its own transposed convolutions and skip."""

    DOUBLING: ClassVar[type[DoublingConv3x3]] = PortDoublingConv3x3

    def enlarged(self, lr_frame: Tensor) -> Tensor:
        """What the network's output is added to, (N, 3, scale * h, scale * w), 0..1."""
        return _enlarge(lr_frame, self.scale, centred=self.centred)


class PortUpscaler(RecurrentUpscaler):
    """The recurrent upscaler of TecoGAN-PyTorch; ``centred`` says that it is not for BD.

    A sequence's first frame has zeros for its past: the port runs its flow network on them too, and warps zeros into
    zeros, which :meth:`first_frame` is spared.
    """

    warm_up: int = 0
    """Its ``infer_sequence`` has none. Its settings for tests put 5 mirrored frames before a sequence
    (``num_pad_front``), which are the original's: weights files may ask for them (``convert --warm-up 5``)."""
    rounds: ClassVar[bool] = True
    FLOW: ClassVar[type[FlowNetwork]] = PortFlowNetwork
    GENERATOR: ClassVar[type[Generator]] = PortGenerator

    def _pad_flow(self, lr_flow: Tensor, bottom: int, right: int) -> Tensor:
        return pad_reflect(lr_flow, bottom, right)

    def _recall(self, previous_sr: Tensor, hr_flow: Tensor) -> Tensor:
        return _warp(to_unit(previous_sr), hr_flow)  # on 0..1, as there: zeros stay zeros

    def _after(self, lr_frame: Tensor, previous_sr: Tensor, hr_flow: Tensor) -> tuple[Tensor, Tensor]:
        recalled = self._recall(previous_sr, hr_flow)
        return to_signed(recalled), self.generator(lr_frame, space_to_depth(recalled, self.scale))

    def _enlarge_flow(self, lr_flow: Tensor) -> Tensor:
        return _enlarge(lr_flow, self.scale, centred=self.centred) * self.scale


def _warp(frames: Tensor, flow: Tensor) -> Tensor:
    """``frames`` (N, C, H, W) sampled at ``p - flow(p)``, edges held; rounded as the port's positions of -1..1 are."""
    h, w = frames.shape[-2:]
    rows = _spread(h, flow.device).view(1, h, 1) - 2 * flow[:, 0] / (h - 1)
    columns = _spread(w, flow.device).view(1, 1, w) - 2 * flow[:, 1] / (w - 1)
    places = torch.stack([columns, rows], dim=-1)
    return F.grid_sample(frames, places, mode="bilinear", padding_mode="border", align_corners=True)


def _enlarge(x: Tensor, scale: int, *, centred: bool) -> Tensor:
    return resize_bilinear(x, scale, centred=True) if centred else resize_bicubic(x, scale)


def _spread(size: int, device: torch.device) -> Tensor:
    """``torch.linspace(-1, 1, size)``, from both ends as it does: torch exports that for a fixed size only."""
    positions = torch.arange(size, device=device)
    before, after = 2 * positions / (size - 1), 2 * (size - 1 - positions) / (size - 1)
    return torch.where(positions < size // 2, before - 1, 1 - after)
