"""One look at what an upscaler computes: finite weights can still be so large that it gives no picture."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import build_upscaler

SIDE = 8
"""Pixels of the smallest frame that the flow network takes."""
LARGEST = 1e6
"""Of the numbers in a picture, which are around -1..1: beyond this they are an accident."""


@torch.no_grad()
def gives_pictures(state: Mapping[str, Tensor], model: ModelConfig) -> bool:
    """Whether the upscaler with these weights, on the CPU in float32, makes numbers below LARGEST of two small frames.

    ``state`` is its complete state dict. Nothing random is used.
    """
    with torch.device("meta"):
        upscaler = build_upscaler(model)
    upscaler.load_state_dict(dict(state), assign=True)
    # A slope that moves: dark and bright, and something for the flow network to see.
    slope = torch.linspace(0, 1, 3 * SIDE * SIDE).view(1, 1, 3, SIDE, SIDE)
    unrolled = upscaler.eval()(torch.cat([slope, slope.roll(1, -1)], dim=1))
    return bool((unrolled.sr_frames.abs() < LARGEST).all() and unrolled.lr_flow.isfinite().all())
