"""A metric over the frames of a sequence, as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tecogan_dist.pages.charts import BAD, SERIES, SERIES_BANDS, SOFT, Figure
from tecogan_dist.pages.values import DECIMALS, UNIT, format_value

HEIGHT = 230
DENSE, GROUPS = 1000, 120
"""Of more frames than the first, two for a pixel, the values lie pale behind the means of so many parts."""
MOST = 20_000
"""Frames of a curve that are all drawn, a quarter of an hour at 24 a second. Of a longer one, so many of the least and
greatest values: a screen has fewer columns, and a page of all frames of a feature film would take long to open."""


def curve(
    metric: str,
    frames: Sequence[int],
    values: Sequence[float],
    *,
    title: str,
    worst: Sequence[int] = (),
    blamed: str = "",
) -> Figure:
    """One value or any number of them, of which some may be infinite: those are marks along the upper edge.

    ``worst`` are frames to be ringed, the worst first, by the metric that ``blamed`` names; those that have no finite
    value here are not. Frames count up.
    """
    numbers, every = np.asarray(frames, np.int64), np.asarray(values, np.float64)
    kept = _kept(numbers, every, worst)
    x, y = numbers[kept], every[kept]
    finite = np.isfinite(y)
    average = float(every.mean())
    seen = dict(zip(x[finite].tolist(), y[finite].tolist(), strict=True))
    ringed = {frame: seen[frame] for frame in worst if frame in seen}
    dense = len(every) > DENSE
    said = [f"average {format_value(average, metric)}" + (" (dashed)" if np.isfinite(average) else "")]
    if dense:
        said.append(f"line: means of {len(every) // GROUPS} frames")
    if len(kept) < len(every):
        said.append(f"behind it of every {2 * len(every) // MOST} frames the least and the greatest")
    if ringed:
        said.append(f"rings: the worst frames by {blamed}")
    if not finite.all():
        said.append("marks at the top: ∞")
    return Figure.of(
        [
            *_values(metric, x, np.where(finite, y, np.nan), SERIES_BANDS[0] if dense else SERIES[0]),
            *([_means(numbers, every)] if dense else []),
            *([_infinite(metric, x[~finite])] if not finite.all() else []),
            *([_rings(ringed, worst)] if ringed else []),
        ],
        {
            "xaxis": _frame_axis(int(numbers[0]), int(numbers[-1])),
            "yaxis": _value_axis(metric, every[np.isfinite(every)]),
            # Of the marks of what is infinite, which stay at the upper edge.
            "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
            "shapes": [_level(average)] if np.isfinite(average) else [],
            "showlegend": False,
            "hovermode": "x",
        },
        title=title,
        caption=" · ".join(said),
        height=HEIGHT,
    )


def _kept(frames: NDArray[np.int64], values: NDArray[np.float64], worst: Sequence[int]) -> NDArray[np.intp]:
    """Which values are drawn: all, or of each of ``MOST / 2`` parts the least, the greatest and an infinite one."""
    if len(values) <= MOST:
        return np.arange(len(values))
    chosen = set(np.flatnonzero(np.isin(frames, worst)).tolist())
    for part in np.array_split(np.arange(len(values)), MOST // 2):
        finite = part[np.isfinite(values[part])]
        if len(finite):
            chosen |= {int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])}
        if len(finite) < len(part):
            chosen.add(int(part[~np.isfinite(values[part])][0]))
    return np.array(sorted(chosen))


def _values(metric: str, x: NDArray[np.int64], y: NDArray[np.float64], colour: str) -> list[dict[str, Any]]:
    """Every value, with gaps at nan, and the points that stand alone between gaps, which no line shows."""
    # Evenly spaced, as almost always, the frames need not be listed.
    even = len(x) == x[-1] - x[0] + 1
    line: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "name": "values",
        **({"x0": int(x[0]), "dx": 1} if even else {"x": x}),
        "y": y.round(DECIMALS[metric] + 1),
        "line": {"color": colour, "width": 1.6},
        "hovertemplate": f"frame %{{x}}: %{{y:.{DECIMALS[metric]}f}}{UNIT[metric]}<extra></extra>",
    }
    known = np.pad(np.isfinite(y), 1)
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    if not alone.any():
        return [line]
    points = {"type": "scatter", "mode": "markers", "name": "alone", "x": x[alone], "y": y[alone], "hoverinfo": "skip"}
    return [line, {**points, "marker": {"color": colour, "size": 4}}]


def _means(frames: NDArray[np.int64], values: NDArray[np.float64]) -> dict[str, Any]:
    """The mean of what is finite in each of ``GROUPS`` parts, in its middle; none where nothing is."""
    known = [part[np.isfinite(values[part])] for part in np.array_split(np.arange(len(values)), GROUPS)]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "means",
        "x": [frames[part].mean() for part in known if len(part)],
        "y": [values[part].mean() for part in known if len(part)],
        "line": {"color": SERIES[0], "width": 2},
        "hoverinfo": "skip",
    }


def _infinite(metric: str, x: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "infinite",
        "x": x,
        "y": [0.97] * len(x),
        "yaxis": "y2",
        "marker": {"color": SERIES[0], "symbol": "line-ns-open", "size": 7, "line": {"width": 1.6}},
        "hovertemplate": f"frame %{{x}}: ∞{UNIT[metric]}<extra></extra>",
    }


def _rings(ringed: dict[int, float], worst: Sequence[int]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "worst",
        "x": list(ringed),
        "y": list(ringed.values()),
        "text": [str(1 + worst.index(frame)) for frame in ringed],
        "textposition": "top center",
        "textfont": {"color": BAD, "size": 11},
        "marker": {"color": BAD, "symbol": "circle-open", "size": 9, "line": {"width": 2}},
        "cliponaxis": False,
        "hoverinfo": "skip",  # the curve tells the frame and its value
    }


def _level(average: float) -> dict[str, Any]:
    ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": average, "y1": average}
    return {"type": "line", **ends, "line": {"color": SOFT, "width": 1, "dash": "dash"}}


def _frame_axis(first: int, last: int) -> dict[str, Any]:
    margin = max(0.015 * (last - first), 0.15 if last > first else 1)
    axis = {"title": {"text": "frame"}, "range": [first - margin, last + margin], "tickformat": "d"}
    return axis if last - first >= 8 else {**axis, "dtick": 1}  # there is no frame 2.5


def _value_axis(metric: str, known: NDArray[np.float64]) -> dict[str, Any]:
    """From the least to the greatest with a margin, and not below zero for that."""
    if not len(known):
        return {"range": [0, 1], "showticklabels": False}
    # A flat curve gets a range of some steps of its last decimal, rather than one that magnifies rounding.
    margin = max(0.1 * float(np.ptp(known)), 6 * 10.0 ** -DECIMALS[metric])
    low, high = float(known.min()) - margin, float(known.max()) + margin
    return {"range": [max(low, 0.0) if known.min() >= 0 else low, high]}
