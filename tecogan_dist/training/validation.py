"""Held-out scenes while training goes on: the losses of their windows, and evaluate's metrics of whole scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Self

import numpy as np
import torch
import torch.distributed as dist

from tecogan_dist.data.cache import scene_frames
from tecogan_dist.data.clips import Scene
from tecogan_dist.data.stream.decoding import decode_windows
from tecogan_dist.data.stream.windows import sample_at, window_config
from tecogan_dist.metrics.names import METRICS, NEED_WEIGHTS
from tecogan_dist.metrics.perceptual import Lpips, Trunk
from tecogan_dist.metrics.protocol import Images
from tecogan_dist.metrics.sequence import mean, measure
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.tracking.previews import Still, still_of
from tecogan_dist.training.step import TrainingStep
from tecogan_dist.training.task import TrainingTask, measured_scenes
from tecogan_dist.upscaling.sequence import upscale_frames
from tecogan_dist.video.source import Picture

LARGEST_SIDE = 512
"""Pixels of a scene's centre that are measured, at most, in each side."""

Look = Callable[[int, Still, Images, Images, Mapping[str, Sequence[float]]], None]
"""Takes a step, what a scene shows at all steps, its results and targets (T, H, W, 3), and each metric's values."""


def validation_windows(task: TrainingTask, *, number: int, rank: int, workers: int) -> torch.Tensor:
    """This worker's windows (N, T, H, W, 3) uint8 of the summary with this number, decoded here and now."""
    config, data, windows = task.config, window_config(task.config), []
    count = config.batch_size // workers
    first = number * config.batch_size + rank * count
    for index in range(first, first + count):
        sample = sample_at(index, seed=config.seed, scenes=task.validation_scenes, data=data)
        windows.append(torch.from_numpy(decode_windows(task.data, sample.scene, [sample], data)))
    return torch.cat(windows)


def held_out_frames(task: TrainingTask, scene: Scene) -> tuple[list[Images], list[Images]]:
    """What is upscaled of a held-out scene, and what that is measured against: the same number of frames.

    Targets are (H, W, 3) uint8 RGB, the frames' centres of LARGEST_SIDE pixels at most. Inputs are the targets
    themselves, still to be degraded, or of pairs the scene's own low-resolution frames.
    """
    config, scale = task.config, task.config.model.scale
    positions = range(min(scene.frames, config.tracking.validation_frames))
    data = window_config(config)
    targets = [
        _centre(frame, LARGEST_SIDE, multiple=scale) for frame in scene_frames(task.data, scene, positions, data)
    ]
    if config.data.degradation != "pairs":
        return targets, targets
    low = scene_frames(task.data, scene, positions, data, low_resolution=True)
    return [_centre(frame, LARGEST_SIDE // scale, multiple=1) for frame in low], targets


class Validator:
    """Measures held-out scenes, each worker some of them; ``report`` gets a step and its means over all scenes.

    Workers wait only while their scenes are upscaled; the metrics are computed in a thread, and in it ``look`` of the
    first worker gets the first scene. All workers start and collect in the same steps. A context manager: what has not
    been collected at its end is given up.
    """

    def __init__(
        self,
        task: TrainingTask,
        device: torch.device,
        trunk: Trunk | None,
        *,
        rank: int,
        workers: int,
        report: Callable[[int, dict[str, float]], None],
        look: Look,
    ) -> None:
        self._task, self._device, self._report = task, device, report
        self._look = look
        self._still: Still | None = None
        self._rank, self._workers = rank, workers
        self._scenes = measured_scenes(task)
        self._own = self._scenes[rank::workers]
        self._metrics = tuple(name for name in METRICS if trunk is not None or name not in NEED_WEIGHTS)
        self._lpips = None if trunk is None else Lpips(trunk)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="validation")
        self._running: tuple[int, Future[list[list[float]]]] | None = None
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def done(self) -> bool:
        """Whether this worker has measured what was started and not been collected."""
        return self._running is not None and self._running[1].done()

    def window_losses(self, step: TrainingStep) -> dict[str, float]:
        """The losses of some held-out windows, others after each summary; none where no scenes are held out."""
        if not self._task.validation_scenes:
            return {}
        number = step.state.step // self._task.config.tracking.summary_every
        windows = validation_windows(self._task, number=number, rank=self._rank, workers=self._workers)
        return step.validation_losses(windows)

    def start(self, step: TrainingStep) -> None:
        """Upscale with the present weights (their average, if there is one), and start measuring.

        What was started before is collected first.
        """
        self.collect()
        if not self._scenes:
            return
        config = self._task.config
        model = build_upscaler(config.model, degradation=config.data.degradation).to(self._device)
        with step.pair.weights():
            average = step.average
            model.load_state_dict(step.pair.upscaler_module.state_dict() if average is None else average.state)
        model.eval()
        pairs = [self._upscale(model, scene) for scene in self._own]
        self._running = (step.state.step, self._thread.submit(self._measure, step.state.step, pairs))

    def collect(self) -> None:
        """Report what was measured last, if something was started. Waits until it is done."""
        if self._running is None:
            return
        step, future = self._running
        self._running = None
        # Sums and counts of each metric, so that scenes of different lengths count by their frames.
        sums = torch.zeros(len(self._metrics), 2, dtype=torch.float64)
        for scene in future.result():
            sums += torch.tensor(scene, dtype=torch.float64).view(-1, 2)
        sums = sums.to(self._device)
        if dist.is_initialized():
            dist.all_reduce(sums)
        means = {name: float(total / count) for name, (total, count) in zip(self._metrics, sums, strict=True)}
        self._report(step, means)

    def _upscale(self, model: RecurrentUpscaler, scene: Scene) -> tuple[Images, Images]:
        origin = self._task.config.data.degradation
        inputs, targets = held_out_frames(self._task, scene)
        if self._still is None and scene is self._scenes[0]:
            # Here, not in the thread: torch's flags for convolutions are the whole process's.
            self._still = still_of(
                inputs, targets, scene=scene.number, origin=origin, scale=self._task.config.model.scale
            )
        upscaled = upscale_frames(
            model, map(torch.from_numpy, inputs), device=self._device, degrade=None if origin == "pairs" else origin
        )
        return np.stack([image.numpy() for image in islice(upscaled, len(targets))]), np.stack(targets)

    def _measure(self, step: int, pairs: list[tuple[Images, Images]]) -> list[list[float]]:
        """For each scene sum and count of each metric, one after the other."""
        scenes = []
        for number, (results, targets) in enumerate(pairs):
            if self._is_over:
                break
            values = measure(results, targets, metrics=self._metrics, lpips=self._lpips)
            if number == 0 and self._still is not None and not self._is_over:
                self._look(step, self._still, results, targets, values)
            scenes.append([number for name in self._metrics for number in _sum_and_count(values[name])])
        return scenes


def _sum_and_count(values: list[float]) -> tuple[float, float]:
    return mean(values) * len(values) if values else 0.0, float(len(values))


def _centre(frame: Picture, side: int, *, multiple: int) -> Images:
    """The middle of a frame, of ``side`` pixels at most in each direction, beginning at a multiple; a copy."""
    y, x = (max(0, (size - side) // 2) // multiple * multiple for size in frame.shape[:2])
    return frame[y : y + side, x : x + side].copy()
