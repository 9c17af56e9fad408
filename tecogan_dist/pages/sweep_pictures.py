"""What the trials of a sweep look like: the same held-out frames of the best, the preset, bicubic and the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from tecogan_dist.config.degradations import is_centred
from tecogan_dist.data.clips import Scene
from tecogan_dist.metrics.names import METRICS, NEED_WEIGHTS
from tecogan_dist.metrics.perceptual import Lpips, Trunk
from tecogan_dist.metrics.protocol import Images
from tecogan_dist.metrics.sequence import mean, measure
from tecogan_dist.ops.degrade import degrade_frames
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.runs.find import load_upscaler, measured_weights
from tecogan_dist.training.task import TrainingTask, measured_scenes
from tecogan_dist.training.validation import held_out_frames
from tecogan_dist.tuning.records import SweepResults
from tecogan_dist.upscaling.images import to_image
from tecogan_dist.upscaling.sequence import upscale_frames

BEST = 3
"""Trials that are shown, from the best on."""
SHOWN_FRAMES = 3
"""Consecutive frames from the middle of the scene: enough to see what does not stay in its place."""
DETAIL_SIDE = 64
"""Pixels of the enlarged detail, in each side."""


@dataclass(frozen=True, kw_only=True)
class Showing:
    """A held-out scene as one of the networks, or bicubic, or the truth, has it: (H, W, 3) uint8 RGB each.

    ``scene``, ``positions``, ``detail`` and ``row`` are the same for all that are shown beside each other.
    """

    label: str
    scene: int
    """The scene's number."""
    positions: tuple[int, ...]
    """Which frames of the scene ``frames`` are, from 0 on."""
    frames: tuple[Images, ...]
    detail: tuple[int, int, int]
    """y, x and side of the square, in pixels, that is enlarged: where bicubic is worst."""
    row: int
    """The row of pixels of ``profile``, through the detail's middle."""
    profile: Images
    """That row over time: (T, W, 3), a row a frame of the whole measured scene."""


def showings(task: TrainingTask, results: SweepResults, *, device: torch.device | str = "cpu") -> list[Showing]:
    """The first measured scene as the truth, bicubic, the preset and the best trials have it, in this order.

    With each trial's weights of its last score. Empty without a measured scene or a trained network. Raises
    :class:`UserError` where a trial's weights cannot be read.
    """
    records = {record.number: record for record in results.trials}
    best = [(f"trial {number} (rank {rank})", records[number]) for rank, number in enumerate(results.ranking[:BEST], 1)]
    trained = [("preset", results.preset), *best]
    runs = [
        (label, record.folder, record.step) for label, record in trained if record and record.scores and record.folder
    ]
    scenes = measured_scenes(task)
    if not scenes or not runs:
        return []
    inputs, targets = held_out_frames(task, scenes[0])
    versions = {"truth": np.stack(targets), "bicubic": _bicubic(task, inputs, targets)}
    origin = task.config.data.degradation
    for label, folder, step in runs:
        images = upscale_frames(
            load_upscaler(measured_weights(folder, step), device),
            map(torch.from_numpy, inputs),
            device=torch.device(device),
            degrade=None if origin == "pairs" else origin,
        )
        versions[label] = np.stack([image.numpy() for image in images])
    return _beside_each_other(scenes[0], versions)


def bicubic_scores(task: TrainingTask, trunk: Trunk | None = None) -> dict[str, float]:
    """What bicubic interpolation scores on the measured scenes, as training measures a network: means over all frames.

    psnr, ssim and tof, with ``trunk`` also lpips and tlp. Empty without a measured scene.
    """
    metrics = tuple(name for name in METRICS if trunk is not None or name not in NEED_WEIGHTS)
    lpips = None if trunk is None else Lpips(trunk)
    values: dict[str, list[float]] = {name: [] for name in metrics}
    scenes = measured_scenes(task)
    for scene in scenes:
        inputs, targets = held_out_frames(task, scene)
        enlarged = _bicubic(task, inputs, targets)
        for name, numbers in measure(enlarged, np.stack(targets), metrics=metrics, lpips=lpips).items():
            values[name] += numbers
    return {name: mean(numbers) for name, numbers in values.items()} if scenes else {}


def _bicubic(task: TrainingTask, inputs: list[Images], targets: list[Images]) -> Images:
    """Held-out frames, degraded and enlarged as the generator's own skip does it, of the targets' size."""
    origin, scale = task.config.data.degradation, task.config.model.scale
    height, width = targets[0].shape[:2]
    results = []
    for frame in inputs:
        pixels = torch.from_numpy(frame).permute(2, 0, 1).unsqueeze(0)
        low = degrade_frames(pixels, None if origin == "pairs" else origin, scale)
        enlarged = resize_bicubic(low, scale, centred=is_centred(origin))
        results.append(to_image(enlarged[0])[:height, :width].numpy())
    return np.stack(results)


def _beside_each_other(scene: Scene, versions: dict[str, Images]) -> list[Showing]:
    truth, bicubic = versions["truth"], versions["bicubic"]
    count, height, width = truth.shape[:3]
    first = max(0, (count - SHOWN_FRAMES) // 2)
    positions = tuple(range(first, min(count, first + SHOWN_FRAMES)))
    middle = positions[len(positions) // 2]
    side = min(DETAIL_SIDE, height, width)
    y, x = _worst_square(bicubic[middle], truth[middle], side)
    row = y + side // 2
    return [
        Showing(
            label=label,
            scene=scene.number,
            positions=positions,
            frames=tuple(frames[position, :height, :width] for position in positions),
            detail=(y, x, side),
            row=row,
            profile=frames[:, row, :width],
        )
        for label, frames in versions.items()
    ]


def _worst_square(result: Images, target: Images, side: int) -> tuple[int, int]:
    """Top and left of the square in which the mean absolute difference is greatest, in steps of 4 pixels."""
    difference = np.abs(result.astype(np.float32) - target).mean(axis=2)
    means = F.avg_pool2d(torch.from_numpy(difference)[None, None], side, stride=4)[0, 0]
    index = int(means.argmax())
    columns = means.shape[1]
    return 4 * (index // columns), 4 * (index % columns)
