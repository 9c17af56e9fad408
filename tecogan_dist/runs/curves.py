"""Recorded curves as arrays: what looks for patterns in them needs no more than these few functions.

Numpy alone. Whatever a line holds that is no finite number (missing, null, NaN, infinite, a text) is NaN in a column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]

GAUSSIAN = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run's settings and machine say about its curves (:func:`tecogan_dist.runs.patterns.patterns`)."""

    threshold: float
    clipping: float
    faded_in: int
    gpu_memory: float
    """GiB; NaN: not known."""
    best: str
    scores: Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class Curve:
    """Finite values of one quantity, (K,), and the steps after which they were recorded, (K,)."""

    steps: Steps
    values: Floats

    def __len__(self) -> int:
        return len(self.values)

    def where(self, flags: Flags) -> Curve:
        return Curve(self.steps[flags], self.values[flags])


class Columns:
    """Recorded lines by the names in them. Lines without a whole, non-negative step are left out."""

    def __init__(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self._lines = [line for line in lines if _is_step(line.get("step"))]
        self._columns: dict[str, Floats] = {}
        self.steps: Steps = np.array([line["step"] for line in self._lines], dtype=np.int64)

    def column(self, name: str) -> Floats:
        """(K,), one value a line; NaN where there is none."""
        if name not in self._columns:
            self._columns[name] = np.array([_finite(line.get(name)) for line in self._lines], dtype=np.float64)
        return self._columns[name]

    def curve(self, *names: str) -> Curve:
        """The first of these that has a value anywhere; an empty curve if none has."""
        for name in names:
            values = self.column(name)
            known = np.isfinite(values)
            if known.any():
                break
        return Curve(self.steps[known], values[known])


def stretches(flags: Flags) -> list[tuple[int, int]]:
    """First and last position of each run of true ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]


def rolling_median(values: Floats, width: int) -> Floats:
    """(K - width + 1,): the median of each ``width`` values in a row; empty if there are fewer."""
    if len(values) < width:
        return np.empty(0)
    return np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=-1)


def spread(values: Floats) -> float:
    """A robust standard deviation, from the median absolute deviation."""
    return GAUSSIAN * float(np.median(np.abs(values - np.median(values))))


def rolling_minimum(values: Floats, width: int) -> Floats:
    """(K - width + 1,): the least of each ``width`` values in a row; empty if there are fewer."""
    if len(values) < width:
        return np.empty(0)
    return np.lib.stride_tricks.sliding_window_view(values, width).min(axis=-1)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
