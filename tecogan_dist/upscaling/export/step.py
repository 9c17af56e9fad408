"""One recurrent step as a function of tensors alone, and torch's graph of it: one for all sizes.

The state is what the step was given and what it gave: the caller feeds ``lr_frame`` back as ``previous_lr`` and
``sr_frame`` as ``previous_sr``, and zeros for both before a sequence's first frame. All values are 0..1, also the
state's, while the network inside works on -1..1. So zeros for the past are exactly what the original gives the
generator in a first frame: they become -1, are warped into -1 by whatever flow (differences of equal numbers are 0),
and are 0 again when they are folded for the generator. The flow of zeros, which a first frame computes in vain, does
not matter.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.fx.experimental._config as shapes_config
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops.images import to_signed, to_unit
from tecogan_dist.upscaling.recurrence import SMALLEST_SIDE

INPUTS = ("lr_frame", "previous_lr", "previous_sr")
OUTPUT = "sr_frame"
_HEIGHT, _WIDTH = 141, 253
"""Of the frames that the graph is recorded with, for their shapes alone: no multiples of 8, none of the other."""


class Step(nn.Module):
    """A step of an upscaler."""

    def __init__(self, model: RecurrentUpscaler) -> None:
        super().__init__()
        self.model = model

    def forward(self, lr_frame: Tensor, previous_lr: Tensor, previous_sr: Tensor) -> Tensor:
        """Upscale ``lr_frame`` (1, 3, h, w) after ``previous_lr`` of that size and what it gave, ``previous_sr``.

        h and w are at least 8. Returns (1, 3, scale * h, scale * w) around 0..1, not clipped, in the plain memory
        order: a compiled step takes its inputs for that, and would read its own output in channels_last wrongly.
        """
        signed = self.model.next_frame(lr_frame, previous_lr, to_signed(previous_sr))
        return to_unit(signed).contiguous()


def open_sizes(scale: int) -> dict[str, dict[int, Any]]:
    """By input, the dimensions that are not fixed: height and width of at least 8, and ``scale`` times these."""
    height, width = Dim("h", min=SMALLEST_SIDE), Dim("w", min=SMALLEST_SIDE)
    frame = {2: height, 3: width}
    return dict(zip(INPUTS, (frame, frame, {2: scale * height, 3: scale * width}), strict=True))


def capture(model: RecurrentUpscaler, device: torch.device) -> ExportedProgram:
    """The graph of a step of ``model``, which is on ``device``; :func:`open_sizes` stay open."""
    small = torch.zeros(1, 3, _HEIGHT, _WIDTH, device=device)
    large = torch.zeros(1, 3, model.scale * _HEIGHT, model.scale * _WIDTH, device=device)
    # Without this, the flow network's innermost features (h // 8, w // 8) must have more than one row and column, for
    # the sole reason that torch notes whether they are contiguous: h and w would be at least 16.
    with torch.no_grad(), shapes_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]  # torch makes it
        arguments = (small, small.clone(), large)
        return torch.export.export(Step(model).eval(), arguments, dynamic_shapes=open_sizes(model.scale))
