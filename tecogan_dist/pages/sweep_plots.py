"""What the figures of a sweep are made from, and how they look."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from tecogan_dist.metrics.names import HIGHER_IS_BETTER
from tecogan_dist.pages.charts import FONT, Figure
from tecogan_dist.pages.values import LABEL
from tecogan_dist.tuning.ranking import excesses
from tecogan_dist.tuning.records import SweepResults, TrialRecord

INK, SOFT, PALE = "#1b1f27", "#7a8494", "#b4bfd0"
ACCENT, ALARM = "#2457c5", "#b3261e"
BEST_COLOURS = (ACCENT, "#c25a00", "#1b8a5a")
"""Of the first, second and third."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Figures of one kind, with how to read them. Without any, ``reading`` says why there is none."""

    anchor: str
    title: str
    reading: str
    plots: tuple[Figure, ...] = ()
    folded: tuple[Figure, ...] = ()
    """Of what does not count for the score."""
    columns: bool = False
    """Small figures beside each other."""


@dataclass(frozen=True)
class Sweep:
    """Results with the study of them, whose trials have the same numbers."""

    results: SweepResults
    study: optuna.Study

    @property
    def metrics(self) -> tuple[str, ...]:
        """What counts for the score."""
        return tuple(self.results.space.score.metrics)

    @property
    def limiting(self) -> tuple[str, ...]:
        """What has a limit and does not count otherwise."""
        score = self.results.space.score
        return tuple(metric for metric in score.limits if metric not in score.metrics)

    @property
    def ranked(self) -> dict[int, TrialRecord]:
        """By number, the best first."""
        records = {record.number: record for record in self.results.trials}
        return {number: records[number] for number in self.results.ranking}

    def name(self, number: int) -> str:
        """``trial 7 (rank 1)``."""
        if number not in self.results.ranking:
            return f"trial {number}"
        return f"trial {number} (rank {self.results.ranking.index(number) + 1})"

    def direction(self, metric: str) -> Literal["minimize", "maximize"]:
        """Optuna's name for where a metric is better."""
        for scored, direction in self.results.space.score.metrics.items():
            if scored == metric:
                return "maximize" if direction == "max" else "minimize"
        return "maximize" if metric in HIGHER_IS_BETTER else "minimize"

    def at_step(self, step: int, metrics: Sequence[str], *, limited: bool = False) -> optuna.Study:
        """The ranked trials as they were then, complete if they had been measured; ``metrics`` are the objectives.

        ``limited``: the score's limits are Optuna's constraints.
        """
        score, ranked = self.results.space.score, self.ranked
        study = optuna.create_study(directions=[self.direction(metric) for metric in metrics])
        study.set_metric_names([LABEL[metric] for metric in metrics])
        for trial in self.study.get_trials(deepcopy=False):
            record = ranked.get(trial.number)
            measured = record.scores.get(step, {}) if record else {}
            values = [measured.get(metric, math.nan) for metric in metrics]
            known = all(math.isfinite(value) for value in values)
            study.add_trial(
                optuna.create_trial(
                    state=TrialState.COMPLETE if known else TrialState.FAIL,
                    values=values if known else None,
                    params=trial.params,
                    distributions=trial.distributions,
                    constraints=excesses(score, measured) if known and limited else None,
                )
            )
        return study


def complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without its warnings of experimental functions and of studies with little in them: the page says that itself."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def plot(figure: go.Figure, *, title: str, height: int, min_width: int = 0, legend: bool = False) -> Figure:
    """A figure in the page's looks, always on white, so that colours mean the same at night.

    ``title`` is what a screen reader says of it: to the eye, the section and the axes say the same.
    """
    figure.update_layout(
        template="plotly_white",
        title_text="",
        width=None,
        height=height,
        font={"family": FONT, "size": 12, "color": INK},
        margin={"l": 12, "r": 16, "t": 40 if legend else 14, "b": 12},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom", "title_text": ""},
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(automargin=True, title_standoff=8, exponentformat="none")
    figure.update_yaxes(automargin=True, title_standoff=8, exponentformat="e")
    # Else a logarithmic axis has lone digits between its powers of ten.
    figure.update_xaxes(tickformat="~g", selector={"type": "log"})
    figure.update_yaxes(tickformat="~g", selector={"type": "log"})
    return Figure(
        title=title, content=figure.to_json(), height=height, min_width=min_width, on_white=True, titled=False
    )
