"""FIXME docstring"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tecogan_dist.upscaling.pipeline import Images


def panels(images: dict[str, Images]) -> Images:
    """Images of one size beside each other, each under a strip with its name: (H + strip, n W, 3) uint8."""
    height, width = next(iter(images.values())).shape[:2]
    text_height = max(12, height // 20)
    columns = [np.concatenate([_label(name, width, text_height), image]) for name, image in images.items()]
    return np.concatenate(columns, axis=1)


@functools.cache
def _label(name: str, width: int, text_height: int) -> Images:
    strip = Image.new("RGB", (width, 2 * text_height))
    font = ImageFont.load_default(text_height)
    ImageDraw.Draw(strip).text((width / 2, text_height), name, fill="white", font=font, anchor="mm")
    return np.asarray(strip)
