"""An exported file against the network that it was made of, on a short film of two sizes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling.sequence import upscale_float

LIMIT = 1e-4
"""Largest difference of a file that is kept, in 0..1: a fortieth of a grey level."""
SIZES = ((24, 40), (21, 37))
"""Rows and columns: divisible by 8, as the flow network likes it, and not."""
FRAMES = 4

StepFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(lr_frame, previous_lr, previous_sr) to sr_frame: :class:`tecogan_dist.upscaling.export.step.Step`."""


def largest_difference(step: StepFunction, model: RecurrentUpscaler, device: torch.device) -> float:
    """Between what ``step`` and ``model`` on ``device`` make of :data:`SIZES`' films; infinite for no number."""
    worst = 0.0
    for height, width in SIZES:
        film = moving_pattern(height, width, FRAMES)
        expected = upscale_float(model, film, device=device, warm_up=0)
        with _exact():
            results = run(step, film, scale=model.scale, device=device)
        for upscaled, sr_frame in zip(expected, results, strict=True):
            difference = float((upscaled.sr_frame - sr_frame).abs().max())
            worst = max(worst, difference if math.isfinite(difference) else math.inf)
    return worst


def run(step: StepFunction, film: list[Tensor], *, scale: int, device: torch.device) -> list[Tensor]:
    """Each frame (H, W, 3), 0..1, upscaled to (3, H, W), without a warm-up: how a step is used."""
    previous_lr = previous_sr = None
    results = []
    for frame in film:
        lr_frame = frame.permute(2, 0, 1).unsqueeze(0).contiguous().to(device)
        if previous_lr is None or previous_sr is None:
            height, width = lr_frame.shape[-2:]
            previous_lr = torch.zeros_like(lr_frame)
            previous_sr = lr_frame.new_zeros(1, 3, scale * height, scale * width)
        previous_lr, previous_sr = lr_frame, step(lr_frame, previous_lr, previous_sr)
        results.append(previous_sr[0])
    return results


def moving_pattern(height: int, width: int, frames: int) -> list[Tensor]:
    """Frames (H, W, 3), 0..1, of waves that wander, and of a grain that stays."""
    grain = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(height).view(-1, 1, 1)
    columns = torch.arange(width).view(1, -1, 1)
    colours = torch.arange(3).view(1, 1, 3)
    return [
        0.4
        + 0.2 * torch.sin(0.35 * columns + 0.7 * time)
        + 0.2 * torch.cos(0.5 * rows - 0.4 * time + colours)
        + 0.2 * (grain - 0.5)
        + 0.1
        for time in range(frames)
    ]


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Convolutions in fp32, as those of the network: on CUDA torch's default would be TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
