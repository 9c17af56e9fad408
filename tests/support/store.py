"""Scenes entered into a clip store in one call."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from tecogan_dist.data.clips import Encoding, Scene
from tecogan_dist.data.writing import ClipStoreWriter, write_clip


def add_scene(
    writer: ClipStoreWriter,
    number: int,
    frames: Iterable[np.ndarray],
    *,
    rate: Fraction = Fraction(24),
    source: str = "made",
    source_start: int = 0,
    downscale: int = 1,
    encoding: Encoding = "lossy",
) -> Scene:
    """Write a clip of (height, width, 3) uint8 frames under a number that is free, and enter it into the index."""
    assert number not in writer.scenes, f"scene {number} exists"
    scene = write_clip(
        writer.location,
        number,
        frames,
        rate=rate,
        source=source,
        source_start=source_start,
        downscale=downscale,
        encoding=encoding,
    )
    writer.enter(scene)
    return scene
