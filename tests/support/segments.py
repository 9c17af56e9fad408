"""A small video cut into scenes and segments, and what one process makes of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling.folder import WorkFolder
from tecogan_dist.upscaling.plan import chains, segments_of, to_plain
from tecogan_dist.upscaling.segment import Rendering, SegmentTask, upscale_segment
from tecogan_dist.upscaling.source import SourceOptions, stamp
from tecogan_dist.upscaling.targets import Target
from tecogan_dist.video.writer import FrameWriter

SCENES = [range(9), range(9, 12), range(12, 20)]


def small_model() -> RecurrentUpscaler:
    torch.manual_seed(0)
    model = build_upscaler(ModelConfig(blocks=1, channels=8, flow_width=4, output_init_scale=0.1)).eval()
    return model.to(memory_format=torch.channels_last)


def moving_folder(path: Path, *, height: int = 16, width: int = 24, seed: int = 0) -> Path:
    """20 images of noise that moves, another noise in each of the SCENES."""
    random = np.random.default_rng(seed)
    with FrameWriter(path) as writer:
        for scene in SCENES:
            noise = random.integers(0, 256, (height, width + len(scene), 3), dtype=np.uint8)
            for index in range(len(scene)):
                writer.write(noise[:, index : index + width])
    return path


@dataclass(frozen=True)
class Film:
    """Groups of tasks whose work folder is there, with nothing in it."""

    groups: list[list[SegmentTask]]
    output: Path

    @property
    def tasks(self) -> list[SegmentTask]:
        return [task for group in self.groups for task in group]

    def digests(self) -> dict[str, str]:
        """Of all pixels of all segments, by file."""
        files = sorted(WorkFolder(self.output).path.glob("segment_*/*.png"))
        return {f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def film(source: Path, output: Path, *, most: int = 3) -> Film:
    """Into segments of at most ``most`` frames: with 3, the first scene is a group of 3."""
    segments = segments_of(SCENES, most=most, shared=most)
    output.parent.mkdir(parents=True, exist_ok=True)
    WorkFolder(output).begin({"segments": to_plain(segments), "name": output.name})
    mark = stamp(source)
    groups = [
        [
            SegmentTask(
                source=SourceOptions(path=source),
                stamp=mark,
                output=output,
                segment=segment,
                first=0,
                rendering=Rendering(),
                target=Target(),
            )
            for segment in group
        ]
        for group in chains(segments)
    ]
    return Film(groups, output)


def in_one_process(source: Path, output: Path, model: RecurrentUpscaler) -> dict[str, str]:
    """What one process makes, in order."""
    made = film(source, output)
    for task in made.tasks:
        upscale_segment(task, model)
    return made.digests()
