"""How long a job will take and how large its result will be, by a few frames from its middle."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.memory import in_words
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling.images import to_image
from tecogan_dist.upscaling.machine import computing_with
from tecogan_dist.upscaling.recurrence import Recurrence
from tecogan_dist.upscaling.segment import Rendering, result_size
from tecogan_dist.upscaling.targets import Target
from tecogan_dist.video.source import FrameSource

SAMPLE = 8
"""Frames that are tried, in their order."""
WORTH = 40 * SAMPLE
"""Frames of a job from which on a trial costs little of what it tells: 3% at most."""
KEY_FRAMES = 250
"""From one key frame to the next, at most: x264's and x265's default, and our own (``video/codecs.py``)."""


@dataclass(frozen=True)
class Estimate:
    """What a job of ``frames`` frames takes from now on, and what it leaves."""

    frames: int
    sample: int
    frame_seconds: float
    """Of a frame, in one process."""
    frame_bytes: float
    """Of a frame of the result on average; sound and other streams are not in it."""
    total_frames: int
    """Of the result."""
    processes: int

    @property
    def seconds(self) -> float:
        return self.frames * self.frame_seconds / self.processes

    @property
    def size(self) -> float:
        return self.total_frames * self.frame_bytes

    def in_sentence(self) -> str:
        """``about 3 h 20 min, 1.4 GB (by 8 frames from the middle: 0.31 s and 92 KB each; 2 processes)``"""
        processes = f"; {self.processes} processes" if self.processes > 1 else ""
        return (
            f"about {duration(self.seconds)}, {in_words(self.size)} (by {self.sample} frames from the middle: "
            f"{self.frame_seconds:.2g} s and {in_words(self.frame_bytes)} each{processes})"
        )


def estimate(
    model: RecurrentUpscaler,
    source: FrameSource,
    target: Target,
    rendering: Rendering,
    *,
    start: int,
    total: int,
    left: int,
    processes: int = 1,
) -> Estimate:
    """For ``total`` frames from ``start`` on, of which ``left`` are still to be made by so many processes.

    ``model`` is on the device that will be used. The network runs on SAMPLE frames from the middle, and what it gives
    is encoded as the result will be. On a CPU both take the same cores, beside a GPU the longer of them counts.
    Raises :class:`UserError` for frames that cannot be read, and for a folder of temporary files that is full.
    """
    first = start + max(0, (total - SAMPLE) // 2)
    frames = list(source.frames(first, min(first + SAMPLE, start + total)))
    if not frames:
        raise UserError(f"{source.path} has no frame {first}: it ends before that.")
    device = next(model.parameters()).device
    height, width = result_size(source, model, rendering)
    recurrence = Recurrence(
        model,
        size=(source.height, source.width),
        device=device,
        degradation=rendering.degrade,
        precision=rendering.precision,
        tile=rendering.tile,
    )

    def image_of(frame: np.ndarray) -> np.ndarray:
        sr_frame = recurrence.step(torch.tensor(frame)).sr_frame
        return to_image(sr_frame, rounds=model.rounds, deep=target.deep).cpu().numpy()[:height, :width]

    with computing_with(rendering.threads):
        for _ in range(2):  # what is done once, in a first frame and the next: kernels are chosen, a graph is captured
            image_of(frames[0])
        began = time.monotonic()
        images = [image_of(frame) for frame in frames]
        network = (time.monotonic() - began) / len(frames)
    with tempfile.TemporaryDirectory(prefix="tecogan_estimate_") as folder:
        key = _encoded(target, images[:1], Path(folder) / f"one{target.suffix}")
        began = time.monotonic()
        all_of_them = _encoded(target, images, Path(folder) / f"all{target.suffix}")
        encoding = (time.monotonic() - began) / len(images)
    between = (all_of_them - key) / (len(images) - 1) if len(images) > 1 else key
    return Estimate(
        frames=left,
        sample=len(images),
        frame_seconds=max(network, encoding) if device.type == "cuda" else network + encoding,
        frame_bytes=between + max(0.0, key - between) / KEY_FRAMES,
        total_frames=total,
        processes=processes,
    )


def _encoded(target: Target, images: Sequence[np.ndarray], path: Path) -> int:
    """Bytes of these frames as a segment has them."""
    with target.writer(path) as writer:
        for number, image in enumerate(images):
            writer.write(image, f"frame_{number:04}")
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))


def duration(seconds: float) -> str:
    """Two units at most: 45 s, 12 min, 3 h 20 min, 2 d 5 h."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    hours = round(seconds / 3600)
    return f"{hours // 24} d" + (f" {hours % 24} h" if hours % 24 else "")
