"""How long the loop of a run is held up by the pictures of a summary, and how they look."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tecogan_dist.tracking.animations import encode_animation

PICTURE = Path(__file__).parents[2] / "scripts" / "demo.jpg"


def test_animations_take_a_fraction_of_the_median_cut_and_look_as_good() -> None:
    with Image.open(PICTURE) as image:
        pixels = np.asarray(image.convert("RGB"))
    shown = np.stack([pixels[t : t + 128, t : t + 512] for t in range(8)])  # (T, H, W, 3): moves a pixel a frame
    frames = torch.from_numpy(shown).unflatten(2, (4, 128)).permute(2, 0, 4, 1, 3) / 255  # four windows side by side

    began = time.process_time()
    data, height, width = encode_animation(frames)
    ours = time.process_time() - began
    began = time.process_time()
    for frame in shown[:2]:
        Image.fromarray(frame).quantize(method=Image.Quantize.MEDIANCUT)
    assert ours < time.process_time() - began  # eight frames in less than its two; measured: a tenth of that

    assert (height, width) == (128, 512)
    with Image.open(io.BytesIO(data)) as animation:
        for number, frame in enumerate(shown):
            animation.seek(number)
            error = np.asarray(animation.convert("RGB")).astype(float) - frame
            assert 10 * np.log10(255**2 / np.square(error).mean()) > 34  # dB; the median cut has 35.4
