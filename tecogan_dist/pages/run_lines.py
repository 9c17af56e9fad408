"""Lines of the figures of runs: curves, and what lies behind them. One run, or several over each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tecogan_dist.pages.charts import BAD, SERIES, SOFT, Figure, text
from tecogan_dist.pages.run_curves import POINTS, Series, thinned
from tecogan_dist.pages.run_records import RunRecords

FEW = 40
"""Values of which each is marked."""
LOG_FROM, LOG_LEAST = 20.0, 10.0
"""From this ratio of the greatest to the least value on, an axis is logarithmic; where a figure asks for it, from the
second one on: below a decade there would be few of its ticks, or none."""
TICKED_DECADES = 3.0
"""Up to so many there is room for ticks at 1, 2 and 5 of each; of more, plotly.js chooses which to show."""
MOST_MARKS = 50
"""Vertical lines of a kind in a figure."""
SMALL = 230
"""Pixels that a figure beside others is high."""
AVERAGED_FROM = 300
"""Steps after which an exponential average of decay 0.99 that begins at 0 is within 5% of what it averages."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Figures of one kind, with how to read them; ``wide`` ones take the whole width, the rest stand beside each other.

    ``folded`` are details.
    """

    anchor: str
    title: str
    reading: str
    wide: tuple[Figure, ...] = ()
    figures: tuple[Figure, ...] = ()
    folded: tuple[Figure, ...] = ()
    folded_title: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.wide or self.figures or self.folded)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A recorded name in a figure. ``label`` says which it is, where a figure has several; "" is in no legend.

    Of several runs the first curve that is not pale stands in the legend, for the run. Of a run that has none of it
    another one does, and is drawn as strong.
    """

    name: str
    label: str = ""
    colour: int = 0
    """Position in ``SERIES``; of several runs each has one instead."""
    pale: bool = False
    """A raw value behind its average."""
    dash: str = "solid"
    of: Callable[[Series], Series] | None = None
    """What is drawn instead of the values themselves."""


@dataclass
class Drawing:
    """The figures of some runs: ``used`` are the recorded names that have been drawn so far."""

    runs: Sequence[RunRecords]
    used: set[str] = field(default_factory=set)

    @property
    def points(self) -> int:
        """Of each curve: fewer where there are many."""
        return max(250, 2 * POINTS // (len(self.runs) + 1))

    def names(self, prefix: str) -> list[str]:
        """Recorded names that begin so, in the order in which they were first recorded."""
        found = (name for run in self.runs for name in run.curves.series if name.startswith(prefix))
        return list(dict.fromkeys(found))

    def figure(
        self,
        curves: Sequence[Curve],
        *,
        title: str,
        caption: str = "",
        unit: str = "",
        layout: Mapping[str, Any] | None = None,
        log: bool | None = None,
        height: int = SMALL,
    ) -> Figure | None:
        """The curves of all runs; None if no run has any of them. ``log``: None where the values decide."""
        first = [_first(curves, run) for run in self.runs]
        traces = [trace for curve in curves for trace in self._traces(curve, first)]
        self.used |= {curve.name for curve in curves}
        if not traces:
            return None
        y_axis: dict[str, Any] = {"title": {"text": unit}} if unit else {}
        values = _finite(traces)
        if values.min() == values.max() != 0:
            y_axis["range"] = sorted([0.0, 2 * float(values[0])])  # else it goes from -1 to 1
        elif _spans(values, LOG_LEAST) if log else log is None and (values > 0).all() and _spans(values, LOG_FROM):
            y_axis |= {"type": "log", "tickformat": "~g", "dtick": "D2" if _decades(values) < TICKED_DECADES else None}
        given = dict(layout or {})
        made = {
            "xaxis": self.x_axis(),
            "yaxis": {name: value for name, value in (y_axis | given.pop("yaxis", {})).items() if value is not None},
            "shapes": [*given.pop("shapes", []), *self.restarts(), *self._gaps(curves)],
            "showlegend": any(trace["showlegend"] for trace in traces),
            **given,
        }
        return Figure.of(traces, made, title=title, caption=caption, height=height)

    def derived(
        self,
        of: Callable[[RunRecords], Series | None],
        *,
        title: str,
        caption: str = "",
        layout: Mapping[str, Any] | None = None,
        hover: str = "%{y:.0%}",
    ) -> Figure | None:
        """A curve of each run that is made of several records; None if no run has them."""
        several = len(self.runs) > 1
        found = [(number, run, of(run)) for number, run in enumerate(self.runs)]
        traces = [
            line(thinned(series, self.points), label=run.name, colour=self.colour(number), legend=several)
            | {"hovertemplate": hover}
            for number, run, series in found
            if series is not None and np.isfinite(series.values).any()
        ]
        if not traces:
            return None
        given = dict(layout or {})
        shapes = [*given.pop("shapes", []), *self.restarts()]
        made = {"xaxis": self.x_axis(), "shapes": shapes, "showlegend": several, **given}
        return Figure.of(traces, made, title=title, caption=caption, height=SMALL)

    def x_axis(self) -> dict[str, Any]:
        """Steps from 0 to the last one of any run, the same in all figures."""
        last = max(
            [1, *(run.curves.last_step for run in self.runs), *(max(run.scores, default=0) for run in self.runs)]
        )
        # A little more: what is marked at the last step is to be seen whole.
        return {"title": {"text": "step"}, "range": [0, 1.02 * last], "exponentformat": "none", "tickformat": ",~d"}

    def restarts(self) -> list[dict[str, Any]]:
        """Dotted lines where attempts began after the first."""
        return [
            _upright(step, colour=SOFT if len(self.runs) == 1 else SERIES[number], dash="dot")
            for number, run in enumerate(self.runs)
            for step in run.restarted_at[-MOST_MARKS:]
        ]

    def colour(self, number: int, curve: int = 0) -> str:
        """Of a run, or of a curve where there is one run only."""
        return SERIES[(curve if len(self.runs) == 1 else number) % len(SERIES)]

    def _traces(self, curve: Curve, first: Sequence[Curve | None]) -> Iterator[dict[str, Any]]:
        """Of each run; ``first``: the curve of each that stands for it in the legend."""
        several = len(self.runs) > 1
        for number, run in enumerate(self.runs):
            series = _drawn(curve, run)
            if series is None:
                continue
            is_first = curve is first[number]
            # A dashed one says what it is, too.
            kind = "" if several and is_first and curve.dash == "solid" else curve.label
            label = " ".join(filter(None, (run.name if several else "", kind)))
            yield line(
                thinned(series, self.points),
                label=label or run.name,
                colour=self.colour(number, curve.colour),
                pale=curve.pale and not is_first,
                dash=curve.dash,
                legend=is_first if several else bool(curve.label),
            ) | ({"legendrank": number} if several else {})

    def _gaps(self, curves: Sequence[Curve]) -> Iterator[dict[str, Any]]:
        """Short red marks below, where a value was not finite."""
        for run in self.runs:
            found = [run.curves.series[curve.name].not_finite for curve in curves if curve.name in run.curves.series]
            for step in np.unique(np.concatenate(found))[:MOST_MARKS].tolist() if found else ():
                yield _upright(step, colour=BAD, dash="solid", top=0.05, width=2)


def line(
    series: Series, *, label: str, colour: str, pale: bool = False, dash: str = "solid", legend: bool = True
) -> dict[str, Any]:
    """A trace of a curve."""
    few = len(series.steps) <= FEW
    return {
        "type": "scatter",
        "mode": "lines+markers" if few else "lines",
        "x": series.steps,
        "y": series.values,
        "name": text(label),
        "line": {"color": colour, "width": 1 if pale else 1.8, "dash": dash},
        **({"marker": {"color": colour, "size": 5}} if few else {}),
        "opacity": 0.35 if pale else 1.0,
        "hovertemplate": "%{y:.5~g}",
        "showlegend": legend,
    }


def averaged(series: Series) -> Series:
    """An exponential average of decay 0.99 without its beginning, where it has not come up from 0 yet."""
    known = series.steps >= AVERAGED_FROM
    return Series(series.steps[known], series.values[known])


def band(low: float, high: float, colour: str) -> dict[str, Any]:
    """A coloured strip over the whole width, behind the curves."""
    return {
        "type": "rect",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": "y",
        "y0": low,
        "y1": high,
        "fillcolor": colour,
        "line": {"width": 0},
        "layer": "below",
    }


def level(value: float, *, colour: str, dash: str = "dash") -> dict[str, Any]:
    """A line across at a value."""
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": "y",
        "y0": value,
        "y1": value,
        "line": {"color": colour, "width": 1.2, "dash": dash},
    }


def _upright(step: float, *, colour: str, dash: str, top: float = 1.0, width: float = 1) -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "x",
        "x0": step,
        "x1": step,
        "yref": "paper",
        "y0": 0,
        "y1": top,
        "line": {"color": colour, "width": width, "dash": dash},
    }


def upright(step: float, *, colour: str, dash: str = "dash") -> dict[str, Any]:
    """A line from top to bottom at a step."""
    return _upright(step, colour=colour, dash=dash)


def _drawn(curve: Curve, run: RunRecords) -> Series | None:
    """What there is to draw of it."""
    series = run.curves.series.get(curve.name)
    if series is not None and curve.of is not None:
        series = curve.of(series)
    return series if series is not None and np.isfinite(series.values).any() else None


def _first(curves: Sequence[Curve], run: RunRecords) -> Curve | None:
    """The curve that stands for the run: the first that is not pale, or else the first that it has."""
    there = [curve for curve in curves if _drawn(curve, run) is not None]
    strong = next((curve for curve in curves if not curve.pale), None)
    return strong if strong in there else next(iter(there), None)


def _finite(traces: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, Any]:
    values = np.concatenate([np.asarray(trace["y"], float) for trace in traces])
    return values[np.isfinite(values)]


def _decades(values: np.ndarray[Any, Any]) -> float:
    positive = values[values > 0]
    return float(np.log10(positive.max()) - np.log10(positive.min()))


def _spans(values: np.ndarray[Any, Any], ratio: float) -> bool:
    """Whether the greatest of the positive values is more than so many times the least."""
    return bool((values > 0).any()) and _decades(values) > np.log10(ratio)
