"""Jobs of upscaling to test with: a tiny network, sources whose frames say what they are, a runner that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from tecogan_dist.base.progress import Progress
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling.beginning import begin
from tecogan_dist.upscaling.folder import WorkFolder
from tecogan_dist.upscaling.job import Here, Job
from tecogan_dist.upscaling.request import Request, open_request
from tecogan_dist.upscaling.segment import SegmentResult, SegmentTask
from tecogan_dist.video.writer import FrameWriter

TINY = ModelConfig(blocks=1, channels=8, flow_width=4, output_init_scale=0.1)


def tiny_model(seed: int = 0) -> RecurrentUpscaler:
    """A network whose output depends on the past."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    return build_upscaler(TINY).eval().to(memory_format=torch.channels_last)


def scene_frames(lengths: Sequence[int], *, height: int = 24, width: int = 32) -> list[np.ndarray]:
    """Scenes of these lengths, (height, width, 3) uint8: each a pattern of its own colours that moves."""
    frames = []
    for scene, length in enumerate(lengths):
        generator = np.random.default_rng(scene)
        coarse = generator.integers(0, 256, (height // 8 + 1, (width + max(lengths)) // 8 + 2, 3), dtype=np.uint8)
        picture = coarse.repeat(8, axis=0).repeat(8, axis=1)
        frames += [picture[:height, index : index + width].copy() for index in range(length)]
    return frames


def write_images(folder: Path, frames: Sequence[np.ndarray]) -> Path:
    with FrameWriter(folder) as writer:
        for number, frame in enumerate(frames):
            writer.write(frame, name=f"shot_{2 * number + 1:03}")
    return folder


class Killed(BaseException):
    """In place of a signal that ends a process."""


def run(
    request: Request,
    model: RecurrentUpscaler,
    *,
    restart: bool = False,
    stop_after: int | None = None,
    at_segment: Callable[[SegmentTask], None] = lambda _: None,
) -> list[int]:
    """Run a job, or until so many segments are made, when :class:`Killed` is raised; the numbers of those made."""
    job = begin(request, model, opened=open_request(request), restart=restart)
    here, made = Here(model=model), list[int]()

    def runner(groups: Sequence[Sequence[SegmentTask]], **told: Callable) -> None:
        for group in groups:
            for task in group:
                if len(made) == stop_after:
                    raise Killed
                at_segment(task)
                here([[task]], **told)
                made.append(task.segment.number)

    with Progress(None, seconds_between_lines=1e9) as progress:
        job.run(runner, progress=progress)
    return made


def begun(request: Request, model: RecurrentUpscaler) -> Job:
    """The job as a command finds it."""
    return begin(request, model, opened=open_request(request))


def folder_of(request: Request) -> WorkFolder:
    return WorkFolder(request.output)


__all__ = ["Killed", "SegmentResult", "begun", "folder_of", "run", "scene_frames", "tiny_model", "write_images"]
