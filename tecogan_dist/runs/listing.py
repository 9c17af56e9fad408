"""The runs in a folder and below it: where they stand, how they score, and in which settings they differ."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyarrow.fs import FileType

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location, UnreachableError
from tecogan_dist.config.leaves import leaves
from tecogan_dist.config.load import from_tree
from tecogan_dist.runs.checkpoints import is_checkpoint_name
from tecogan_dist.runs.folder import RUN_FILE
from tecogan_dist.runs.records import METRICS_FILE, SCORES_FILE, best_step, read_scores
from tecogan_dist.runs.standing import Standing, settings_of, standing_of
from tecogan_dist.runs.status import STATUS_FILE

DEPTH = 4
"""Folders below the given one that are looked into: a sweep's trials are two below it."""
MOST_RUNS, MOST_FOLDERS = 2000, 20_000
AT_A_TIME = 16
"""Runs that are read at a time: on an object store each takes several requests."""
WRITTEN = (RUN_FILE, STATUS_FILE, METRICS_FILE, SCORES_FILE)
"""Files of a run that say by their time when it was at work last."""
Counted = Callable[[str, int, int | None], None]
"""Told after each folder and run: which of these, how many so far, of how many (None: that is not known)."""
WHERE = ("data", "resume_from")
"""What a run's file has beside its settings."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A run in a list. ``problem`` says what of it cannot be read; without its settings there is no ``standing``."""

    name: str
    """Its path from the listed folder on; ``.`` is that folder itself."""
    standing: Standing | None
    metric: str
    """By which its best checkpoint is chosen: ``tracking.best``."""
    best: int | None
    """The step that scored best by that."""
    scores: dict[str, float]
    """What was measured after that step, by metric."""
    settings: dict[str, Any]
    """All of them by their dotted names, and the places of ``WHERE``."""
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The runs of a folder by name; of more than ``MOST_RUNS`` those that were written to last, the newest first."""

    runs: tuple[Listed, ...]
    differing: tuple[str, ...]
    """Names of the settings that are not the same in all runs that can be read."""
    found: int
    """How many there are, as far as was looked."""
    are_more: bool
    """Whether there may be more, in folders that were not looked into."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A folder that was looked into."""

    name: str
    place: Location
    written: float | None
    """When the files of the run in it were written last, seconds since 1970; None: it holds none."""
    folders: tuple[str, ...]
    """Names of those in it that may hold runs: none in a run."""


def list_runs(folder: Location, *, progress: Counted = lambda unit, count, total: None) -> Listing:  # noqa: ARG005
    """Look at the runs in ``folder`` and below. A damaged one is listed with what is wrong with it.

    Raises :class:`UserError` for a folder that is not there, and for storage that does not answer.
    """
    if not folder.exists():
        raise UserError(f"{folder} does not exist: name a folder that runs are in.")
    if folder.is_local and not folder.path.is_dir():
        raise UserError(f"{folder} is not a folder: name one that runs are in.")
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        found, are_more = _find(folder, threads, progress)
        shown = found
        if len(found) > MOST_RUNS:
            shown = sorted(found, key=lambda one: -(one.written or 0.0))[:MOST_RUNS]
        runs = []
        for run in threads.map(lambda one: _listed(one.name, one.place), shown):
            runs.append(run)
            progress("run", len(runs), len(shown))
    return Listing(runs=tuple(runs), differing=_differing(runs), found=len(found), are_more=are_more)


def _find(folder: Location, threads: Executor, progress: Counted) -> tuple[list[_Place], bool]:
    """Runs by name; whether there may be more. A run's own folders are not looked into.

    Each folder is looked into once, whatever links lead there: they are followed last, so that a run below ``folder``
    has the name that is its own.
    """
    runs: list[_Place] = []
    links: list[list[tuple[str, Location]]] = [[] for _ in range(DEPTH + 2)]
    level, looked, seen = [("", folder)], 0, set[str]()
    for follows in (False, True):
        for depth in range(DEPTH + 1):
            level = _unseen([*level, *links[depth]] if follows else level, seen)
            room = MOST_FOLDERS - looked
            below: list[tuple[str, Location]] = []
            for one in threads.map(lambda place: _looked_into(*place), level[:room]):
                looked += 1
                progress("folder", looked, None)
                if one.written is not None:
                    runs.append(one)
                for name in one.folders:
                    found = f"{one.name}/{name}" if one.name else name, one.place / name
                    (below if follows or not _is_link(found[1]) else links[depth + 1]).append(found)
            if len(level) > room:
                return _by_name(runs), True
            level = below
        level = []
    return _by_name(runs), False


def _is_link(place: Location) -> bool:
    return place.is_local and place.path.is_symlink()


def _unseen(places: Sequence[tuple[str, Location]], seen: set[str]) -> list[tuple[str, Location]]:
    """Those that are not in ``seen``, by where they really are, and from now on they are."""
    found = []
    for name, place in places:
        real = os.path.realpath(place.path) if place.is_local else str(place)
        if real not in seen:
            seen.add(real)
            found.append((name, place))
    return found


def _by_name(runs: Sequence[_Place]) -> list[_Place]:
    return [replace(one, name=one.name or ".") for one in sorted(runs, key=lambda one: _in_order(one.name))]


def _looked_into(name: str, folder: Location) -> _Place:
    """What is in a folder. One that may not be read holds nothing."""
    written: float | None = None
    folders: list[str] = []
    if folder.is_local:
        try:
            names = folder.names()
        except UserError:
            names = []
        if RUN_FILE in names and (folder.path / RUN_FILE).is_file():
            written = max(map(_written, (folder.path / file for file in names if file in WRITTEN)))
        else:
            folders = [one for one in names if (folder.path / one).is_dir()]
    else:
        entries = folder.entries()
        files = {entry.base_name: entry.mtime_ns for entry in entries if entry.type == FileType.File}
        if RUN_FILE in files:
            written = max(time or 0 for file, time in files.items() if file in WRITTEN) / 1e9
        else:
            # Arrow does not list the folders in a folder of gs://; their names are those of the files below them.
            others = {entry.base_name for entry in entries if entry.type == FileType.Directory}
            folders = sorted(others or set(folder.names()) - set(files))
    wanted = (one for one in folders if not one.startswith(".") and not is_checkpoint_name(one))
    return _Place(name=name, place=folder, written=written, folders=tuple(wanted))


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # it went away meanwhile
        return 0.0


def _listed(name: str, run: Location) -> Listed:
    try:
        tree, data, begun_from = settings_of(run)
        config = from_tree(tree, source=str(run / RUN_FILE))
        settings = {**dict(leaves(config)), "data": data, "resume_from": begun_from}
    except UnreachableError:
        raise
    except UserError as error:
        problem = _within(run, str(error))
        return Listed(name=name, standing=None, metric="", best=None, scores={}, settings={}, problem=problem)
    problems: list[str] = []
    measured: dict[int, dict[str, float]] = {}
    standing: Standing | None = None
    metric = config.tracking.best
    try:
        standing = standing_of(run, notes=problems)
        measured = read_scores(run)
    except UnreachableError:
        raise
    except UserError as error:
        problems.append(str(error))
    best = best_step(measured, metric)
    return Listed(
        name=name,
        standing=standing,
        metric=metric,
        best=best,
        scores={} if best is None else measured[best],
        settings=settings,
        problem=_within(run, " ".join(problems)) or None,
    )


def _within(run: Location, problem: str) -> str:
    """With the bare names of its files: the run's own name stands beside it."""
    for file in WRITTEN:
        problem = problem.replace(str(run / file), file)
    return problem


def _differing(runs: Sequence[Listed]) -> tuple[str, ...]:
    known = [run.settings for run in runs if run.settings]
    names = dict.fromkeys(name for settings in known for name in settings)
    return tuple(name for name in names if any(one.get(name) != known[0].get(name) for one in known[1:]))


def _in_order(name: str) -> list[tuple[int, str]]:
    """Numbers in names by their size: run2 before run10."""
    return [(int(part[:20]), "") if part.isdecimal() and part.isascii() else (-1, part) for part in _parts(name)]


def _parts(name: str) -> Iterator[str]:
    yield from filter(None, re.split(r"([0-9]+)", name))
