"""The figures of a run, or of several over each other: what is measured, who wins, what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tecogan_dist.metrics.names import HIGHER_IS_BETTER
from tecogan_dist.pages.charts import BAD, BAD_BAND, GOOD, GOOD_BAND, SOFT, Figure
from tecogan_dist.pages.run_curves import Series
from tecogan_dist.pages.run_lines import (
    AVERAGED_FROM,
    SMALL,
    Curve,
    Drawing,
    Section,
    averaged,
    band,
    level,
    line,
    upright,
)
from tecogan_dist.pages.run_records import RunRecords
from tecogan_dist.pages.run_speed import gradients, memory, throughput
from tecogan_dist.pages.values import LABEL
from tecogan_dist.runs import quantities
from tecogan_dist.runs.records import best_step

WORDS = {
    "content": "pixels against the truth",
    "warp": "frames warped by the flow against the next ones: the flow network's loss",
    "perceptual": "features of VGG19",
    "pingpong": "forth and back have to agree: steadiness in time",
    "adversarial": "the generator's part of the game: low where the discriminator is fooled",
    "feature_match": "features of the discriminator, real against generated",
    "discriminator": "the discriminator's own loss: near 0 it has won",
    "total": "the generator's weighted sum, without the flow's",
}
SCORES = ("real_score", "fake_score", "balance")
"""Raw records that are not losses."""
LARGE = 320
PARTS = 200
"""Of a run, in each of which the discriminator's updates are counted."""


def validation(drawing: Drawing) -> Section:
    """The metrics of held-out scenes over the steps, with the best of each marked."""
    figures = [_metric(drawing, metric) for metric in LABEL if any(metric in run.measured for run in drawing.runs)]
    drawing.used.update(f"{quantities.VALIDATION}/{metric}" for metric in LABEL)
    best = {run.config.tracking.best for run in drawing.runs}
    reading = (
        "Whole scenes that are not trained on, upscaled and measured by the official protocol as tecogan evaluate "
        "does. A star is the best value"
    )
    if len(drawing.runs) == 1 and drawing.runs[0].best is not None:
        reading += f"; the green line is the best checkpoint, by {LABEL[next(iter(best))].partition(' ')[0]}"
    return Section(anchor="validation", title="Held-out scenes", reading=f"{reading}.", figures=tuple(figures))


def _metric(drawing: Drawing, metric: str) -> Figure:
    traces, shapes = [], []
    for number, run in enumerate(drawing.runs):
        measured = {step: values[metric] for step, values in run.scores.items() if metric in values}
        if not measured:
            continue
        colour = drawing.colour(number)
        series = Series(np.array(list(measured)), np.array(list(measured.values()), float))
        several = len(drawing.runs) > 1
        traces.append(line(series, label=run.name, colour=colour, legend=several) | {"mode": "lines+markers"})
        traces[-1]["marker"] = {"color": colour, "size": 6}
        best = best_step(run.scores, metric)
        if best is not None:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [best],
                    "y": [measured[best]],
                    "marker": {
                        "symbol": "star",
                        "size": 14,
                        "color": colour,
                        "line": {"width": 1, "color": "var(--card)"},
                    },
                    "hovertemplate": "best<extra></extra>",
                    "cliponaxis": False,
                    "showlegend": False,
                }
            )
        if run.best is not None and not several:
            shapes.append(upright(run.best, colour=GOOD, dash="solid"))
    layout = {
        "xaxis": drawing.x_axis(),
        "yaxis": {"title": {"text": LABEL[metric]}, "exponentformat": "none"},
        "shapes": [*drawing.restarts(), *shapes],
        "showlegend": len(drawing.runs) > 1,
    }
    side = "higher is better" if metric in HIGHER_IS_BETTER else "lower is better"
    return Figure.of(traces, layout, title=LABEL[metric].partition(" ")[0], caption=side, height=SMALL + 20)


def discriminator(drawing: Drawing) -> Section:
    """Who is winning."""
    thresholds = sorted(
        {run.config.discriminator.balance_threshold for run in drawing.runs if run.network == "TecoGAN"}
    )
    wide = [_balance(drawing, thresholds)]
    figures = [
        drawing.figure(
            [
                Curve(name=quantities.REAL, label="real"),
                Curve(
                    name=quantities.FAKE, label="generated", colour=1, dash="dash" if len(drawing.runs) > 1 else "solid"
                ),
            ],
            title="What it says",
            caption=f"{'dashed: generated; ' if len(drawing.runs) > 1 else ''}1 is real, 0 is generated; both at 0.5: "
            "it cannot tell",
            layout={"yaxis": {"range": [0, 1]}, "shapes": [level(0.5, colour=SOFT)]},
            log=False,
        ),
        _updated(drawing),
        drawing.figure(
            [
                Curve(name=quantities.ACCURACY, label="training"),
                Curve(name=f"{quantities.VALIDATION_LOSS}/accuracy", label="held out", colour=1, dash="dash"),
            ],
            title="Accuracy",
            caption="share of triplets that it judges rightly; 0.5 is chance",
            layout={"yaxis": {"range": [0, 1.02]}, "shapes": [level(0.5, colour=SOFT)]},
            log=False,
        ),
        _loss(drawing, "discriminator"),
    ]
    drawing.used |= {quantities.UPDATES, quantities.SKIPS, "raw/real_score", "raw/fake_score"}
    drawing.used |= {"average/real_score", "average/fake_score", "average/balance", "average/discriminator"}
    return Section(
        anchor="discriminator",
        title="Discriminator",
        reading="Its lead over the generator. Below the threshold it learns with every step; above it pauses, until "
        "the generator has caught up. A lead that stays in the red for long, or a loss near 0: it has won.",
        wide=tuple(filter(None, wide)),
        figures=tuple(filter(None, figures)),
    )


def _balance(drawing: Drawing, thresholds: Sequence[float]) -> Figure | None:
    low, high = 0.0, 0.0
    for threshold in thresholds:
        low, high = min(low, threshold - 0.4), max(high, threshold + 0.2)
    # Single steps swing widely: what matters is where the average goes.
    for name, share in ((quantities.BALANCE, 0.0), ("raw/balance", 0.005)):
        for run in drawing.runs:
            series = run.curves.series.get(name)
            if series is not None and np.isfinite(series.values).any():
                ends = np.nanquantile(np.where(np.isfinite(series.values), series.values, np.nan), [share, 1 - share])
                low, high = min(low, float(ends[0])), max(high, float(ends[1]))
    margin = 0.03 * (high - low)
    low, high = low - (margin if low < 0 else 0), high + margin
    shapes = [level(threshold, colour=BAD) for threshold in thresholds]
    if len(thresholds) == 1:
        shapes += [band(low, thresholds[0], GOOD_BAND), band(thresholds[0], high, BAD_BAND)]
    caption = f"green: below {' and '.join(f'{one:g}' for one in thresholds)} it is updated; red: it pauses"
    return drawing.figure(
        [
            Curve(name="raw/balance", label="each record", pale=True),
            Curve(name=quantities.BALANCE, label="average, which decides"),
        ],
        title="Balance",
        caption=caption,
        layout={"yaxis": {"range": [low, high]}, "shapes": shapes},
        log=False,
        height=LARGE,
    )


def _updated(drawing: Drawing) -> Figure | None:
    """The share of steps with an update, from the counts of both kinds."""

    def share_of(run: RunRecords) -> Series | None:
        updates, skips = (run.curves.series.get(name) for name in (quantities.UPDATES, quantities.SKIPS))
        if updates is None or skips is None:
            return None
        steps, first, second = np.intersect1d(updates.steps, skips.steps, return_indices=True)
        chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), PARTS)).astype(int))
        done, left = (
            np.diff(series.values[where][chosen], prepend=0) for series, where in ((updates, first), (skips, second))
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return Series(steps[chosen], np.clip(done / (done + left), 0, 1))

    return drawing.derived(
        share_of,
        title="Updates",
        caption="share of steps in which it learned",
        layout={"yaxis": {"range": [0, 1.02], "tickformat": ".0%"}},
    )


def losses(drawing: Drawing) -> Section:
    """What enters the sums, and each loss by itself."""
    weighted = [name for name in drawing.names("loss/") if name != "loss/discriminator"]
    parts = sorted(weighted, key=lambda name: (name == "loss/total", weighted.index(name)))
    curves = [Curve(name=name, label=name.removeprefix("loss/"), colour=i) for i, name in enumerate(parts)]
    folded: list[Figure | None] = []
    wide: list[Figure | None] = []
    if len(drawing.runs) == 1:
        caption = "each times its weight, as it enters the sum: what the generator is pulled by"
        wide = [drawing.figure(curves, title="Weighted losses", caption=caption, log=True, height=LARGE)]
    else:
        folded = [
            drawing.figure([curve], title=f"{curve.label}, weighted", caption="as it enters the sum")
            for curve in curves
        ]
    drawing.used.add("loss/discriminator")
    raw = [name.removeprefix("raw/") for name in drawing.names("raw/")]
    main = [name for name in raw if name in WORDS and name != "discriminator"]
    figures = [_loss(drawing, name) for name in main]
    details = [name for name in raw if name not in (*WORDS, *SCORES)]
    drawing.used.update(f"{quantities.VALIDATION_LOSS}/{name}" for name in SCORES)
    folded += [_loss(drawing, name) for name in details]
    return Section(
        anchor="losses",
        title="Losses",
        reading=_reading(drawing),
        wide=tuple(filter(None, wide)),
        figures=tuple(filter(None, figures)),
        folded=tuple(filter(None, folded)),
        folded_title="Layers of the perceptual and feature losses" if len(drawing.runs) == 1 else "Details",
    )


def _reading(drawing: Drawing) -> str:
    """How to read the losses: by what there is of them."""
    averages = [name for name in drawing.names("average/") if _is_up(drawing, name)]
    come_up = f"from step {AVERAGED_FROM} on, when it has come up from 0"
    if any(run.curves.last_step < AVERAGED_FROM for run in drawing.runs):
        come_up += "; of a shorter run the values are strong"
    parts = [
        f": pale the values, strong their average over the last hundred steps or so ({come_up})" if averages else "",
        ", dashed the same of held-out windows" if drawing.names(f"{quantities.VALIDATION_LOSS}/") else "",
    ]
    return (
        f"Each as the original lists it, before its weight{''.join(parts)}. "
        "Spikes are kept, however many records there are."
    )


def _is_up(drawing: Drawing, average: str) -> bool:
    """Whether an average of any run has come up from 0."""
    return any(average in run.curves.series and run.curves.last_step >= AVERAGED_FROM for run in drawing.runs)


def _loss(drawing: Drawing, name: str) -> Figure | None:
    average = f"average/{name}"
    drawing.used.add(average)
    is_up = _is_up(drawing, average)
    curves = [
        Curve(name=f"raw/{name}", label="value", pale=is_up),
        *([Curve(name=average, label="average", of=averaged)] if is_up else []),
        Curve(name=f"{quantities.VALIDATION_LOSS}/{name}", label="held out", colour=1, dash="dash"),
    ]
    return drawing.figure(curves, title=name, caption=WORDS.get(name, ""))


def others(drawing: Drawing) -> Section:
    """What is recorded and in no other section: of a newer version, or of somebody's own."""
    figures = [drawing.figure([Curve(name=name)], title=name) for name in drawing.names("") if name not in drawing.used]
    return Section(
        anchor="others",
        title="Other records",
        reading="What the records hold besides.",
        folded=tuple(filter(None, figures)),
        folded_title="Show them",
    )


def sections(runs: Sequence[RunRecords]) -> Iterator[Section]:
    """All that have something to show, in the order in which people ask."""
    drawing = Drawing(runs)
    for of in (validation, discriminator, losses, gradients, throughput, memory, others):
        section = of(drawing)
        if not section.is_empty:
            yield section
