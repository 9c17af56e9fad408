"""Checkpoints: what a run needs to go on exactly where it was, and how one is found and checked.

A checkpoint is a folder: ``weights.safetensors`` (what ``upscale`` and ``initial_weights`` read), ``state.json``, and
``upscaler/`` and ``discriminator/`` with the engines' own files, to which every worker adds its part.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tecogan_dist.config import Config
from tecogan_dist.errors import UserError
from tecogan_dist.training.engines import EnginePair
from tecogan_dist.weights import CHECKPOINT_PATTERN, WEIGHTS_FILE, save_weights

STATE_FILE = "state.json"


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Where a run is. Everything else follows from the config, the weights and ``step``."""

    step: int = 0
    """Steps done."""
    balance_average: float = 0.0
    """Running average of the discriminator's lead (``StepResult.losses["balance"]``), decay 0.99, started at 0."""
    discriminator_updates: int = 0
    discriminator_skips: int = 0
    """Steps in which the discriminator was too far ahead to be updated."""


def checkpoint_name(step: int, *, attempt: int, workers: int) -> str:
    """Name of the checkpoint after ``step`` steps.

    ``attempt`` grows from start to start of a run: it keeps the parts of a replayed checkpoint apart from those that a
    lost attempt left behind, perhaps incomplete.
    """
    return f"checkpoint_{step:08d}_{attempt}_{workers}w"


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint of a run's folder with the most steps, of those the latest attempt's."""
    return max((folder.parent for folder in run.glob(f"{CHECKPOINT_PATTERN}/{STATE_FILE}")), default=None)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that ``path`` is, or the newest one of the run that it is. Raises :class:`UserError`."""
    if (path / STATE_FILE).is_file():
        return path
    newest = newest_checkpoint(path)
    if newest is None:
        raise UserError(
            f"{path} holds nothing to resume from: give a run's output folder or one of its {CHECKPOINT_PATTERN} "
            "folders."
        )
    return newest


def save_checkpoint(
    folder: Path, *, state: TrainingState, pair: EnginePair, config: Config, rank: int, workers: int
) -> None:
    """Write this worker's part of a checkpoint into ``folder``, which exists. All workers call it."""
    with pair.weights():
        if rank == 0:
            save_weights(
                folder / WEIGHTS_FILE,
                upscaler_state=pair.upscaler_module.state_dict(),
                discriminator_state=None if pair.critic is None else pair.critic.state_dict(),
                model=config.model,
                run_config=config,
                step=state.step,
            )
    pair.save(folder)
    if rank == 0:
        values = dataclasses.asdict(state) | {"seed": config.seed, "workers": workers, "zero_stage": pair.zero_stage}
        (folder / STATE_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def load_checkpoint(folder: Path, *, pair: EnginePair, workers: int) -> TrainingState:
    """Put a checkpoint's weights and moments into ``pair`` and return where it was. All workers call it."""
    state = read_state(folder, workers=workers, zero_stage=pair.zero_stage)
    pair.load(folder)
    return state


def read_state(folder: Path, *, workers: int, zero_stage: int | None) -> TrainingState:
    """Where a checkpoint is. Raises :class:`UserError` if it cannot go on with so many workers and this ZeRO stage.

    ``zero_stage`` is None for a run without DeepSpeed. Stage 0 keeps everything on every worker, so its checkpoints
    fit any number of them; in the others each worker has a part.
    """
    try:
        values: dict[str, Any] = json.loads((folder / STATE_FILE).read_text("utf-8"))
        state = TrainingState(**{field.name: values[field.name] for field in dataclasses.fields(TrainingState)})
        saved_workers, saved_stage = values["workers"], values["zero_stage"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / STATE_FILE} is damaged ({error!r}): resume from an earlier checkpoint.") from error
    if saved_stage != zero_stage or (saved_workers != workers and zero_stage != 0):
        raise UserError(
            f"{folder} was written by {_describe(saved_workers, saved_stage)} and cannot go on with "
            f"{_describe(workers, zero_stage)}: set cluster.workers and cluster.zero_stage back, or start a new run "
            f"from its weights with --initial_weights {folder / WEIGHTS_FILE}."
        )
    return state


def _describe(workers: int, zero_stage: int | None) -> str:
    counted = f"{workers} worker{'s' if workers > 1 else ''}"
    return f"{counted} without DeepSpeed" if zero_stage is None else f"{counted} at ZeRO stage {zero_stage}"
