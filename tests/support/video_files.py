"""Small real videos whose pixels say where they are: red is x, green is y, blue is the scene and frame number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from tecogan_dist.data.clips import ClipStore
from tecogan_dist.data.writing import ClipStoreWriter
from tecogan_dist.video.writer import FrameWriter
from tests.support.store import add_scene

FRAMES_PER_SCENE = 12
BLUE_STEP = 6
PIXEL_STEP = 3  # codec errors on a smooth ramp are about one level


def coded_frame(scene: int, index: int, *, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8; sizes up to 85, scenes 0 to 2, frames 0 to 11."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[..., 0] = PIXEL_STEP * np.arange(width)[None, :]
    frame[..., 1] = PIXEL_STEP * np.arange(height)[:, None]
    frame[..., 2] = 16 + BLUE_STEP * (scene * FRAMES_PER_SCENE + index)
    return frame


def read_code(window_frame: np.ndarray) -> tuple[int, int, int, int, bool]:
    """Scene, frame, y, x of a crop's top left corner in its source, and whether the crop is mirrored."""
    red, green, blue = (window_frame[..., channel].astype(float) for channel in range(3))
    height, width = red.shape
    mirrored = bool(red[:, 0].mean() > red[:, -1].mean())
    code = round((blue.mean() - 16) / BLUE_STEP)
    x, y = red.mean() / PIXEL_STEP - (width - 1) / 2, green.mean() / PIXEL_STEP - (height - 1) / 2
    return code // FRAMES_PER_SCENE, code % FRAMES_PER_SCENE, round(y), round(x), mirrored


def write_video(path: Path, frames: int, *, height: int = 48, width: int = 64, pix_fmt: str = "yuv444p") -> Path:
    """A video of noise that moves one pixel a frame, with the frame's number as blue level."""
    noise = np.random.default_rng(1).integers(0, 255, (height, width + frames, 3), dtype=np.uint8)
    with FrameWriter(path, rate=Fraction(25), pix_fmt=pix_fmt) as writer:
        for index in range(frames):
            frame = noise[:, index : index + width].copy()
            frame[..., 2] = index % 250
            writer.write(frame)
    return path


def write_store(path: Path | str, *, scenes: int, height: int = 64, width: int = 72) -> ClipStore:
    """A clip store of coded scenes numbered from 2000."""
    with ClipStoreWriter(path) as writer:
        for scene in range(scenes):
            frames = (coded_frame(scene, index, height=height, width=width) for index in range(FRAMES_PER_SCENE))
            add_scene(writer, 2000 + scene, frames, rate=Fraction(25), source=f"made/{scene}")
    return ClipStore.open(path)
