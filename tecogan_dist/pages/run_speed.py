"""The figures of a run that are about its work: gradients, speed and where the time goes, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tecogan_dist.pages.charts import SERIES, SERIES_BANDS, SOFT, SOFT_BAND, Figure
from tecogan_dist.pages.run_curves import Series, recent, smoothed
from tecogan_dist.pages.run_lines import Curve, Drawing, Section, level
from tecogan_dist.pages.run_records import RunRecords
from tecogan_dist.runs import quantities
from tecogan_dist.runs.unhealthy_pace import WAITING

PARTS = {
    quantities.FORWARD: "losses",
    quantities.BACKWARD: "gradients of the weights",
    quantities.ALL_REDUCE: "between workers",
    quantities.OPTIMISER: "updating weights",
    quantities.DATA_WAIT: "waiting for data",
    quantities.CHECKPOINT_WAIT: "waiting for checkpoints",
    quantities.VALIDATION_WAIT: "held-out scenes",
}
"""Of a step's time, in the order in which they are stacked."""
REST = "the rest"
SHOWN = 0.005
"""The least share of a step that has a colour in the bar."""
BUCKETS = 240
"""Means of so many parts of a run are stacked: single steps would hide what is what."""
LARGE = 320


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a share (0..1) of the time of a step is spent on."""

    words: str
    share: float
    colour: str


def time_bar(run: RunRecords) -> list[Part]:
    """Where the time of the latest steps went; nothing if that is not recorded."""
    whole = recent(run.curves.series.get(quantities.STEP_TIME))
    parts = [(recent(run.curves.series.get(name)), words) for name, words in PARTS.items()]
    known = [
        Part(words=words, share=seconds / whole, colour=SERIES[colour])
        for colour, (seconds, words) in enumerate(parts)
        if whole > 0 and seconds > SHOWN * whole
    ]
    rest = 1 - sum(part.share for part in known)
    return [*known, Part(words=REST, share=rest, colour=SOFT)] if known and rest > 0.01 else known


def gradients(drawing: Drawing) -> Section:
    """How hard the weights are pulled, and how far they move."""
    norms = drawing.names("grad_norm/")
    known = [run.curves.series[name] for run in drawing.runs for name in norms if name in run.curves.series]
    # The mean of a single record would hide it.
    are_many = any(_window(series) > 1 for series in known)
    pairs = [
        [
            *([Curve(name=name, colour=colour, pale=True)] if are_many else []),
            Curve(name=name, colour=colour, label=name.partition("/")[2], of=lately),
        ]
        for colour, name in enumerate(norms)
    ]
    caption = f"their norms before clipping{'; pale: as they were, strong: their mean' if are_many else ''}"
    if len(drawing.runs) == 1:
        together = sorted((curve for pair in pairs for curve in pair), key=lambda curve: not curve.pale)
        figures = [drawing.figure(together, title="Gradients", caption=caption, log=True)]
    else:
        figures = [
            drawing.figure(pair, title=f"Gradients: {pair[-1].label}", caption=caption, log=True) for pair in pairs
        ]
    figures += [
        drawing.figure(
            [Curve(name=quantities.UPDATE_RATIO)],
            title="Update ratio",
            caption="how far a step moves the upscaler's weights, against their size",
            log=True,
        ),
        drawing.figure([Curve(name=quantities.LEARNING_RATE)], title="Learning rate"),
        _if_ever(
            drawing,
            quantities.BAD_STEPS,
            title="Steps left out",
            caption="because a loss or gradient was not finite, since the run began",
        ),
    ]
    return Section(
        anchor="gradients",
        title="Gradients and updates",
        reading="Norms that rise for long, or a ratio far above 0.001, come before losses that are not finite.",
        figures=tuple(filter(None, figures)),
    )


def lately(series: Series) -> Series:
    """Means of a fiftieth of all records."""
    return smoothed(series, _window(series))


def _window(series: Series) -> int:
    return max(1, len(series.steps) // 50)


def throughput(drawing: Drawing) -> Section:
    """How fast it goes, and where the time of a step goes."""
    figures = [
        drawing.figure(
            [Curve(name=quantities.SAMPLES)],
            title="Windows per second",
            caption="of all workers",
            log=False,
            layout={"yaxis": {"rangemode": "tozero"}},
        ),
        _waiting(drawing),
        drawing.figure(
            [Curve(name=quantities.MFU)],
            title="Use of the GPU",
            caption="of what its data sheet says that it can compute",
            layout={"yaxis": {"rangemode": "tozero", "tickformat": ".0%"}},
            log=False,
        ),
        drawing.figure(
            [Curve(name=quantities.TFLOPS)],
            title="TFLOP/s of each worker",
            layout={"yaxis": {"rangemode": "tozero"}},
            log=False,
        ),
    ]
    folded = [
        drawing.figure([Curve(name=name)], title=name.partition("/")[2].replace("_", " "), log=False)
        for name in (quantities.FRAMES, quantities.MEGAPIXELS, *drawing.names("time/"))
    ]
    wide = [_stacked(drawing.runs[0], drawing)] if len(drawing.runs) == 1 else []
    return Section(
        anchor="throughput",
        title="Speed, and where the time goes",
        reading="Waiting for data is that of the worker that waited longest: above the line, "
        f"{WAITING:.0%} of a step, the workers idle for too long.",
        wide=tuple(filter(None, wide)),
        figures=tuple(filter(None, figures)),
        folded=tuple(filter(None, folded)),
        folded_title="Each part of a step, frames and pixels",
    )


def _waiting(drawing: Drawing) -> Figure | None:
    """Waiting for data as a share of the step it is part of."""

    def share_of(run: RunRecords) -> Series | None:
        waited, whole = (run.curves.series.get(name) for name in (quantities.DATA_WAIT, quantities.STEP_TIME))
        if waited is None or whole is None:
            return None
        steps, first, second = np.intersect1d(waited.steps, whole.steps, return_indices=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return Series(steps, waited.values[first] / whole.values[second])

    return drawing.derived(
        share_of,
        title="Waiting for data",
        caption="share of a step",
        layout={"yaxis": {"rangemode": "tozero", "tickformat": ".0%"}, "shapes": [level(WAITING, colour=SOFT)]},
    )


def _stacked(run: RunRecords, drawing: Drawing) -> Figure | None:
    """The parts of a step upon each other, over the steps."""
    whole = run.curves.series.get(quantities.STEP_TIME)
    there = [(name, run.curves.series[name]) for name in PARTS if name in run.curves.series]
    if whole is None or not there:
        return None
    edges = np.linspace(0, len(whole.steps), min(BUCKETS, len(whole.steps)) + 1).astype(int)
    steps = whole.steps[edges[1:] - 1]
    total = _means(whole, whole.steps, edges)
    rest, traces = total.copy(), []
    for name, series in there:
        means, colour = _means(series, whole.steps, edges), list(PARTS).index(name)
        rest = rest - means
        traces.append(_layer(steps, means, PARTS[name], SERIES[colour], SERIES_BANDS[colour]))
    traces.append(_layer(steps, np.maximum(rest, 0), REST, SOFT, SOFT_BAND))
    layout = {
        "xaxis": drawing.x_axis(),
        "yaxis": {"title": {"text": "seconds"}, "rangemode": "tozero"},
        "shapes": drawing.restarts(),
        "showlegend": True,
    }
    return Figure.of(traces, layout, title="A step's time", caption="what it is spent on", height=LARGE)


def _layer(steps: Sequence[int], means: np.ndarray, label: str, colour: str, fill: str) -> dict[str, object]:
    return {
        "type": "scatter",
        "mode": "lines",
        "stackgroup": "time",
        "x": steps,
        "y": means,
        "name": label,
        "line": {"color": colour, "width": 1},
        "fillcolor": fill,
        "hovertemplate": "%{y:.3~g} s",
    }


def _means(series: Series, steps: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The mean of the values in each part of ``steps``; 0 where there is none."""
    known = np.isfinite(series.values)
    at = np.searchsorted(steps[edges[1:] - 1], series.steps[known])
    inside = at < len(edges) - 1
    sums = np.bincount(at[inside], series.values[known][inside], len(edges) - 1)
    counts = np.bincount(at[inside], minlength=len(edges) - 1)
    return sums / np.maximum(counts, 1)


def memory(drawing: Drawing) -> Section:
    """The memory of the worker that has most."""
    gib = {"yaxis": {"rangemode": "tozero", "title": {"text": "GiB"}}}
    several = len(drawing.runs) > 1
    figures = [
        drawing.figure(
            [
                Curve(name=quantities.GPU_PEAK, label="in tensors, at most"),
                Curve(name=quantities.GPU_RESERVED, label="reserved", colour=1, dash="dash" if several else "solid"),
            ],
            title="GPU memory",
            caption="dashed: what torch has reserved" if several else "",
            layout=gib,
            log=False,
        ),
        drawing.figure([Curve(name=quantities.HOST_MEMORY)], title="Memory of the process", layout=gib, log=False),
        _if_ever(
            drawing,
            quantities.ALLOC_RETRIES,
            title="Emptied caches",
            caption="times that memory was short: each costs time",
        ),
    ]
    return Section(
        anchor="memory",
        title="Memory",
        reading="Of the worker that has most. What rises for ever ends in a run that is killed.",
        figures=tuple(filter(None, figures)),
    )


def _if_ever(drawing: Drawing, name: str, *, title: str, caption: str) -> Figure | None:
    """A count's figure, unless it is 0 all along."""
    drawing.used.add(name)
    known = [run.curves.series[name].values for run in drawing.runs if name in run.curves.series]
    if not any(np.nan_to_num(values).any() for values in known):
        return None
    return drawing.figure(
        [Curve(name=name)], title=title, caption=caption, log=False, layout={"yaxis": {"rangemode": "tozero"}}
    )
