"""Images beside each other under their names, for a comparison at a glance."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Images = NDArray[np.uint8]


def panels(images: dict[str, Images]) -> Images:
    """Images (H, W, 3) of one size beside each other, each under a strip with its name.

    Returns (H + strip, n W, 3) uint8; the strip is as high as a tenth of H, at least 24 pixels.
    """
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
