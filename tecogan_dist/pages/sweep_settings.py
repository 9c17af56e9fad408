"""What the searched settings do to the score: Optuna's importance, coordinates, slices and contour.

Optuna draws these of complete trials only. Where trials were stopped early, that would be the few that are left, so
they are drawn of the last step that all ranked trials reached, and without the score's limits, which are meant for the
end of a training.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import optuna
import plotly.graph_objects as go
from optuna import visualization
from optuna.importance import PedAnovaImportanceEvaluator

from tecogan_dist.pages.sweep_plots import BEST_COLOURS, INK, Section, Sweep, complete, plot
from tecogan_dist.pages.values import LABEL

FEWEST = 4
"""Trials from which the importance of a setting is estimated, at least."""
MANY = 30
"""From so many trials on it is more than a hint."""
TOP_TRIALS = 5
"""How many of the best PED-ANOVA sets apart from all, at least, as Optuna advises; but no more than half of them."""
COLUMN_WIDTH, LINE_HEIGHT = 124, 26


@dataclass(frozen=True)
class _Level:
    """The ranked trials at the last step that all of them reached."""

    sweep: Sweep
    step: int
    count: int

    def study(self, metric: str) -> optuna.Study:
        return self.sweep.at_step(self.step, [metric])

    def varied(self, metric: str) -> list[str]:
        """The settings of which several values were tried, in their order."""
        trials = complete(self.study(metric))
        names = self.sweep.results.space.settings
        return [name for name in names if len({trial.params[name] for trial in trials}) > 1]

    def differs(self, metric: str) -> bool:
        return len({trial.value for trial in complete(self.study(metric))}) > 1


def settings_sections(sweep: Sweep) -> list[Section]:
    """Importance, coordinates, slices and contour; where there is too little to draw, why."""
    titles = {
        "importance": "Importance of each setting",
        "coordinates": "Parallel coordinates",
        "slices": "Each setting by itself",
        "contour": "The two most important settings",
    }
    step = min((record.step for record in sweep.ranked.values()), default=0)
    level = _Level(sweep, step, sum(step in record.scores for record in sweep.ranked.values()))
    refusal = _refusal(level)
    if refusal:
        return [Section(anchor=anchor, title=title, reading=refusal) for anchor, title in titles.items()]
    return [
        _importance(level, titles["importance"]),
        _coordinates(level, titles["coordinates"]),
        _slices(level, titles["slices"]),
        _contour(level, titles["contour"]),
    ]


def _refusal(level: _Level) -> str:
    """Why trials cannot be compared; empty if they can."""
    if level.count == 0:
        return "No trial was measured."
    if level.count == 1:
        return "Only one trial was measured, so there is nothing to compare it with."
    metric = level.sweep.metrics[0]
    if not level.varied(metric):
        return "All measured trials have the same settings, so there is nothing to compare."
    if not any(level.differs(metric) for metric in level.sweep.metrics):
        return "All trials scored the same, so no setting can be told to matter."
    return ""


def _when(level: _Level) -> str:
    if all(record.step == level.step for record in level.sweep.ranked.values()):
        return f"All {level.count} ranked trials at step {level.step}"
    return f"All {level.count} ranked trials at step {level.step}, the last that all of them reached"


def _evaluator(count: int) -> tuple[PedAnovaImportanceEvaluator, int]:
    """PED-ANOVA for so many trials, and how many of the best it sets apart."""
    top = max(math.ceil(0.1 * count), min(TOP_TRIALS, count // 2))
    return PedAnovaImportanceEvaluator(target_quantile=top / count), top


def importances(study: optuna.Study) -> dict[str, float]:
    """Each setting's share, the largest first, as the figure has it."""
    evaluator, _ = _evaluator(len(complete(study)))
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _importance(level: _Level, title: str) -> Section:
    section = functools.partial(Section, anchor="importance", title=title)
    if level.count < FEWEST:
        return section(reading=f"{level.count} measured trials are too few: it takes {FEWEST}.")
    metrics = [metric for metric in (*level.sweep.metrics, *level.sweep.limiting) if level.differs(metric)]
    evaluator, top = _evaluator(level.count)
    figure = None
    for metric, colour in zip(metrics, (*BEST_COLOURS, INK, "#7a4fb5"), strict=False):
        # One study a metric: in one of several objectives Optuna takes lower for better in all of them.
        part = visualization.plot_param_importances(level.study(metric), evaluator=evaluator)
        part.update_traces(name=LABEL[metric], marker={"color": colour})
        figure = part if figure is None else figure.add_traces(part.data)
    if figure is None:
        return section(reading="The trials differ in none of the metrics: no setting matters to them.")
    figure.update_xaxes(title_text="share of the importance", range=[0, 1.08])
    figure.update_yaxes(title_text="")
    bars = len(level.sweep.results.space.settings) * (1 + 0.6 * (len(metrics) - 1))
    return section(
        reading=f"How much a setting's values in the best {top} differ from those in all (PED-ANOVA)"
        f"{', of so few trials no more than a hint' if level.count < MANY else ''}. {_when(level)}.",
        plots=(plot(figure, title=title, height=round(90 + LINE_HEIGHT * bars), legend=len(metrics) > 1),),
    )


def _coordinates(level: _Level, title: str) -> Section:
    metrics = level.sweep.metrics
    study = level.sweep.at_step(level.step, metrics)
    # Of one objective a study has no names for it.
    figure = visualization.plot_parallel_coordinate(study, target_name=LABEL[metrics[0]])
    labels = [*(LABEL[metric] for metric in metrics), *sorted(level.sweep.results.space.settings)]
    figure.update_traces(line={"width": 2}, opacity=0.85, selector={"mode": "lines"})
    figure.update_xaxes(ticktext=[label.replace(".", ".<br>") for label in labels], tickangle=0)
    figure.update_annotations(bgcolor="rgba(255, 255, 255, 0.75)")
    for axis in range(len(metrics)):
        _sharpen(figure, axis, [trial.values[axis] for trial in complete(study)])
    if len(metrics) > 1:
        figure.update_traces(marker_colorbar_title_text="Pareto<br>rank", selector={"mode": "markers"})
    darker = "nearer to the front" if len(metrics) > 1 else "better"
    return Section(
        anchor="coordinates",
        title=title,
        reading=f"A line is a trial, through its score and its settings; the darker, the {darker}: where dark "
        f"lines meet on an axis, that value is good. {_when(level)}.",
        plots=(plot(figure, title=title, height=420, min_width=COLUMN_WIDTH * len(labels)),),
    )


def _sharpen(figure: go.Figure, axis: int, values: list[float]) -> None:
    """Give the numbers of a parallel axis the digits that tell its values apart: Optuna has 3 whatever the range."""
    low, span = min(values), max(values) - min(values)
    if span == 0:
        return
    digits = max(0, math.ceil(-math.log10(span / 40)))  # a tenth of what lies between its 5 ticks
    for annotation in figure.layout.annotations:
        if annotation.x == axis:
            annotation.text = f"{low + annotation.y * span:.{digits}f}"
    for line in figure.select_traces(selector={"mode": "lines"}):
        cells = [list(cell) for cell in line.customdata]
        cells[axis][1] = f"{low + line.y[axis] * span:.{digits}f}"
        line.customdata = cells


def _slices(level: _Level, title: str) -> Section:
    plots = []
    for metric in level.sweep.metrics:
        study = level.study(metric)
        for name in level.varied(metric):
            figure = visualization.plot_slice(study, params=[name], target_name=LABEL[metric])
            figure.update_traces(marker={"showscale": False, "size": 8})
            plots.append(plot(figure, title=f"{LABEL[metric]} by {name}", height=260))
    return Section(
        anchor="slices",
        title=title,
        reading="A point is a trial, the darker the later: a slope says which way a setting pulls, a cloud that it "
        f"hardly matters. {_when(level)}.",
        plots=tuple(plots),
        columns=True,
    )


def _contour(level: _Level, title: str) -> Section:
    section = functools.partial(Section, anchor="contour", title=title)
    plots = []
    for metric in level.sweep.metrics:
        varied = level.varied(metric)
        if level.count < FEWEST or len(varied) < 2 or not level.differs(metric):
            continue
        study = level.study(metric)
        names = [name for name in importances(study) if name in varied][:2]
        figure = visualization.plot_contour(study, params=names, target_name=LABEL[metric])
        figure.update_traces(marker={"size": 7}, selector={"type": "scatter"})
        for axis in (figure.layout.xaxis, figure.layout.yaxis):
            if axis.type == "log":
                axis.dtick = "D2"  # 1, 2, 5: all digits would lie on top of each other
        plots.append(plot(figure, title=f"{LABEL[metric]} by {' and '.join(names)}", height=420))
    if not plots:
        return section(reading=f"It takes {FEWEST} trials with different values of two settings.")
    return section(
        reading=f"The score is interpolated between the trials, the points; the darker, the better. {_when(level)}.",
        plots=tuple(plots),
        columns=len(plots) > 1,
    )
