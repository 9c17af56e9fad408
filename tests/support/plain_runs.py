"""Training in a plain process on random windows: small runs whose every number is exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tecogan_dist.base.storage import Location
from tecogan_dist.config import load as settings
from tecogan_dist.config.overrides import override
from tecogan_dist.config.schema import Config
from tecogan_dist.data.clips import ClipStore
from tecogan_dist.data.stream.windows import WindowConfig, crop_side
from tecogan_dist.runs.checkpoints import TrainingState
from tecogan_dist.training.loop import train
from tecogan_dist.training.reporter import PlainReporter
from tecogan_dist.training.task import TrainingTask


def make_config(overrides: list[str]) -> Config:
    tree = {
        "steps": 6,
        "batch_size": 2,
        "model": {"blocks": 1, "channels": 8, "flow_width": 4},
        "loss": {"perceptual": 0},
        "optimizer": {"learning_rate": 1e-3},
        "data": {"sequence_length": 3, "crop_size": 16},
        "tracking": {"display_every": 1},
    }
    return override(settings.from_tree(tree, source="the test"), overrides)


def run(
    config: Config,
    output: Path | Location,
    *,
    owner: str | None = None,
    held_out: ClipStore | None = None,
    **reporter: Any,
) -> TrainingState:
    """``held_out`` are scenes that are measured while training goes on."""
    place = Location.of(output)
    task = TrainingTask(
        config=config,
        data=place if held_out is None else held_out.location,
        training_scenes=(),
        validation_scenes=() if held_out is None else held_out.scenes,
        output=place,
        owner=owner,
    )
    return train(task, device=torch.device("cpu"), reporter=PlainReporter(**reporter), stream=noise)


def noise(
    _store: Location, *, data: WindowConfig, seed: int, batch_size: int, first_step: int, steps: int, **_: Any
) -> Iterator[Tensor]:
    """Random windows, a function of seed and step as the real stream's are."""
    side = crop_side(data)
    for step in range(first_step, first_step + steps):
        generator = torch.Generator().manual_seed(1000 * seed + step)
        shape = (batch_size, data.sequence_length, side, side, 3)
        yield torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
