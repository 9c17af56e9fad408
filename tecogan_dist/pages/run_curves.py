"""The curves of a run with few enough points to be drawn (:mod:`tecogan_dist.runs.lines` reads them)."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tecogan_dist.runs.lines import Curves, Series, read_curves, within_range

__all__ = ["Curves", "Series", "read_curves", "recent", "smoothed", "thinned", "within_range"]

POINTS = 1000
"""About so many of a curve are drawn: no screen shows more."""


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


def recent(series: Series | None, count: int = 20) -> float:
    """The mean of the last finite values; NaN if there is none."""
    if series is None:
        return math.nan
    known = series.values[np.isfinite(series.values)][-count:]
    with np.errstate(over="ignore", invalid="ignore"):  # of what has gone wild
        return float(known.mean()) if len(known) else math.nan
