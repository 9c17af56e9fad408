"""All that a run's folder says, for people who look: how far it is, what was measured, and which patterns it shows."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location, UnreachableError
from tecogan_dist.config.load import from_tree
from tecogan_dist.runs.checkpoints import checkpoint_step, newest_checkpoint
from tecogan_dist.runs.folder import RUN_FILE
from tecogan_dist.runs.patterns import Pattern, limits_of, patterns
from tecogan_dist.runs.recent import Follower
from tecogan_dist.runs.records import read_scores
from tecogan_dist.runs.standing import Standing, settings_of, standing_of
from tecogan_dist.runs.status import Restart, Validation, read_restarts

PATTERNS_EVERY = 60.0
"""Seconds after which records are read on."""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What a run's folder says."""

    standing: Standing
    attempts: tuple[Restart, ...]
    checkpoint: int | None
    """Steps of the newest one."""
    validation: Validation | None
    patterns: tuple[Pattern, ...]
    notes: tuple[str, ...]
    """A sentence about each file that cannot be read, or not all of it, while the rest can."""


class Viewer:
    """Looks at a run's folder, as often as wanted. What is costly to read is read once a minute."""

    def __init__(self, run: Location) -> None:
        self._run, self._records = run, Follower(run)
        self._looked_at = -PATTERNS_EVERY
        self._patterns: tuple[Pattern, ...] = ()
        self._notes: tuple[str, ...] = ()
        self._step = 0
        self._attempts: tuple[Restart, ...] = ()
        self._validation: Validation | None = None

    def look(self) -> Overview:
        """What is there now. Raises :class:`UserError` for what is not a run, and where its settings are damaged."""
        notes: list[str] = []
        standing = standing_of(self._run, notes=notes)
        if time.monotonic() - self._looked_at >= PATTERNS_EVERY or not standing.is_alive:
            self._read_records()
            self._looked_at = time.monotonic()
        newest = newest_checkpoint(self._run)
        status = standing.status
        if status is None and self._step > standing.step:
            standing = dataclasses.replace(standing, step=self._step)
        return Overview(
            standing=standing,
            attempts=self._attempts,
            checkpoint=None if newest is None else checkpoint_step(newest),
            validation=self._validation if status is None or status.validation is None else status.validation,
            patterns=self._patterns,
            notes=(*notes, *self._notes),
        )

    def _read_records(self) -> None:
        notes: list[str] = []
        tree, _, _ = settings_of(self._run)
        config = from_tree(tree, source=str(self._run / RUN_FILE))
        seen = self._records.look()
        # Training writes the line first, and then the file of scores.
        scores = seen.scores
        with _collected(notes):
            self._attempts = tuple(read_restarts(self._run))
        with _collected(notes):
            scores = scores | read_scores(self._run)
        self._step = seen.last_step
        self._validation = Validation.of(scores, max(scores), metric=config.tracking.best) if scores else None
        self._patterns = tuple(patterns(seen.lines, earlier=seen.earlier, scores=scores, **limits_of(config)))
        self._notes = (*((seen.note,) if seen.note is not None else ()), *notes)


@contextlib.contextmanager
def _collected(notes: list[str]) -> Iterator[None]:
    """A damaged file of records is told beside what the others say; storage that does not answer is not."""
    try:
        yield
    except UnreachableError:
        raise
    except UserError as error:
        notes.append(str(error))
