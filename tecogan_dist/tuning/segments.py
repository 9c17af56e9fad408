"""What is on disk of a trial: its segments' run folders, and what was measured in them.

A sweep's folder is a memory of what was trained: a segment is known by its values and by the checkpoint that it begins
from, so a command that runs again finds what it did before, tells it to the scheduler and the searcher once more, and
trains only what is missing.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from typing import Any, Self

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.checkpoints import checkpoint_step, newest_checkpoint
from tecogan_dist.runs.records import read_scores
from tecogan_dist.tuning.records import trial_name

TRIALS_FOLDER = "trials"
SEGMENT_SUFFIX = ".json"
"""Of the file beside a segment's run folder."""


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
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


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
        _note(self.folder).write_bytes((json.dumps(tree, indent=2) + "\n").encode())

    @classmethod
    def read(cls, folder: Location) -> Self | None:
        """None where there is none. Raises :class:`UserError` for a damaged file."""
        try:
            tree = json.loads(_note(folder).read_bytes())
            origin = tree["origin"]
            return cls(
                folder=folder,
                values=tree["values"],
                origin=None if origin is None else Pointer(**origin),
                began=float(tree["began"]),
                times={int(step): float(seconds) for step, seconds in tree["times"].items()},
                passed=int(tree["passed"]),
                stopped=None if tree["stopped"] is None else int(tree["stopped"]),
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{_note(folder)} is damaged: move it and {folder} away, and the trial starts again."
            ) from error


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


def _note(folder: Location) -> Location:
    return folder.parent / f"{folder.name}{SEGMENT_SUFFIX}"


def _is_within(origin: Pointer | None, segment: SegmentFolder) -> bool:
    return origin is not None and origin.folder == str(segment.folder)


def segment_folder(sweep: Location, trial: str, number: int) -> Location:
    """Of the first segment the trial's name, then with a number."""
    return sweep / TRIALS_FOLDER / (trial if number == 1 else f"{trial}_part{number}")


def recorded_values(sweep: Location) -> list[dict[str, Any]]:
    """The values with which the search's trials began, in their order, as far as they were begun without a gap."""
    found: list[dict[str, Any]] = []
    while (segment := SegmentFolder.read(segment_folder(sweep, trial_name(len(found)), 1))) is not None:
        found.append(segment.values)
    return found
