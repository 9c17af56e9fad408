"""A sweep's page: the winner and how to train it, all trials in a table, figures of what they show, and pictures.

Its figures are drawn by plotly.js (:mod:`tecogan_dist.pages.charts`). The markup is in sweep.html.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from PIL import Image

from tecogan_dist.base.storage import Location
from tecogan_dist.metrics.names import HIGHER_IS_BETTER
from tecogan_dist.metrics.protocol import OFFICIAL, Images
from tecogan_dist.pages.data_uris import data_uri
from tecogan_dist.pages.pictures import Picture
from tecogan_dist.pages.sweep_course import front, history, learning_curves, timeline
from tecogan_dist.pages.sweep_lineage import lineage_sections
from tecogan_dist.pages.sweep_pictures import Showing
from tecogan_dist.pages.sweep_plots import Section, Sweep, quiet_optuna
from tecogan_dist.pages.sweep_settings import settings_sections
from tecogan_dist.pages.templates import render
from tecogan_dist.pages.values import LABEL, UNIT, format_value
from tecogan_dist.tuning.ranking import excesses
from tecogan_dist.tuning.records import SweepResults, TrialRecord
from tecogan_dist.tuning.results import measured_metrics, value_text
from tecogan_dist.tuning.space import Score

PAGE_FILE = "sweep.html"
SHORT = {metric: label.partition(" ")[0] for metric, label in LABEL.items()}
"""A metric's name without its unit."""
PROFILE_HEIGHT = 120
"""About so many pixels each temporal profile is high."""


def write_sweep_page(
    output: Location,
    results: SweepResults,
    study: optuna.Study,
    pictures: Sequence[Showing],
    *,
    title: str,
    command: str,
    wandb: str = "",
) -> Location:
    """Write sweep.html into the folder ``output``, local or remote; the rest as in :func:`render_sweep`.

    A file of that name is replaced. Returns its place; raises :class:`UserError` if it cannot be written.
    """
    page = render_sweep(results, study, pictures, title=title, command=command, wandb=wandb)
    (output / PAGE_FILE).write_bytes(page.encode("utf-8"))
    return output / PAGE_FILE


def render_sweep(
    results: SweepResults,
    study: optuna.Study,
    pictures: Sequence[Showing],
    *,
    title: str,
    command: str,
    wandb: str = "",
) -> str:
    """The page, to be written as UTF-8. It is about 5 MB, most of it plotly.js, without the pictures.

    ``study`` is :func:`tecogan_dist.tuning.study.study_of` of the results, ``pictures`` are those of
    :func:`tecogan_dist.pages.sweep_pictures.showings`, ``command`` trains the winner at full length, and ``wandb`` is
    the address of the sweep at W&B, if it is there.
    """
    sweep = Sweep(results, study)
    with quiet_optuna():
        sections = _sections(sweep)
    return render(
        "sweep.html",
        {
            "title": title,
            "command": command,
            "wandb": wandb,
            "results": results,
            "sweep": sweep,
            "sections": sections,
            "metrics": _metrics(results),
            "settings": list(results.space.settings),
            "cards": _cards(results),
            "repeated": _repeated(sweep),
            "score": score_in_words(results.space.score),
            "protocol": OFFICIAL,
            "left_out": [trial for trial in results.trials if trial.number not in results.ranking],
            "how_it_ended": _how_it_ended,
            "broken": lambda values: _broken(results.space.score, values),
            "gallery": _gallery(pictures),
            "label": LABEL,
            "arrow": {metric: "↑" if metric in HIGHER_IS_BETTER else "↓" for metric in LABEL},
        },
        charts=True,
        filters={"value": format_value, "setting": functools.partial(value_text, digits=4)},
    )


def _sections(sweep: Sweep) -> list[Section]:
    pareto = front(sweep)
    return [
        history(sweep),
        learning_curves(sweep),
        *settings_sections(sweep),
        *([] if pareto is None else [pareto]),
        timeline(sweep),
        *lineage_sections(sweep),
    ]


def score_in_words(score: Score) -> str:
    """What makes a trial better than another, as the end of a sentence."""
    better = {metric: f"{'higher' if side == 'max' else 'lower'} is better" for metric, side in score.metrics.items()}
    if score.combine == "one":
        (metric,) = score.metrics
        words = f"{SHORT[metric]}, {better[metric]}"
    elif score.combine == "ranks":
        parts = [
            f"{SHORT[metric]} ({side}, weight {score.weights.get(metric, 1.0):g})" for metric, side in better.items()
        ]
        words = f"the weighted sum of the ranks in {_and(parts)}; lower is better"
    else:
        parts = [f"{SHORT[metric]} ({side})" for metric, side in better.items()]
        words = f"{_and(parts)} at once: first the trials that no other one is better than in everything"
    if not score.limits:
        return f"{words}."
    kept = [
        f"{SHORT[metric]} of at {'least' if metric in HIGHER_IS_BETTER else 'most'} {limit:g}{UNIT[metric]}"
        for metric, limit in score.limits.items()
    ]
    return f"{words}. Trials with {_and(kept)} come before all others."


def _and(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def _metrics(results: SweepResults) -> list[str]:
    """The metrics of the table: those of the score first."""
    records = [*results.trials, *([results.preset] if results.preset else [])]
    return measured_metrics(records, first=tuple(results.space.score.metrics))


def _broken(score: Score, values: Mapping[str, float]) -> set[str]:
    """The metrics whose limits are broken."""
    if not score.limits.keys() <= values.keys():
        return set()
    return {metric for metric, over in excesses(score, values).items() if over > 0}


@dataclass(frozen=True)
class _Card:
    """A metric of the winner, and how far it is from the preset: ``good`` or ``bad``, or neither."""

    metric: str
    value: float
    preset: float | None
    difference: str
    kind: str


def _cards(results: SweepResults) -> list[_Card]:
    if not results.ranking:
        return []
    winner = next(trial for trial in results.trials if trial.number == results.ranking[0])
    reference = {} if results.preset is None else results.preset.last
    cards = []
    for metric in _metrics(results):
        if metric not in winner.last:
            continue
        value, before = winner.last[metric], reference.get(metric)
        gain = 0.0 if before is None else (value - before) * (1 if metric in HIGHER_IS_BETTER else -1)
        difference = "" if before is None else _signed(value - before, metric)
        kind = "" if gain == 0 or math.isnan(gain) else "good" if gain > 0 else "bad"
        cards.append(_Card(metric, value, before, difference, kind))
    return cards


def _signed(difference: float, metric: str) -> str:
    sign = "+" if difference >= 0 else "\N{MINUS SIGN}"
    return f"{sign}{format_value(abs(difference), metric)}"


def _repeated(sweep: Sweep) -> list[tuple[str, int, dict[str, str]]]:
    """Name, number of seeds, and each metric's mean and deviation, of what was trained again."""
    rows = []
    for found in sweep.results.repeated:
        name = "preset" if found.number is None else sweep.name(found.number)
        cells = {metric: _spread(metric, mean, found.deviation[metric]) for metric, mean in found.mean.items()}
        rows.append((name, len(found.seeds), cells))
    return rows


def _spread(metric: str, mean: float, deviation: float) -> str:
    """Mean and deviation; of a single seed the value."""
    value = format_value(mean, metric)
    return value if math.isnan(deviation) else f"{value} ± {format_value(deviation, metric)}"


def _how_it_ended(trial: TrialRecord) -> str:
    """The state in words, with its reason."""
    words = {"waiting": "not begun", "running": "not finished"}.get(trial.state, trial.state)
    if not trial.reason:
        return words
    reason = trial.reason.removesuffix(f" after step {trial.step}")  # which has a column of its own
    return reason if reason.startswith(words) else f"{words}: {reason}"


@dataclass(frozen=True)
class _Gallery:
    """The pictures: by label the whole middle frame, the detail in each frame, the profile, ``zoom`` pixels a frame.

    ``mark`` is where the detail is, and ``line`` where the profile's row is, as CSS lengths.
    """

    first: Showing
    frames: list[Picture]
    details: list[tuple[int, list[Picture]]]
    profiles: list[Picture]
    zoom: int
    mark: str
    line: str


def _gallery(showings: Sequence[Showing]) -> _Gallery | None:
    if not showings:
        return None
    first = showings[0]
    middle = len(first.positions) // 2
    height, width = first.frames[middle].shape[:2]
    y, x, side = first.detail
    details = [
        (position, [_picture(shown.label, shown.frames[i][y : y + side, x : x + side]) for shown in showings])
        for i, position in enumerate(first.positions)
    ]
    inset = (y / height, 1 - (x + side) / width, 1 - (y + side) / height, x / width)
    return _Gallery(
        first=first,
        frames=[_picture(shown.label, shown.frames[middle]) for shown in showings],
        details=details,
        profiles=[_picture(shown.label, shown.profile) for shown in showings],
        zoom=max(1, PROFILE_HEIGHT // len(first.profile)),
        mark="inset: " + " ".join(f"{100 * share:.3f}%" for share in inset),
        line=f"top: {100 * (first.row + 0.5) / height:.3f}%",
    )


def _picture(label: str, pixels: Images) -> Picture:
    # PNG, whole: what JPEG does to detail looks like what a network does.
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return Picture(label, data_uri(image, "PNG"), image.width, image.height)
