"""The curves of a run: ``metrics.jsonl`` by names, as far as it can be read, and few enough points to be drawn.

Training refuses a damaged file, for it writes on. A page only looks: it shows what can be read, and says what cannot.
"""

from __future__ import annotations

import itertools
import math
import re
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tecogan_dist.base.console import printable
from tecogan_dist.base.documents import parse_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.records import LINE_BYTES, MAX_STEP, METRICS_FILE

POINTS = 1000
"""About so many of a curve are drawn: no screen shows more."""
MOST_NAMES = 1000
"""Different names in a file: training writes about a hundred."""
LATEST = 10_000
"""Lines in which patterns are looked for: as many steps as any of them needs, also where each has its line."""
LARGEST = 3.5e38
"""Float32's largest number, rounded up."""
TOLD = 3
"""Damaged lines of which each is told with its reason."""
_NOT_FINITE = re.compile(rb"(?<=[:,\s])[+-]?(?:NaN|nan|Infinity|inf)(?=\s*[,}])")
"""What Python and others write where JSON has no word."""


@dataclass(frozen=True, eq=False)
class Series:
    """What was recorded under a name: ``steps`` (N,) rise, and ``values`` (N,) are NaN where they were not finite."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def last(self) -> float:
        """The last value; NaN if that was not finite."""
        return float(self.values[-1])

    @property
    def not_finite(self) -> NDArray[np.int64]:
        """The steps whose value was not finite."""
        return self.steps[~np.isfinite(self.values)]


@dataclass(frozen=True)
class Curves:
    """All of a run's, by names in the order of their first appearance; ``notes`` say what of the file is left out."""

    series: dict[str, Series]
    notes: tuple[str, ...]
    last_step: int
    """0 if nothing is recorded yet."""
    latest: tuple[dict[str, float], ...] = ()
    """The last LATEST lines, with their ``step``."""


def read_curves(run: Location) -> Curves:
    """What a run has recorded so far; nothing of a run that has just begun.

    ``NaN`` and ``Infinity`` are read as not finite, like null. A damaged line is left out and told of, half a line at
    the end, which training is about to complete, only left out. Raises :class:`UserError` if no line can be read, and
    for a file that training cannot have written.
    """
    file = run / METRICS_FILE
    columns: dict[str, tuple[array[int], array[float]]] = {}
    damaged: list[tuple[int, str]] = []
    latest: deque[dict[str, float]] = deque(maxlen=LATEST)
    count, last = 0, 0
    for number, line, is_whole in _lines(file):
        try:
            step, values = _values(line)
        except UserError as error:
            if is_whole:
                damaged.append((number, str(error).rstrip(".")))
            continue
        count += 1
        last = step
        latest.append({"step": step, **values})
        for name, value in values.items():
            if name not in columns:
                if len(columns) == MOST_NAMES:
                    raise UserError(
                        f"{file} has more than {MOST_NAMES} different names in it, which 'tecogan train' does not "
                        "write: give the folder of another run."
                    )
                columns[name] = array("q"), array("d")
            steps, column = columns[name]
            steps.append(step)
            column.append(value)
    if damaged and not count:
        raise UserError(
            f"{file} is damaged, none of its {len(damaged)} lines can be read (the first: {damaged[0][1]}): restore "
            "it, or move it away to see the rest of the run."
        )
    series = {name: _rising(np.array(steps), np.array(column)) for name, (steps, column) in columns.items()}
    return Curves(series, tuple(_told(damaged)), last, tuple(latest))


def thinned(series: Series, points: int = POINTS) -> Series:
    """About ``points`` of the same curve: the least and the greatest of each of many equal parts, so that spikes stay.

    What was not finite keeps a point in its part, too: there the curve is broken.
    """
    count = len(series.steps)
    if count <= points:
        return series
    edges = np.linspace(0, count, points // 2 + 1).astype(int)
    kept = {0, count - 1}
    for start, stop in itertools.pairwise(edges.tolist()):
        part = series.values[start:stop]
        finite = np.isfinite(part)
        if finite.any():
            kept |= {start + int(np.nanargmin(part)), start + int(np.nanargmax(part))}
        if not finite.all():
            kept.add(start + int(np.argmin(finite)))
    chosen = np.array(sorted(kept))
    return Series(series.steps[chosen], series.values[chosen])


def smoothed(series: Series, window: int) -> Series:
    """Means of ``window`` values and those before them, without the ones that were not finite."""
    known = np.isfinite(series.values)
    sums = np.cumsum(np.where(known, series.values, 0.0))
    counts = np.cumsum(known)
    sums[window:] -= sums[:-window].copy()
    counts[window:] -= counts[:-window].copy()
    return Series(series.steps, np.where(counts > 0, sums / np.maximum(counts, 1), math.nan))


def within_range(value: float) -> float:
    """The value; NaN for what no training computes with, and no figure can draw beside others."""
    return value if abs(value) <= LARGEST else math.nan


def recent(series: Series | None, count: int = 20) -> float:
    """The mean of the last finite values; NaN if there is none."""
    if series is None:
        return math.nan
    known = series.values[np.isfinite(series.values)][-count:]
    with np.errstate(over="ignore", invalid="ignore"):  # of what has gone wild
        return float(known.mean()) if len(known) else math.nan


def _lines(file: Location) -> Iterator[tuple[int, bytes, bool]]:
    """Each line with its number from 1, and whether it has its end."""
    number, rest = 0, b""
    try:
        for chunk in file.chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                number += 1
                yield number, line, True
            if len(rest) > LINE_BYTES:
                raise UserError(
                    f"{file} is damaged, line {number + 1} has more than {LINE_BYTES} bytes: restore it, or move it "
                    "away to see the rest of the run."
                )
    except FileNotFoundError:
        return
    if rest:
        yield number + 1, rest, False


def _values(line: bytes) -> tuple[int, dict[str, float]]:
    """The step of a line and what it has of it. Raises :class:`UserError` with the reason alone."""
    if b"N" in line or b"n" in line:
        line = _NOT_FINITE.sub(b"null", line)
    found = parse_json(line, source="it")
    step = found.pop("step", None) if isinstance(found, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < MAX_STEP:
        raise UserError("it has no step.")
    return step, _numbers(found)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    numbers = {}
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UserError(f"the value of {printable(name, limit=80)} is not a number.")
        numbers[name] = within_range(math.nan if value is None else float(value))
    return numbers


def _rising(steps: NDArray[np.int64], values: NDArray[np.float64]) -> Series:
    """Without what was recorded before a run went back to an earlier step: the later record of a step counts."""
    kept = np.ones(len(steps), bool)
    kept[:-1] = steps[:-1] < np.minimum.accumulate(steps[::-1])[::-1][1:]
    return Series(steps[kept], values[kept])


def _told(damaged: list[tuple[int, str]]) -> Iterator[str]:
    for number, reason in damaged[:TOLD]:
        yield f"line {number} of {METRICS_FILE} is left out: {reason}."
    if len(damaged) > TOLD:
        yield f"{len(damaged) - TOLD} more damaged lines of {METRICS_FILE} are left out."
