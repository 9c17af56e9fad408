"""A metric over the frames of a sequence as the parts of an inline SVG chart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LABEL = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "tof": "tOF (px)",
    "tlp": "tLP \N{MULTIPLICATION SIGN}100",
}
UNIT = {"psnr": " dB", "ssim": "", "lpips": "", "tof": " px", "tlp": ""}
DECIMALS = {"psnr": 2, "ssim": 4, "lpips": 4, "tof": 4, "tlp": 4}


def format_value(value: float, metric: str) -> str:
    """A metric's value with its usual number of decimals; infinite: a sign."""
    return "∞" if math.isinf(value) else f"{value:.{DECIMALS[metric]}f}"


@dataclass(frozen=True)
class Hit:
    """A strip of a chart that tells its values when the pointer rests on it."""

    x: float
    width: float
    title: str


@dataclass(frozen=True)
class Chart:
    """A metric over the frames as the geometry of an SVG of WIDTH x HEIGHT; ticks are (position, label).

    ``curve`` is a path through every value. With more than two values a pixel it goes through the means of ``group``
    frames each, and ``band`` through the least and greatest value of every pixel column; otherwise that is empty.
    ``infinite`` is a path of marks along the upper edge, ``average`` the height of the mean if that is finite.
    """

    metric: str
    curve: str
    band: str
    group: int
    infinite: str
    average: float | None
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    hits: list[Hit]

    WIDTH, HEIGHT = 560, 210
    LEFT, RIGHT, TOP, BOTTOM = 52, 540, 10, 168
    INFINITE_STRIP = 18
    GROUPS = 120


@dataclass(frozen=True)
class _Axis:
    """Values from ``low`` to ``high`` on pixels from ``start`` to ``stop``."""

    low: float
    high: float
    start: float
    stop: float

    def place(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.start + (values - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, values: Sequence[float], decimals: int) -> list[tuple[float, str]]:
        places = self.place(np.asarray(values, np.float64)).tolist()
        return [(place, f"{value:.{decimals}f}") for place, value in zip(places, values, strict=True)]


def chart(metric: str, frames: Sequence[int], values: Sequence[float]) -> Chart:
    """The curve of one value or any number of them, some of which may be infinite."""
    numbers, every = np.asarray(frames, np.float64), np.asarray(values, np.float64)
    finite = np.isfinite(every)
    known = every[finite] if finite.any() else np.zeros(1)
    # A flat curve gets a range of some steps of its last decimal, rather than one that magnifies rounding.
    margin = max(0.06 * float(np.ptp(known)), 6 * 10.0 ** -DECIMALS[metric])
    low, high = float(known.min()) - margin, float(known.max()) + margin
    low = max(low, 0.0) if known.min() >= 0 else low
    sides = 0 if len(numbers) > 1 else 1  # to have a single frame in the middle
    x_axis = _Axis(numbers[0] - sides, numbers[-1] + sides, Chart.LEFT, Chart.RIGHT)
    y_axis = _Axis(low, high, Chart.BOTTOM, Chart.TOP + (0 if finite.all() else Chart.INFINITE_STRIP))
    x, y = x_axis.place(numbers), np.where(finite, y_axis.place(every), np.nan)
    groups = np.array_split(np.arange(len(x)), min(len(x), Chart.GROUPS))
    dense = len(x) > 2 * (Chart.RIGHT - Chart.LEFT)
    x_step, y_step = max(1.0, tick_step((numbers[-1] - numbers[0]) / 8)), tick_step((high - low) / 6)
    y_ticks = _multiples(low, high, y_step) if finite.any() else []
    return Chart(
        metric=metric,
        curve=_path(*(_means(x, y, groups) if dense else (x, y))),
        band=_path(*_extremes(x, y)) if dense else "",
        group=len(groups[0]),
        infinite="".join(f"M{column:.0f} {Chart.TOP}v6" for column in np.unique(x[~finite].round())),
        average=float(y_axis.place(every.mean())) if finite.all() else None,
        x_ticks=x_axis.ticks(_multiples(numbers[0], numbers[-1], x_step), 0),
        y_ticks=y_axis.ticks(y_ticks, max(0, -math.floor(math.log10(y_step) + 1e-9))),
        hits=list(_hits(metric, x, groups, frames, values)),
    )


def _means(
    x: NDArray[np.float64], y: NDArray[np.float64], groups: Sequence[NDArray[np.intp]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The centre of each group's points; nan where a group has none."""
    known = [group[np.isfinite(y[group])] for group in groups]
    heights = [y[group].mean() if len(group) else math.nan for group in known]
    return np.array([x[group].mean() for group in groups]), np.array(heights)


def _extremes(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and greatest y of each pixel column, in the order they occur; nan where a column has none."""
    columns = np.floor(x)
    kept: list[tuple[float, float]] = []
    for group in np.split(np.arange(len(x)), np.flatnonzero(np.diff(columns)) + 1):
        known = group[np.isfinite(y[group])]
        ends = sorted({int(known[np.argmin(y[known])]), int(known[np.argmax(y[known])])}) if len(known) else []
        kept += [(float(columns[i]), float(y[i])) for i in ends] or [(float(columns[group[0]]), math.nan)]
    points = np.array(kept)
    return points[:, 0], points[:, 1]


def _path(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """An SVG path through the points, broken at nan; a lone point is a line of no length, which round caps show."""
    commands: list[str] = []
    for i in range(len(x)):
        if math.isnan(y[i]):
            continue
        starts = i == 0 or math.isnan(y[i - 1])
        commands.append(f"{'M' if starts else 'L'}{x[i]:.1f} {y[i]:.1f}")
        if starts and (i + 1 == len(x) or math.isnan(y[i + 1])):
            commands.append("h0")
    return "".join(commands)


def _hits(
    metric: str,
    x: NDArray[np.float64],
    groups: Sequence[NDArray[np.intp]],
    frames: Sequence[int],
    values: Sequence[float],
) -> Iterator[Hit]:
    edges = [Chart.LEFT, *((x[a[-1]] + x[b[0]]) / 2 for a, b in itertools.pairwise(groups)), Chart.RIGHT]
    for group, (start, stop) in zip(groups, itertools.pairwise(edges), strict=True):
        inside = [values[i] for i in group]
        least, greatest = (format_value(value, metric) for value in (min(inside), max(inside)))
        if len(group) == 1:
            title = f"frame {frames[group[0]]}: {least}{UNIT[metric]}"
        else:
            title = f"frames {frames[group[0]]} to {frames[group[-1]]}: {least} to {greatest}{UNIT[metric]}"
        yield Hit(float(start), float(stop - start), title)


def tick_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... and 0.5, 0.2, 0.1, ... that is not below ``least``, which may be 0."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _multiples(low: float, high: float, step: float) -> list[float]:
    """All multiples of ``step`` from ``low`` to ``high``."""
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
