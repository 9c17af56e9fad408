"""Checkpoints: what a run needs to go on exactly where it was, and how one is found, checked and read.

A checkpoint is a folder of the run: ``weights.safetensors`` (what ``upscale`` and ``--initial-weights`` read),
``moments.safetensors`` (Adam's), with ``optimizer.ema_decay`` also ``weights_ema.safetensors``, and ``state.json``,
which comes last and has the checksums of the others: without it a folder is not a checkpoint. Nothing in it depends on
the number of workers or on the ZeRO stage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location

WEIGHTS_FILE = "weights.safetensors"
STATE_FILE = "state.json"
MOMENTS_FILE = "moments.safetensors"
EMA_FILE = "weights_ema.safetensors"
CHECKPOINT_PREFIX = "checkpoint_"


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Where a run is. Everything else follows from the config, the weights and ``step``."""

    step: int = 0
    """Steps done."""
    balance_average: float = 0.0
    """Running average of the discriminator's lead (``ObjectiveResult.losses["balance"]``), decay 0.99, started at 0."""
    discriminator_updates: int = 0
    discriminator_skips: int = 0
    """Steps in which the discriminator was too far ahead to be updated."""
    bad_steps: int = 0
    """Steps that updated nothing, because a loss or gradient was not finite."""
    bad_steps_in_a_row: int = 0
    """Of those, the last ones without a good one since."""


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


def checkpoint_step(checkpoint: Location) -> int:
    """The steps that are done in a checkpoint, by its name."""
    return int(checkpoint.name.removeprefix(CHECKPOINT_PREFIX))


def checkpoints(run: Location) -> list[Location]:
    """The complete checkpoints of a run's folder, by step."""
    names = [name for name in run.names() if name.startswith(CHECKPOINT_PREFIX)]
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
            f"{place} holds nothing to resume from: give a run's output folder or one of its {CHECKPOINT_PREFIX}* "
            "folders."
        )
    return newest


def read_state(checkpoint: Location) -> StateFile:
    """Where a checkpoint is. Raises :class:`UserError` if that cannot be read."""
    try:
        text = (checkpoint / STATE_FILE).read_bytes()
    except FileNotFoundError as error:
        raise UserError(
            f"{checkpoint} is not a checkpoint any more: it was removed meanwhile, as training does with older "
            "ones; try again."
        ) from error
    try:
        values: dict[str, Any] = json.loads(text)
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
def opened(checkpoint: Location, *, only: Collection[str] | None = None) -> Iterator[Path]:
    """A local folder with the checkpoint's files (or ``only`` those), whose checksums are right.

    Raises :class:`UserError` if one is missing or damaged.
    """
    files = read_state(checkpoint).files
    strange = sorted(set(only or ()) - files.keys())
    if strange:
        raise UserError(f"{checkpoint / strange[0]} is not one of its checkpoint's files: give another one.")
    with contextlib.ExitStack() as stack:
        folder = checkpoint.path if checkpoint.is_local else Path(stack.enter_context(_temporary_folder()))
        for name in files if only is None else only:
            try:
                if not checkpoint.is_local:
                    (checkpoint / name).fetch(folder / name)
                found = file_digest(folder / name)
            except FileNotFoundError as error:
                read_state(checkpoint)  # it may have been removed meanwhile
                raise _damaged(checkpoint, f"{name} is missing") from error
            if found != files[name]:
                raise _damaged(checkpoint, f"the checksum of {name} is wrong")
        yield folder


def file_digest(path: Path) -> str:
    """SHA-256 of a local file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tecogan_checkpoint_")


def _damaged(checkpoint: Location, what: str) -> UserError:
    return UserError(
        f"the checkpoint {checkpoint} is damaged ({what}): move it away, and the same command goes on from the one "
        "before."
    )
