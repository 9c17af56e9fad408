"""How a sweep went: the best so far, learning curves, the Pareto front, the timeline. Figures are Optuna's own."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna import visualization
from optuna.trial import TrialState

from tecogan_dist.metrics.names import METRICS
from tecogan_dist.pages.charts import Figure
from tecogan_dist.pages.sweep_plots import (
    ACCENT,
    ALARM,
    BEST_COLOURS,
    INK,
    PALE,
    SOFT,
    Section,
    Sweep,
    complete,
    plot,
)
from tecogan_dist.pages.values import LABEL
from tecogan_dist.tuning.records import TrialRecord

TICKS = 20
"""Up to so many trials each has its own tick."""


def history(sweep: Sweep) -> Section:
    """The best so far, by trial: of one number Optuna's history, of several objectives that of the hypervolume."""
    complete = [trial for trial in sweep.results.trials if trial.state == "complete"]
    section = functools.partial(Section, anchor="history", title="Best so far")
    if not complete:
        return section(reading="No trial came to its last step.")
    score = sweep.results.space.score
    if len(sweep.study.directions) > 1:
        return section(reading=_VOLUME, plots=(_hypervolume(sweep),))
    label = LABEL[sweep.metrics[0]] if score.combine == "one" else "weighted sum of ranks"
    figure = visualization.plot_optimization_history(sweep.study, target_name=label)
    names = {label: "complete", "Best Value": "best so far", "Infeasible Trial": "complete, breaks a limit"}
    for trace in figure.data:
        trace.name = names[trace.name]
        trace.showlegend = len(trace.x) > 0
    figure.update_traces(marker={"color": ACCENT, "size": 9}, selector={"name": "complete"})
    figure.update_traces(
        marker={"color": ALARM, "size": 8, "symbol": "circle-open"}, selector={"name": names["Infeasible Trial"]}
    )
    figure.update_traces(line={"color": INK, "width": 1.5, "shape": "hv"}, selector={"name": "best so far"})
    figure.update_xaxes(title_text="trial", dtick=1 if len(sweep.results.trials) <= TICKS else None)
    reading = "A point is a trial at its last step; the line is the best of those so far" + (
        " that keep the limits." if score.limits else "."
    )
    if score.combine == "one":
        reading += _add_stopped(figure, sweep)
        if sweep.results.preset is not None and sweep.metrics[0] in sweep.results.preset.last:
            figure.add_hline(
                sweep.results.preset.last[sweep.metrics[0]], line={"color": INK, "dash": "dash", "width": 1}
            )
            reading += " The dashed line is the preset."
    return section(reading=reading, plots=(plot(figure, title=f"Best {label} so far", height=340, legend=True),))


_VOLUME = (
    "Of several objectives there is no single best: the line is the hypervolume, what the front found so far encloses "
    "up to the worst value in each objective; it rises whenever a trial widens the front."
)


def _hypervolume(sweep: Sweep) -> Figure:
    step = max(record.step for record in sweep.ranked.values())
    last = [record.last for record in sweep.ranked.values() if record.step == step]
    worst = [
        (min if sweep.direction(metric) == "maximize" else max)(values[metric] for values in last)
        for metric in sweep.metrics
    ]
    study = sweep.at_step(step, sweep.metrics, limited=True)
    figure = visualization.plot_hypervolume_history(study, worst)
    figure.update_traces(line={"color": INK, "width": 1.5, "shape": "hv"}, marker={"color": ACCENT, "size": 8})
    figure.update_xaxes(title_text="trial", dtick=1 if len(sweep.results.trials) <= TICKS else None)
    return plot(figure, title="Hypervolume so far", height=320)


def _add_stopped(figure: go.Figure, sweep: Sweep) -> str:
    (metric,) = sweep.metrics
    stopped = [trial for trial in sweep.results.trials if trial.state == "stopped" and metric in trial.last]
    if not stopped:
        return ""
    figure.add_scatter(
        x=[trial.number for trial in stopped],
        y=[trial.last[metric] for trial in stopped],
        text=[f"after step {trial.step}" for trial in stopped],
        hovertemplate="trial %{x}: %{y:.4f} %{text}<extra></extra>",
        mode="markers",
        name="stopped early",
        marker={"color": SOFT, "symbol": "x-thin-open", "size": 8, "line": {"width": 1.5}},
    )
    return " Crosses are what stopped trials had reached: they were at fewer steps, and do not count."


def learning_curves(sweep: Sweep) -> Section:
    """Optuna's intermediate values of each metric, with marks where trials were stopped or failed."""
    results = sweep.results
    section = functools.partial(Section, anchor="curves", title="Learning curves")
    measured = [m for m in METRICS if any(m in values for trial in results.trials for values in trial.scores.values())]
    if not measured:
        return section(reading="No trial was ever measured.")
    counts = [metric for metric in (*sweep.metrics, *sweep.limiting) if metric in measured]
    return section(
        reading="Each line is a trial, measured on the same held-out frames; a cross is where the scheduler stopped "
        "it, a red one where it failed. The best are coloured; rest the pointer on a line for its name.",
        plots=tuple(_curves(sweep, metric) for metric in counts),
        folded=tuple(_curves(sweep, metric) for metric in measured if metric not in counts),
    )


def _curves(sweep: Sweep, metric: str) -> Figure:
    results = sweep.results
    study = optuna.create_study(direction=sweep.direction(metric))
    values = {trial.number: _finite(trial, metric) for trial in results.trials}
    for trial in sweep.study.get_trials(deepcopy=False):
        study.add_trial(optuna.create_trial(state=TrialState.RUNNING, intermediate_values=values.get(trial.number, {})))
    figure = visualization.plot_intermediate_values(study)
    best = dict(zip(results.ranking, BEST_COLOURS, strict=False))
    for trace in figure.data:
        number = int(trace.name.removeprefix("Trial"))
        trace.update(
            name=sweep.name(number),
            line={"color": best.get(number, PALE), "width": 2.5 if number in best else 1.2},
            marker={"color": best.get(number, PALE), "size": 5},
            showlegend=number in best,
            legendrank=results.ranking.index(number) if number in best else None,
            zorder=2 if number in best else 0,
            hovertemplate=f"{sweep.name(number)}<br>step %{{x}}: %{{y:.4f}}<extra></extra>",
        )
    for state, name, colour in (("stopped", "stopped early", INK), ("failed", "failed", ALARM)):
        ends = [
            (trial, max(values[trial.number]))
            for trial in results.trials
            if trial.state == state and values[trial.number]
        ]
        if ends:
            figure.add_scatter(
                x=[step for _, step in ends],
                y=[values[trial.number][step] for trial, step in ends],
                text=[f"{sweep.name(trial.number)}, {name}" for trial, _ in ends],
                hovertemplate="%{text}<br>step %{x}: %{y:.4f}<extra></extra>",
                mode="markers",
                name=name,
                marker={"symbol": "x-thin", "size": 9, "line": {"color": colour, "width": 2}},
                zorder=3,
            )
    preset = {} if results.preset is None else _finite(results.preset, metric)
    if preset:
        line = {"color": INK, "dash": "dash", "width": 2}
        figure.add_scatter(x=list(preset), y=list(preset.values()), name="preset", mode="lines", line=line, zorder=2)
    steps = [step for by_step in values.values() for step in by_step]
    if metric in results.bicubic and steps:
        line = {"color": SOFT, "dash": "dot", "width": 1.5}
        ends_of_line = [min(steps), max(steps)]
        figure.add_scatter(x=ends_of_line, y=[results.bicubic[metric]] * 2, name="bicubic", mode="lines", line=line)
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text=LABEL[metric], range=_range(sweep, metric, values, preset))
    return plot(figure, title=f"Learning curves, {LABEL[metric]}", height=400, legend=True)


def _finite(trial: TrialRecord, metric: str) -> dict[int, float]:
    known = {step: scores[metric] for step, scores in sorted(trial.scores.items()) if metric in scores}
    return {step: value for step, value in known.items() if math.isfinite(value)}


def _range(
    sweep: Sweep, metric: str, values: Mapping[int, Mapping[int, float]], preset: Mapping[int, float]
) -> tuple[float, float] | None:
    """What is ranked, with a margin; a trial that diverged may leave the picture."""
    shown = [value for number in sweep.results.ranking for value in values[number].values()]
    if not shown:
        return None
    shown += [*preset.values(), sweep.results.bicubic.get(metric, shown[0])]
    margin = 0.06 * (max(shown) - min(shown)) or 0.01 * (abs(shown[0]) or 1.0)
    return min(shown) - margin, max(shown) + margin


def front(sweep: Sweep) -> Section | None:
    """Optuna's Pareto front, in each pair of objectives; None for a score of one number."""
    results = sweep.results
    if results.space.score.combine != "pareto":
        return None
    section = functools.partial(Section, anchor="front", title="Pareto front")
    if not results.ranking:
        return section(reading="No trial was measured.")
    step = max(record.step for record in sweep.ranked.values())
    study = sweep.at_step(step, sweep.metrics, limited=True)
    pairs = tuple(_front(sweep, study, pair) for pair in itertools.combinations(sweep.metrics, 2))
    return section(
        reading=f"The trials at step {step}, as far as any came. No other trial is better than a blue one in "
        "everything: from one blue trial to the next something is gained and something lost.",
        plots=pairs,
        columns=len(pairs) > 1,
    )


def _front(sweep: Sweep, study: optuna.Study, pair: tuple[str, str]) -> Figure:
    first, second = (sweep.metrics.index(metric) for metric in pair)
    figure = visualization.plot_pareto_front(
        study,
        targets=lambda trial: (trial.values[first], trial.values[second]),
        target_names=[LABEL[metric] for metric in pair],
    )
    looks: dict[str, tuple[str, dict[str, Any]]] = {
        "Infeasible Trial": ("breaks a limit", {"color": "white", "size": 9, "line": {"color": SOFT, "width": 1.5}}),
        "Trial": ("other trials", {"color": PALE, "size": 9}),
        "Feasible Trial": ("other trials", {"color": PALE, "size": 9}),
        "Best Trial": ("on the front", {"color": ACCENT, "size": 20}),
    }
    for trace in figure.data:
        name, marker = looks[trace.hovertemplate.partition("<extra>")[2].removesuffix("</extra>")]
        # Optuna colours by the trial's number, with a scale for each kind.
        trace.update(name=name, showlegend=len(trace.x) > 0)
        trace.marker = {"line": {"width": 0}, **marker}
    numbers = {(trial.values[first], trial.values[second]): trial.number for trial in complete(study)}
    best = figure.data[-1]
    labels = [str(numbers[place]) for place in zip(best.x, best.y, strict=True)]
    best.update(mode="markers+text", texttemplate=labels, textfont={"color": "white"})
    preset = sweep.results.preset.last if sweep.results.preset is not None else {}
    if all(metric in preset for metric in pair):
        figure.add_scatter(
            x=[preset[pair[0]]],
            y=[preset[pair[1]]],
            mode="markers",
            name="preset",
            hovertemplate="preset<br>%{x:.4f}, %{y:.4f}<extra></extra>",
            marker={"symbol": "diamond", "color": INK, "size": 11},
        )
    title = f"Pareto front of {LABEL[pair[0]]} and {LABEL[pair[1]]}"
    return plot(figure, title=title, height=420, legend=True)


def timeline(sweep: Sweep) -> Section:
    """Optuna's timeline of the trials that began."""
    section = functools.partial(Section, anchor="timeline", title="Timeline")
    begun = {trial.number for trial in sweep.results.trials if trial.began is not None}
    if not begun:
        return section(reading="No trial began.")
    figure = visualization.plot_timeline(sweep.study)
    names = {
        "COMPLETE": ("complete", ACCENT),
        "INFEASIBLE": ("complete, breaks a limit", "#8fb0ea"),
        "PRUNED": ("stopped early", "#e0a030"),
        "FAIL": ("failed", ALARM),
        "RUNNING": ("running", "#1b8a5a"),
        "WAITING": ("waiting", PALE),
    }
    for trace in figure.data:
        kept = [index for index, number in enumerate(trace.y) if number in begun]
        for field in ("x", "y", "base", "text"):
            trace[field] = [trace[field][index] for index in kept]
        name, colour = names[trace.name]
        trace.update(name=name, marker={"color": colour}, showlegend=bool(kept))
    figure.update_xaxes(title_text="time")
    figure.update_yaxes(title_text="trial", dtick=1 if len(begun) <= TICKS else None, autorange="reversed")
    return section(
        reading="A bar reaches from a trial's beginning to its last measurement.",
        plots=(plot(figure, title="Timeline", height=120 + 18 * min(len(begun), 60), legend=True),),
    )
