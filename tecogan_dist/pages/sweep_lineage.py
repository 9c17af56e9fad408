"""What population based training did: who went on from whose weights, and how the settings changed on the way."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from tecogan_dist.pages.charts import Figure
from tecogan_dist.pages.sweep_plots import ACCENT, BEST_COLOURS, INK, PALE, Section, Sweep, plot
from tecogan_dist.tuning.records import TrialRecord

ARROW_GAP = 0.012
"""Between arrows of the same step, as a fraction of all steps."""


def lineage_sections(sweep: Sweep) -> list[Section]:
    """Lineage and schedules; none of a scheduler that changes nothing on the way."""
    if sweep.results.space.scheduler.kind not in ("pbt", "pb2"):
        return []
    return [_lineage(sweep), _schedules(sweep)]


def ancestry(trials: dict[int, TrialRecord], number: int) -> list[tuple[int, int, int]]:
    """Where the weights that a trial ended with were: (trial, first step, last step), the last stretch first."""
    stretches = []
    until = trials[number].step
    while True:
        taken = [s for s in trials[number].segments if s.donor is not None and s.first_step < until]
        begin = taken[-1].first_step if taken else 0
        stretches.append((number, begin, until))
        if not taken or taken[-1].donor not in trials:
            return stretches
        number, until = taken[-1].donor, begin


def _lineage(sweep: Sweep) -> Section:
    trials = {trial.number: trial for trial in sweep.results.trials}
    figure = go.Figure()
    for number, trial in trials.items():
        figure.add_scatter(
            x=[0, trial.step],
            y=[number, number],
            mode="lines",
            line={"color": PALE, "width": 3},
            hovertemplate=f"{sweep.name(number)}<extra></extra>",
            showlegend=False,
        )
    if sweep.results.ranking:
        winner = sweep.results.ranking[0]
        for index, (number, begin, until) in enumerate(ancestry(trials, winner)):
            figure.add_scatter(
                x=[begin, until],
                y=[number, number],
                mode="lines",
                line={"color": ACCENT, "width": 6},
                name=f"the winner's weights (trial {winner})",
                hoverinfo="skip",
                showlegend=index == 0,
            )
    exchanges = [
        (segment.first_step, segment.donor, number)
        for number, trial in trials.items()
        for segment in trial.segments
        if segment.donor is not None
    ]
    for step, donor, number in exchanges:
        at_once = [exchange for exchange in exchanges if exchange[0] == step]
        # Beside each other, or one would hide another.
        shift = (at_once.index((step, donor, number)) - (len(at_once) - 1) / 2) * ARROW_GAP * sweep.results.space.steps
        figure.add_annotation(
            x=step + shift,
            y=number,
            ax=step + shift,
            ay=donor,
            xref="x",
            yref="y",
            axref="x",
            ayref="y",
            arrowhead=2,
            arrowwidth=1.5,
            arrowcolor=INK,
            text="",
        )
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(
        title_text="trial", dtick=1 if len(trials) <= 30 else None, autorange="reversed", zeroline=False
    )
    found = f"{len(exchanges)} times a trial" if exchanges else "Never a trial"
    return Section(
        anchor="lineage",
        title="Lineage",
        reading=f"{found} went on from another's weights: an arrow points from the donor to it. The blue line follows "
        "the winner's weights back to their beginning.",
        plots=(
            plot(
                figure,
                title="Lineage",
                height=110 + 34 * min(len(trials), 30),
                legend=bool(sweep.results.ranking),
            ),
        ),
    )


def _schedules(sweep: Sweep) -> Section:
    return Section(
        anchor="schedules",
        title="Schedules",
        reading="Each setting's values while a trial trained. The best are coloured; rest the pointer on a line for "
        "its name.",
        plots=tuple(_schedule(sweep, name) for name in sweep.results.space.settings),
        columns=True,
    )


def _schedule(sweep: Sweep, name: str) -> Figure:
    figure = go.Figure()
    best = dict(zip(sweep.results.ranking, BEST_COLOURS, strict=False))
    # The best last, and so on top.
    for trial in sorted(sweep.results.trials, key=lambda trial: trial.number in best):
        steps = [segment.first_step for segment in trial.segments]
        values = [_axis_value(segment.values[name]) for segment in trial.segments]
        figure.add_scatter(
            x=[*steps, max(trial.step, steps[-1])],
            y=[*values, values[-1]],
            mode="lines",
            line={
                "shape": "hv",
                "color": best.get(trial.number, PALE),
                "width": 2.5 if trial.number in best else 1.2,
            },
            hovertemplate=f"{sweep.name(trial.number)}<br>from step %{{x}}: %{{y}}<extra></extra>",
        )
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text=name)
    if sweep.results.space.settings[name].kind == "loguniform":
        # 1, 2, 5: all digits would lie on top of each other. Of a narrow range there are few anyway.
        known = [segment.values[name] for trial in sweep.results.trials for segment in trial.segments]
        figure.update_yaxes(type="log", dtick="D2" if max(known, default=1) > 4 * min(known, default=1) else None)
    return plot(figure, title=f"Schedules of {name}", height=260)


def _axis_value(value: Any) -> float | str:
    """A setting's value for an axis, which is one of words if they are no numbers."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
