"""The runs in a folder and below it: where they stand, how they score, and in which settings they differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pyarrow.fs import FileType

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location, UnreachableError
from tecogan_dist.config.leaves import leaves
from tecogan_dist.config.load import from_tree
from tecogan_dist.runs.checkpoints import is_checkpoint_name
from tecogan_dist.runs.folder import RUN_FILE
from tecogan_dist.runs.records import best_step, read_scores
from tecogan_dist.runs.standing import Standing, settings_of, standing_of

DEPTH = 4
"""Folders below the given one that are looked into: a sweep's trials are two below it."""
MOST_RUNS, MOST_FOLDERS = 2000, 20_000
AT_A_TIME = 16
"""Runs that are read at a time: on an object store each takes several requests."""
WHERE = ("data", "resume_from")
"""What a run's file has beside its settings."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A run in a list. Without ``standing`` it could not be read: ``problem`` says why."""

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
    """The runs of a folder, by name."""

    runs: tuple[Listed, ...]
    differing: tuple[str, ...]
    """Names of the settings that are not the same in all runs that can be read."""
    is_cut: bool
    """Whether there are more runs, or more folders, than are looked at."""


def list_runs(folder: Location) -> Listing:
    """Look at the runs in ``folder`` and below. A damaged one is listed with what is wrong with it.

    Raises :class:`UserError` for a folder that is not there, and for storage that does not answer.
    """
    if not folder.exists():
        raise UserError(f"{folder} does not exist: name a folder that runs are in.")
    if folder.is_local and not folder.path.is_dir():
        raise UserError(f"{folder} is not a folder: name one that runs are in.")
    found, is_cut = _find(folder)
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        runs = list(threads.map(lambda place: _listed(*place), found))
    runs.sort(key=lambda run: _in_order(run.name))
    return Listing(runs=tuple(runs), differing=_differing(runs), is_cut=is_cut)


def _find(folder: Location) -> tuple[list[tuple[str, Location]], bool]:
    """Names and places of runs; whether there may be more. A run's own folders are not looked into."""
    runs: list[tuple[str, Location]] = []
    level, looked = [("", folder)], 0
    for depth in range(DEPTH + 1):
        below: list[tuple[str, Location]] = []
        for name, place in level:
            if len(runs) >= MOST_RUNS or looked >= MOST_FOLDERS:
                return runs, True
            looked += 1
            files, folders = _content(place)
            if RUN_FILE in files:
                runs.append((name or ".", place))
            elif depth < DEPTH:
                below += [(f"{name}/{one}".lstrip("/"), place / one) for one in folders]
        level = below
    return runs, False


def _content(folder: Location) -> tuple[set[str], list[str]]:
    """Names of the files and of the folders in a folder that may hold runs. One that may not be read holds nothing."""
    if folder.is_local:
        try:
            names = folder.names()
        except UserError:
            return set(), []
        folders = [name for name in names if (folder.path / name).is_dir()]
        files = set(names) - set(folders)
    else:
        entries = folder.entries()
        files = {entry.base_name for entry in entries if entry.type == FileType.File}
        # Arrow does not list the folders in a folder of gs://; their names are those of the files below them.
        others = {entry.base_name for entry in entries if entry.type == FileType.Directory}
        folders = sorted(others or (set(folder.names()) - files if RUN_FILE not in files else set()))
    return files, [name for name in folders if not name.startswith(".") and not is_checkpoint_name(name)]


def _listed(name: str, run: Location) -> Listed:
    settings: dict[str, Any] = {}
    metric, best, scores = "", None, {}
    try:
        tree, data, begun_from = settings_of(run)
        config = from_tree(tree, source=str(run / RUN_FILE))
        settings = {**dict(leaves(config)), "data": data, "resume_from": begun_from}
        metric = config.tracking.best
        measured = read_scores(run)
        best = best_step(measured, metric)
        scores = {} if best is None else measured[best]
        standing = standing_of(run)
    except UnreachableError:
        raise
    except UserError as error:
        return Listed(
            name=name, standing=None, metric=metric, best=best, scores=scores, settings=settings, problem=str(error)
        )
    return Listed(name=name, standing=standing, metric=metric, best=best, scores=scores, settings=settings)


def _differing(runs: Sequence[Listed]) -> tuple[str, ...]:
    known = [run.settings for run in runs if run.settings]
    names = dict.fromkeys(name for settings in known for name in settings)
    return tuple(name for name in names if any(one.get(name) != known[0].get(name) for one in known[1:]))


def _in_order(name: str) -> list[tuple[int, str]]:
    """Numbers in names by their size: run2 before run10."""
    return [(int(part[:20]), "") if part.isdecimal() and part.isascii() else (-1, part) for part in _parts(name)]


def _parts(name: str) -> Iterator[str]:
    yield from filter(None, re.split(r"([0-9]+)", name))
