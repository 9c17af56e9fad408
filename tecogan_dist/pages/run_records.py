"""A run's folder as a page reads it, local or on s3:// or gs://: also while it is being trained, and where it is hurt.

What says which run it is has to be right: without readable settings there is no page. Everything else is shown as far
as it can be read, and ``notes`` say what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.load import from_record
from tecogan_dist.config.schema import Config
from tecogan_dist.metrics.names import METRICS
from tecogan_dist.pages.run_curves import Curves, read_curves, within_range
from tecogan_dist.pages.run_settings import network
from tecogan_dist.pages.values import format_value
from tecogan_dist.runs.checkpoints import STATE_FILE, checkpoint_step, checkpoints
from tecogan_dist.runs.facts import read_environment
from tecogan_dist.runs.folder import RUN_FILE, read_run_file
from tecogan_dist.runs.patterns import Pattern, limits_of, patterns
from tecogan_dist.runs.quantities import VALIDATION
from tecogan_dist.runs.records import SCORES_FILE, best_step, read_scores
from tecogan_dist.runs.standing import Standing, standing_of
from tecogan_dist.runs.status import RESTARTS_FILE, STATUS_FILE, Restart, read_restarts
from tecogan_dist.tuning.folder import SWEEP_FILE

MOST_RUNS = 8
"""Beside each other: so many colours can be told apart."""
EVALUATION_FILE = "metrics.json"
PROFILES, TABLE_ENDING = "profiles", "_rank0.txt"
"""Where :mod:`tecogan_dist.training.profiling` leaves its tables, and what those of the first worker are called."""
TABLE_BYTES = 2**18
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class RunRecords:
    """What a run has left so far."""

    place: Location
    name: str
    """The last part of its place, or more of it where several runs would have the same."""
    config: Config
    data: str
    """The clip store."""
    begun_from: str | None
    """The checkpoint of another run that it goes on from."""
    curves: Curves
    scores: dict[int, dict[str, float]]
    """Of held-out scenes, by step and metric."""
    standing: Standing | None
    """None if even what its folder says besides its status cannot be read."""
    patterns: tuple[Pattern, ...]
    """The known ones that its last records show, the worst first."""
    restarts: tuple[Restart, ...]
    """The attempts, the first of which is the run's beginning."""
    checkpoints: tuple[int, ...]
    """Steps of the complete ones that are kept."""
    profile: tuple[str, str] | None
    """The newest table of costliest operations that ``tecogan train --profile`` left: its file's name, and its text."""
    environment: dict[str, Any]
    """What the newest attempt ran on (:mod:`tecogan_dist.runs.facts`); any key may be missing."""
    notes: tuple[str, ...]
    """What could not be read, a sentence each."""

    @property
    def network(self) -> str:
        return network(self.config)

    @property
    def step(self) -> int:
        """Steps done, as far as anything says so."""
        known = [self.curves.last_step, *self.checkpoints, *self.scores]
        return max([*known, self.standing.step if self.standing is not None else 0])

    @property
    def best(self) -> int | None:
        """The step with the best ``tracking.best``; None if it was not measured."""
        return best_step(self.scores, self.config.tracking.best)

    @property
    def measured(self) -> list[str]:
        """The metrics of held-out scenes that there are."""
        return [metric for metric in METRICS if any(metric in values for values in self.scores.values())]

    @property
    def restarted_at(self) -> list[int]:
        """The steps that were done when attempts after the first began."""
        return [restart.step for restart in self.restarts[1:]]


def read_runs(places: Sequence[Location]) -> list[RunRecords]:
    """The runs in these folders. Raises :class:`UserError` if one holds none, for one given twice, and for too many."""
    if len(places) > MOST_RUNS:
        raise UserError(f"{len(places)} runs are more than the {MOST_RUNS} that can be compared: give fewer.")
    absolute = [str(place.absolute()) for place in places]
    for number, place in enumerate(absolute):
        if place in absolute[:number]:
            raise UserError(f"the run {places[number]} is given twice: leave it out once.")
    return [read_run(place, name=name) for place, name in zip(places, names(places), strict=True)]


def read_run(place: Location, *, name: str) -> RunRecords:
    """The run in a folder. Raises :class:`UserError` if it holds none, or if its settings cannot be read."""
    _check(place)
    tree, data, begun_from = _settings(place)
    notes: list[str] = []

    def told(read: Callable[[Location], T], otherwise: T, file: str) -> T:
        try:
            return read(place)
        except UserError as error:
            notes.append(f"{file} is left out: {reason_of(str(error), place / file)}.")
            return otherwise

    config = from_record(tree, source=str(place / RUN_FILE))
    curves = read_curves(place)
    nothing: dict[int, dict[str, float]] = {}
    scores = {
        step: {metric: within_range(value) for metric, value in values.items()}
        for step, values in sorted((_scores_of(curves) | told(read_scores, nothing, SCORES_FILE)).items())
    }
    problems: list[str] = []
    standing = told(lambda run: standing_of(run, notes=problems), None, STATUS_FILE)
    notes += [f"{STATUS_FILE} is left out: {reason_of(problem, place / STATUS_FILE)}." for problem in problems]
    return RunRecords(
        place=place,
        name=name,
        config=config,
        data=data,
        begun_from=begun_from,
        curves=curves,
        scores=scores,
        standing=standing,
        patterns=tuple(patterns(curves.latest, scores=scores, **limits_of(config))),
        restarts=tuple(told(read_restarts, [], RESTARTS_FILE)),
        checkpoints=tuple(checkpoint_step(checkpoint) for checkpoint in checkpoints(place)),
        profile=told(_profile, None, PROFILES),
        environment=read_environment(place),
        notes=(*curves.notes, *notes),
    )


def names(places: Sequence[Location]) -> list[str]:
    """A short name for each place: as few of its last parts as tell all of them apart."""
    parts = [str(place.absolute()).partition("?")[0].rstrip("/").split("/") for place in places]
    for count in range(1, max(map(len, parts))):
        shown = ["/".join(part[-count:]) for part in parts]
        if len(set(shown)) == len(shown):
            return shown
    return [str(place) for place in places]


def reason_of(problem: str, file: Location) -> str:
    """What is wrong with a file, for a sentence that has named it already."""
    return problem.replace(str(file), "it").rstrip(".")


def score_text(value: float, metric: str) -> str:
    """A metric's value with its usual digits; a dash for none."""
    return "–" if math.isnan(value) else format_value(value, metric)  # noqa: RUF001


def _check(place: Location) -> None:
    """Raise :class:`UserError`, which says what it is instead, for a place that holds no run."""
    wanted = "give the output folder of 'tecogan train'"
    if place.is_bucket:
        raise UserError(f"{place} is a whole bucket, and a run is a folder in it: {wanted}.")
    if place.is_file():
        raise UserError(f"{place} is a file, not a run: {wanted}.")
    if (place / RUN_FILE).is_file():
        return
    if not place.exists():
        raise UserError(f"there is no run {place}: check the name.")
    there = set(place.names())
    if SWEEP_FILE in there:
        raise UserError(f"{place} holds a sweep, not a run: look at its sweep.html, or {wanted}.")
    if STATE_FILE in there:
        raise UserError(f"{place} is a checkpoint, not a run: give the run's folder, {place.parent}.")
    if EVALUATION_FILE in there:
        raise UserError(f"{place} holds an evaluation, not a run: look at its report.html, or {wanted}.")
    raise UserError(f"{place} holds no run (no {RUN_FILE}): {wanted}.")


def _settings(place: Location) -> tuple[dict[str, Any], str, str | None]:
    file = place / RUN_FILE
    try:
        return read_run_file(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} went away meanwhile: try again.") from error
    except UserError as error:  # what training would do is no advice to whoever only looks
        raise UserError(str(error).replace("give --output a new folder", "give another run")) from error


def _profile(run: Location) -> tuple[str, str] | None:
    tables = [name for name in (run / PROFILES).names() if name.endswith(TABLE_ENDING)]
    if not tables:
        return None
    data = (run / PROFILES / tables[-1]).read_bytes(limit=TABLE_BYTES)
    return tables[-1], data.decode("utf-8", "replace")


def _scores_of(curves: Curves) -> dict[int, dict[str, float]]:
    """The scores as the records have them: they may be ahead of the file of scores."""
    scores: dict[int, dict[str, float]] = {}
    for metric in METRICS:
        series = curves.series.get(f"{VALIDATION}/{metric}")
        for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True) if series else ():
            scores.setdefault(step, {})[metric] = value
    return scores
