"""Checkpoints: what a run needs to go on exactly where it was, and how one is found, checked and read.

A checkpoint is a folder of the run: ``weights.safetensors`` (what ``upscale`` and ``--initial-weights`` read),
``moments.safetensors`` (Adam's), with ``optimizer.ema_decay`` also ``weights_ema.safetensors``, and ``state.json``,
which comes last and has the checksums of the others: without it a folder is not a checkpoint. Nothing in it depends on
the number of workers or on the ZeRO stage. Only what has exactly the names that are written here counts as the run's
own, and only that is ever removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pydantic

from tecogan_dist.base.documents import parse_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import open_regular
from tecogan_dist.base.storage import Location

WEIGHTS_FILE = "weights.safetensors"
STATE_FILE = "state.json"
MOMENTS_FILE = "moments.safetensors"
EMA_FILE = "weights_ema.safetensors"
OWN_FILES = (STATE_FILE, WEIGHTS_FILE, EMA_FILE, MOMENTS_FILE)
"""All files of a checkpoint; the first is removed first."""
CHECKPOINT_PREFIX = "checkpoint_"
STATE_BYTES = 2**20
STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
_NAME = re.compile(rf"{CHECKPOINT_PREFIX}([0-9]{{8}}|[1-9][0-9]{{8,17}})")
_INCOMPLETE = re.compile(rf"\.({'|'.join(map(re.escape, OWN_FILES))})\.[0-9a-f]{{8}}\.partial")
_FILES = rf"^({'|'.join(map(re.escape, OWN_FILES[1:]))})$"
_DIGEST = "^[0-9a-f]{64}$"
_Count = Annotated[int, pydantic.Field(strict=True, ge=0, lt=2**63)]


_Number = Annotated[float, pydantic.Field(strict=True, allow_inf_nan=False)]
AVERAGE_DECAY = 0.99
"""Of the running averages of losses (lib/Teco.py: tf.train.ExponentialMovingAverage)."""


def moved_average(average: float, value: float) -> float:
    """A running average after one more value."""
    return average + (1 - AVERAGE_DECAY) * (value - average)


@dataclass(frozen=True, kw_only=True)
class LossRecords:
    """What records remember of the losses of steps that are done, so that a run that goes on has the same curves."""

    __pydantic_config__ = STRICT

    averages: dict[str, _Number] = field(default_factory=dict)
    """Of each raw loss: the exponential average of all steps, decay 0.99, begun at 0 without correction."""
    sums: dict[str, _Number] = field(default_factory=dict)
    """Of each recorded loss over the steps since the last record."""
    count: _Count = 0
    """Of these steps."""

    def with_step(self, raw: Mapping[str, float], recorded: Mapping[str, float]) -> LossRecords:
        """After one more step: ``raw`` losses are averaged, ``recorded`` values summed up."""
        averages = self.averages | {
            name: moved_average(self.averages.get(name, 0.0), value) for name, value in raw.items()
        }
        sums = self.sums | {name: self.sums.get(name, 0.0) + value for name, value in recorded.items()}
        return LossRecords(averages=averages, sums=sums, count=self.count + 1)

    def means(self) -> dict[str, float]:
        """Of the steps since the last record; nothing if there is none."""
        return {name: total / self.count for name, total in self.sums.items()}

    def begun_anew(self) -> LossRecords:
        """After a record."""
        return LossRecords(averages=self.averages)


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Where a run is. Everything else follows from the config, the weights and ``step``."""

    __pydantic_config__ = STRICT

    step: _Count = 0
    """Steps done."""
    balance_average: _Number = 0.0
    """Running average of the discriminator's lead (``ObjectiveResult.losses["balance"]``), decay 0.99, started at 0."""
    discriminator_updates: _Count = 0
    discriminator_skips: _Count = 0
    """Steps in which the discriminator was too far ahead to be updated."""
    bad_steps: _Count = 0
    """Steps that updated nothing, because a loss or gradient was not finite."""
    bad_steps_in_a_row: _Count = 0
    """Of those, the last ones without a good one since."""
    records: LossRecords = LossRecords()


@dataclass(frozen=True)
class StateFile:
    """The content of ``state.json``."""

    __pydantic_config__ = STRICT

    state: TrainingState
    updates: dict[str, _Count]
    """Adam's count of updates of each network."""
    average_updates: _Count
    """Updates that went into the average of weights; 0 without one."""
    files: dict[Annotated[str, pydantic.Field(pattern=_FILES)], Annotated[str, pydantic.Field(pattern=_DIGEST)]]
    """SHA-256 of the checkpoint's other files."""

    def to_json(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n").encode()


_STATE = pydantic.TypeAdapter(StateFile)


def checkpoint_name(step: int) -> str:
    """Name of the checkpoint after ``step`` steps; names sort as steps do."""
    return f"{CHECKPOINT_PREFIX}{step:08d}"


def is_checkpoint_name(name: str) -> bool:
    """Whether it is exactly what :func:`checkpoint_name` gives: ``checkpoint_best`` is somebody else's."""
    return _NAME.fullmatch(name) is not None


def checkpoint_step(checkpoint: Location) -> int:
    """The steps that are done in a checkpoint, by its name. Raises :class:`UserError` for another name."""
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise UserError(f"{checkpoint} is not named as a checkpoint is ({checkpoint_name(1)}): give it its name back.")
    return int(match[1])


def checkpoints(run: Location) -> list[Location]:
    """The complete checkpoints of a run's folder, by step."""
    found = [run / name for name in run.names() if is_checkpoint_name(name)]
    return sorted((place for place in found if (place / STATE_FILE).is_file()), key=checkpoint_step)


def newest_checkpoint(run: Location) -> Location | None:
    """The complete checkpoint with the most steps."""
    return max(checkpoints(run), key=checkpoint_step, default=None)


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
        text = (checkpoint / STATE_FILE).read_bytes(limit=STATE_BYTES)
    except FileNotFoundError as error:
        raise UserError(
            f"{checkpoint} is not a checkpoint any more: it was removed meanwhile, as training does with older "
            "ones; try again."
        ) from error
    file = checkpoint / STATE_FILE
    instead = "resume from an earlier checkpoint, or move this one away"
    try:
        found = _STATE.validate_python(parse_json(text, source=file))
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(name) for name in problem["loc"]) or "all of it"
        raise UserError(f"{file} is damaged, or of another version ({key[:200]}): {instead}.") from error
    except UserError as error:
        raise UserError(f"{file} is damaged ({str(error).rstrip('.')}): {instead}.") from error
    if is_checkpoint_name(checkpoint.name) and found.state.step != checkpoint_step(checkpoint):
        raise UserError(
            f"{checkpoint} is named after another step than its {STATE_FILE} has ({found.state.step}): give it its "
            "name back, or move it away."
        )
    return found


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


def remove_checkpoint(checkpoint: Location) -> None:
    """Remove the files that a checkpoint has, and its folder if nothing else is in it.

    It is not a checkpoint any more as soon as the first of them is gone. Other files stay, and so does a link.
    """
    if not is_checkpoint_name(checkpoint.name) or (checkpoint.is_local and checkpoint.path.is_symlink()):
        return
    there = checkpoint.names()
    remove_files(checkpoint, [name for name in OWN_FILES if name in there])
    remove_files(checkpoint, [name for name in there if _INCOMPLETE.fullmatch(name)])
    checkpoint.delete_folder()


def remove_files(folder: Location, names: Iterable[str]) -> None:
    """Remove files, and never a folder, that have these names."""
    for name in names:
        file = folder / name
        with contextlib.suppress(FileNotFoundError):
            if not (file.is_local and stat.S_ISDIR(os.lstat(file.path).st_mode)):
                file.delete()


def is_own_file(name: str) -> bool:
    """Whether a checkpoint's file has this name, or had it while it was being written."""
    return name in OWN_FILES or _INCOMPLETE.fullmatch(name) is not None


def file_digest(path: Path) -> str:
    """SHA-256 of a local file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tecogan_checkpoint_")


def _damaged(checkpoint: Location, what: str) -> UserError:
    return UserError(
        f"the checkpoint {checkpoint} is damaged ({what}): move it away, and the same command goes on from the one "
        "before."
    )
