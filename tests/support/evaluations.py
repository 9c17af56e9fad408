"""Evaluations of made-up clips, and what their pages are made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tecogan_dist.metrics.names import METRICS
from tecogan_dist.metrics.protocol import OFFICIAL, Images, Protocol
from tecogan_dist.metrics.sequence import measure
from tecogan_dist.metrics.summary import Evaluation, SequenceValues
from tecogan_dist.pages.pictures import Profile
from tecogan_dist.video.open import open_video
from tecogan_dist.video.source import FrameSource

HEIGHT, WIDTH, FRAMES = 56, 72, 9
COLUMN = 31
MEASURED = ("psnr", "ssim", "tof")  # the others need a network's weights, so their values are made up here


def clip(seed: int, count: int = FRAMES) -> tuple[Images, Images]:
    """A smooth picture that moves a pixel a frame and brightens, and a noisy copy: (T, H, W, 3) uint8 each."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(30, 160, (8, 12, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(coarse).resize((WIDTH + count, HEIGHT), Image.Resampling.BICUBIC))
    targets = np.stack([wide[:, index : index + WIDTH] + np.uint8(6 * index) for index in range(count)])
    noise = generator.normal(0, 8, targets.shape) * generator.uniform(0.3, 1, (count, 1, 1, 1))
    return (targets + noise).clip(0, 255).astype(np.uint8), targets


def write(folder: Path, frames: Images) -> FrameSource:
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index:04d}.png")
    return open_video(folder)


Inputs = tuple[Evaluation, list[Profile], list[tuple[FrameSource, FrameSource]]]


def evaluate(
    folder: Path,
    clips: dict[str, tuple[Images, Images]],
    *,
    protocol: Protocol = OFFICIAL,
    metrics: Sequence[str] = METRICS,
) -> Inputs:
    sequences, profiles, sources = [], [], []
    for number, (name, (results, targets)) in enumerate(clips.items()):
        frames = protocol.frames(len(targets))
        values = measure(results, targets, protocol=protocol, metrics=[name for name in metrics if name in MEASURED])
        made_up = np.random.default_rng(number).uniform(0.1, 0.9, len(frames)).tolist()
        values |= {"lpips": made_up, "tlp": made_up[1:]}
        values = {metric: values[metric] for metric in metrics}
        pair = (write(folder / "results" / name, results), write(folder / "targets" / name, targets))
        height, width = targets.shape[1:3]
        sequences.append(SequenceValues(name, str(pair[0].path), str(pair[1].path), height, width, frames, values))
        cut = results[:, : targets.shape[1]]
        profiles.append(Profile(cut[:, :, COLUMN], targets[:, :, COLUMN], COLUMN))
        sources.append(pair)
    return Evaluation(protocol, metrics, sequences), profiles, sources
