"""How the moving pictures of a summary look."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tecogan_dist.tracking.animations import encode_animation

PICTURE = Path(__file__).parents[2] / "scripts" / "demo.jpg"


def test_animations_look_as_good_as_the_median_cut() -> None:
    with Image.open(PICTURE) as image:
        pixels = np.asarray(image.convert("RGB"))
    shown = np.stack([pixels[t : t + 128, t : t + 512] for t in range(8)])  # (T, H, W, 3): moves a pixel a frame
    frames = torch.from_numpy(shown).unflatten(2, (4, 128)).permute(2, 0, 4, 1, 3) / 255  # four windows side by side

    data, height, width = encode_animation(frames)
    assert (height, width) == (128, 512)
    with Image.open(io.BytesIO(data)) as animation:
        for number, frame in enumerate(shown):
            animation.seek(number)
            error = np.asarray(animation.convert("RGB")).astype(float) - frame
            assert 10 * np.log10(255**2 / np.square(error).mean()) > 34  # dB; the median cut has 35.4
