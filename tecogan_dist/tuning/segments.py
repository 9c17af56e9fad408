"""What is on disk of a trial: its segments' run folders, and what was measured in them.

A sweep's folder is a memory of what was trained: a segment is known by its values and by the checkpoint that it begins
from, so a command that runs again finds what it did before, tells it to the scheduler and the searcher once more, and
trains only what is missing.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import pydantic

from tecogan_dist.base.documents import dump_json, parse_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.checkpoints import checkpoint_step, newest_checkpoint, opened, read_state
from tecogan_dist.runs.folder import RUN_FILE, read_run_file
from tecogan_dist.runs.records import check_records, read_scores
from tecogan_dist.tuning.records import trial_name

TRIALS_FOLDER = "trials"
SEGMENT_SUFFIX = ".json"
"""Of the file beside a segment's run folder."""
NOTE_BYTES = 2**20
_NAME = re.compile(rf"([0-9]{{4,9}}|preset)(_seed[0-9]{{1,19}})?(_part[0-9]{{1,9}})?{re.escape(SEGMENT_SUFFIX)}")


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """A checkpoint of a trial, as it is handed to another process: what Ray Tune keeps instead of the weights."""

    trial: str
    """Name of the trial that made it."""
    folder: str
    """The run's folder, and the checkpoint's in it."""
    checkpoint: str
    step: int
    weights: str
    """SHA-256 of its weights."""

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Of what :meth:`to_json` gave."""
        return cls(**parse_json(text, source="Ray Tune's note of a checkpoint"))

    def to_json(self) -> str:
        return dump_json(dataclasses.asdict(self))


_Step = Annotated[int, pydantic.Field(strict=True, ge=0, lt=2**63)]
_Key = Annotated[int, pydantic.Field(ge=0, lt=2**63)]
"""JSON's keys are texts."""
_Seconds = Annotated[float, pydantic.Field(strict=True)]


@dataclass(frozen=True, kw_only=True)
class _Note:
    """The file beside a segment's run folder."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

    values: dict[str, Any]
    origin: Pointer | None
    began: _Seconds
    times: dict[_Key, _Seconds]
    passed: _Step
    stopped: _Step | None


_NOTE = pydantic.TypeAdapter(_Note)


@dataclass(frozen=True, kw_only=True)
class SegmentFolder:
    """A stretch of a trial with one set of values; its folder is a run of ``tecogan train``."""

    folder: Location
    values: dict[str, Any]
    origin: Pointer | None
    """Where it begins; None: at the sweep's starting weights."""
    began: float
    """When it was made, in seconds since 1970."""
    times: dict[int, float] = field(default_factory=dict)
    """When the held-out scenes were measured, by step."""
    passed: int = 0
    """The newest measured step after which the scheduler let it go on."""
    stopped: int | None = None
    """The step after which the scheduler stopped it."""

    @property
    def first_step(self) -> int:
        """Steps done when it begins."""
        return 0 if self.origin is None else self.origin.step

    def measured(self, *, every: int) -> dict[int, dict[str, float]]:
        """The recorded scores, by step, of the steps that a checkpoint has reached."""
        newest = newest_checkpoint(self.folder)
        reached = self.first_step if newest is None else checkpoint_step(newest)
        scores = read_scores(self.folder)
        return {step: scores[step] for step in sorted(scores) if step <= reached and step % every == 0}

    def noted(self, **changes: Any) -> SegmentFolder:
        """With other facts, also in its file."""
        changed = dataclasses.replace(self, **changes)
        changed.write()
        return changed

    def write(self) -> None:
        tree = {
            "values": self.values,
            "origin": None if self.origin is None else dataclasses.asdict(self.origin),
            "began": self.began,
            "times": {str(step): seconds for step, seconds in self.times.items()},
            "passed": self.passed,
            "stopped": self.stopped,
        }
        _note(self.folder).write_bytes((dump_json(tree, indent=2) + "\n").encode())

    @classmethod
    def read(cls, folder: Location) -> Self | None:
        """None where there is none. Raises :class:`UserError` for a damaged file."""
        file = _note(folder)
        try:
            text = file.read_bytes(limit=NOTE_BYTES)
        except FileNotFoundError:
            return None
        try:
            note = _NOTE.validate_python(parse_json(text, source=file))
        except (UserError, pydantic.ValidationError) as error:
            raise _damaged(folder) from error
        facts = {field.name: getattr(note, field.name) for field in dataclasses.fields(note)}
        return cls(folder=folder, **facts)


def open_segment(sweep: Location, trial: str, *, values: dict[str, Any], origin: Pointer | None) -> SegmentFolder:
    """The segment of a trial with these values and this beginning: the one that is there, or a new one.

    A trial that goes on from a checkpoint of its own, with the values it had, stays in its segment.
    """
    number = 1
    while (segment := SegmentFolder.read(segment_folder(sweep, trial, number))) is not None:
        if segment.values == values and (segment.origin == origin or _is_within(origin, segment)):
            return segment
        number += 1
    segment = SegmentFolder(
        folder=segment_folder(sweep, trial, number), values=values, origin=origin, began=time.time()
    )
    segment.write()
    return segment


def _damaged(folder: Location, why: str = "") -> UserError:
    reason = f" ({why})" if why else ""
    return UserError(f"{_note(folder)} is damaged{reason}: move it and {folder} away, and the trial starts again.")


def _note(folder: Location) -> Location:
    return folder.parent / f"{folder.name}{SEGMENT_SUFFIX}"


def _is_within(origin: Pointer | None, segment: SegmentFolder) -> bool:
    return origin is not None and origin.folder == str(segment.folder)


def segment_folder(sweep: Location, trial: str, number: int) -> Location:
    """Of the first segment the trial's name, then with a number."""
    return sweep / TRIALS_FOLDER / (trial if number == 1 else f"{trial}_part{number}")


def check_segments(sweep: Location, *, steps: int = 0, fits: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """Raise :class:`UserError` for a damaged record of a trial: before a Ray is started for it.

    Of trials that have not come to ``steps``, and so go on from their newest checkpoint, that is read as well. ``fits``
    raises one for values that the sweep's trials cannot have.
    """
    folder = sweep / TRIALS_FOLDER
    for name in folder.names():
        segment = SegmentFolder.read(folder / name.removesuffix(SEGMENT_SUFFIX)) if _NAME.fullmatch(name) else None
        if segment is None:
            continue
        try:
            fits(segment.values)
            if segment.origin is not None:
                Location(segment.origin.checkpoint)
        except UserError as error:
            raise _damaged(segment.folder, str(error).rstrip(".")) from error
        if (segment.folder / RUN_FILE).exists():
            read_run_file(segment.folder / RUN_FILE)
        check_records(segment.folder)
        newest = newest_checkpoint(segment.folder)
        if newest is not None:
            read_state(newest)
            if checkpoint_step(newest) < steps:
                with opened(newest):
                    pass


def recorded_values(sweep: Location) -> list[dict[str, Any]]:
    """The values with which the search's trials began, in their order, as far as they were begun without a gap."""
    found: list[dict[str, Any]] = []
    while (segment := SegmentFolder.read(segment_folder(sweep, trial_name(len(found)), 1))) is not None:
        found.append(segment.values)
    return found
