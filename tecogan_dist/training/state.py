"""Checkpoints: what a run needs to go on exactly where it was, and how one is found, checked and read.

A checkpoint is a folder of the run: ``weights.safetensors`` (what ``upscale`` and ``initial_weights`` read),
``moments.safetensors`` (Adam's), with ``optimizer.ema_decay`` also ``weights_ema.safetensors``, and ``state.json``,
which comes last and has the checksums of the others: without it a folder is no checkpoint. Nothing in it depends on
the number of workers or on the ZeRO stage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tecogan_dist.errors import UserError
from tecogan_dist.storage import Location
from tecogan_dist.training.engines import EnginePair
from tecogan_dist.weights import CHECKPOINT_PATTERN, read_tensors

STATE_FILE = "state.json"
MOMENTS_FILE = "moments.safetensors"
EMA_FILE = "weights_ema.safetensors"
CHECKPOINT_PREFIX = CHECKPOINT_PATTERN.removesuffix("*")


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
    bad_steps: int = 0
    """Steps that updated nothing, because a loss or gradient was not finite."""


@dataclass(frozen=True)
class StateFile:
    """The content of ``state.json``."""

    state: TrainingState
    updates: dict[str, int]
    """Adam's count of updates of each network."""
    average_updates: int
    """Updates that went into the average of weights; 0 without one."""
    files: dict[str, str]
    """SHA-256 of the checkpoint's other files."""

    def to_json(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode()


def checkpoint_name(step: int) -> str:
    """Name of the checkpoint after ``step`` steps; names sort as steps do."""
    return f"{CHECKPOINT_PREFIX}{step:08d}"


def checkpoints(run: Location) -> list[Location]:
    """The complete checkpoints of a run's folder, by step."""
    names = [entry.base_name for entry in run.entries() if entry.base_name.startswith(CHECKPOINT_PREFIX)]
    return [run / name for name in sorted(names) if (run / name / STATE_FILE).exists()]


def newest_checkpoint(run: Location) -> Location | None:
    """The complete checkpoint with the most steps."""
    return max(checkpoints(run), key=lambda checkpoint: checkpoint.name, default=None)


def find_checkpoint(place: Location) -> Location:
    """The checkpoint that ``place`` is, or the newest one of the run that it is. Raises :class:`UserError`."""
    if (place / STATE_FILE).exists():
        return place
    newest = newest_checkpoint(place)
    if newest is None:
        raise UserError(
            f"{place} holds nothing to resume from: give a run's output folder or one of its {CHECKPOINT_PATTERN} "
            "folders."
        )
    return newest


def read_state(checkpoint: Location) -> StateFile:
    """Where a checkpoint is. Raises :class:`UserError` if that cannot be read."""
    try:
        values: dict[str, Any] = json.loads((checkpoint / STATE_FILE).read_bytes())
        state = TrainingState(**values["state"])
        updates = {str(part): int(count) for part, count in values["updates"].items()}
        files = {str(name): str(digest) for name, digest in values["files"].items()}
        return StateFile(state, updates, int(values["average_updates"]), files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{checkpoint / STATE_FILE} is damaged, or of another version ({error!r}): resume from an earlier "
            "checkpoint, or move this one away."
        ) from error


@contextlib.contextmanager
def opened(checkpoint: Location) -> Iterator[Path]:
    """A local folder with the checkpoint's files, whose checksums are right. Raises :class:`UserError` otherwise."""
    files = read_state(checkpoint).files
    with contextlib.ExitStack() as stack:
        if checkpoint.is_local:
            folder = checkpoint.path
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tecogan_checkpoint_")))
        for name, expected in files.items():
            try:
                if not checkpoint.is_local:
                    (checkpoint / name).fetch(folder / name)
                with open(folder / name, "rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError as error:
                raise _damaged(checkpoint, f"{name} is missing") from error
            if found != expected:
                raise _damaged(checkpoint, f"the checksum of {name} is wrong")
        yield folder


def load_moments(folder: Path, checkpoint: StateFile, pair: EnginePair) -> None:
    """Put an opened checkpoint's moments into a pair whose weights are the checkpoint's. All workers call it."""
    moments, _ = read_tensors(folder / MOMENTS_FILE)
    missing = {name for name in checkpoint.updates if checkpoint.updates[name]} - {
        name.split(".")[0] for name in moments
    }
    if missing:
        raise UserError(f"{folder} lacks the optimiser's moments of {', '.join(sorted(missing))}: resume from another.")
    pair.load_moments(moments, checkpoint.updates)


def _damaged(checkpoint: Location, what: str) -> UserError:
    return UserError(
        f"the checkpoint {checkpoint} is damaged ({what}): move it away, and the same command goes on from the one "
        "before."
    )
