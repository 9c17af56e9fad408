"""All that a run's folder says, for people who look: how far it is, what was measured, and which patterns it shows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location, UnreachableError
from tecogan_dist.config.load import from_tree
from tecogan_dist.runs.checkpoints import checkpoint_step, newest_checkpoint
from tecogan_dist.runs.folder import RUN_FILE
from tecogan_dist.runs.patterns import Pattern, limits_of, patterns
from tecogan_dist.runs.records import read_metrics, read_scores
from tecogan_dist.runs.standing import Standing, settings_of, standing_of
from tecogan_dist.runs.status import Restart, Validation, read_restarts

PATTERNS_EVERY = 60.0
"""Seconds after which all records are read again."""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What a run's folder says."""

    standing: Standing
    attempts: tuple[Restart, ...]
    checkpoint: int | None
    """Steps of the newest one."""
    validation: Validation | None
    patterns: tuple[Pattern, ...]
    problems: tuple[str, ...]
    """Sentences about files that cannot be read, while the rest can."""


class Viewer:
    """Looks at a run's folder, as often as wanted. What is costly to read is read once a minute."""

    def __init__(self, run: Location) -> None:
        self._run = run
        self._looked_at = -PATTERNS_EVERY
        self._patterns: tuple[Pattern, ...] = ()
        self._problems: tuple[str, ...] = ()
        self._attempts: tuple[Restart, ...] = ()
        self._validation: Validation | None = None

    def look(self) -> Overview:
        """What is there now. Raises :class:`UserError` for what is not a run, and where nothing can be told of it."""
        standing = standing_of(self._run)
        if time.monotonic() - self._looked_at >= PATTERNS_EVERY or not standing.is_alive:
            self._read_records()
            self._looked_at = time.monotonic()
        newest = newest_checkpoint(self._run)
        status = standing.status
        return Overview(
            standing=standing,
            attempts=self._attempts,
            checkpoint=None if newest is None else checkpoint_step(newest),
            validation=self._validation if status is None or status.validation is None else status.validation,
            patterns=self._patterns,
            problems=self._problems,
        )

    def _read_records(self) -> None:
        problems: list[str] = []
        tree, _, _ = settings_of(self._run)
        config = from_tree(tree, source=str(self._run / RUN_FILE))
        scores: dict[int, dict[str, float]] = {}
        with _collected(problems):
            self._attempts = tuple(read_restarts(self._run))
        with _collected(problems):
            scores = read_scores(self._run)
        self._validation = Validation.of(scores, max(scores), metric=config.tracking.best) if scores else None
        with _collected(problems):
            found = patterns(read_metrics(self._run), scores=scores, **limits_of(config))
            self._patterns = tuple(found)
        self._problems = tuple(problems)


@contextlib.contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """A damaged file of records is told beside what the others say; storage that does not answer is not."""
    try:
        yield
    except UnreachableError:
        raise
    except UserError as error:
        problems.append(str(error))
