"""Which trial is best, and whether that is more than chance: pure functions of what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tecogan_dist.metrics.names import COLUMN, HIGHER_IS_BETTER
from tecogan_dist.tuning.records import Repeated, SweepResults, TrialRecord
from tecogan_dist.tuning.space import Score, Space

BROKEN = 1e4
"""Added to the merit of values that break a limit: more than any of the metrics reaches (tOF is in pixels of frames of
at most 512), and little enough to leave digits for how far a value is off."""
FEW_SEEDS = 4
"""The standard deviation of n trainings is itself uncertain by about 1 / sqrt(2 (n - 1)) of it: half of it for 3."""


def merit(score: Score, values: Mapping[str, float], metric: str | None = None) -> float:
    """One number of a measurement, lower is better, for schedulers and searchers that steer by one.

    It is ``metric``, negated if more is better, compared plainly; None: the score's only metric, with its limits.
    Values that break a limit then come after all that keep them, by how far they are off: the rule of Deb, "An
    efficient constraint handling method for genetic algorithms", 2000, section 3.
    """
    if metric is not None:
        return signed(score, metric, values)
    (only,) = score.metrics
    off = excess(score, values)
    return BROKEN + off if off else signed(score, only, values)


def signed(score: Score, metric: str, values: Mapping[str, float]) -> float:
    """The value of a metric, negated if more is better: lower is better.

    The score says the direction; of a metric that it does not have it is the usual one.
    """
    directions: Mapping[Any, str] = score.metrics
    direction = directions.get(metric, "max" if metric in HIGHER_IS_BETTER else "min")
    return -values[metric] if direction == "max" else values[metric]


def excesses(score: Score, values: Mapping[str, float]) -> dict[str, float]:
    """How far each limit is overstepped, as a fraction of it (of a limit of 0: plainly); not above 0 if it is kept."""
    over: dict[str, float] = {}
    for metric, limit in score.limits.items():
        off = limit - values[metric] if metric in HIGHER_IS_BETTER else values[metric] - limit
        over[metric] = off / (abs(limit) or 1.0)
    return over


def excess(score: Score, values: Mapping[str, float]) -> float:
    """The sum of what the limits are overstepped by; 0 if all are kept."""
    return math.fsum(max(0.0, over) for over in excesses(score, values).values())


def rank_sums(score: Score, values: Mapping[int, Mapping[str, float]]) -> dict[int, float]:
    """The weighted sum of each trial's ranks in the score's metrics, from 1 on; equal values share their mean rank."""
    from scipy.stats import rankdata  # it takes a second, and trials import this module

    numbers = list(values)
    sums = np.zeros(len(numbers))
    for metric in score.metrics:
        column = [signed(score, metric, values[number]) for number in numbers]
        sums += score.weights.get(metric, 1.0) * rankdata(column, method="average")
    return dict(zip(numbers, sums.tolist(), strict=True))


def rank(score: Score, trials: Iterable[TrialRecord]) -> tuple[int, ...]:
    """Numbers of the trials, best first, in an order that is total and depends on nothing but scores and numbers.

    Failed, running and waiting trials are left out, and those that were never measured. Scores at different steps
    cannot be compared: who got further comes first. Among equals in that, who keeps the limits comes before who does
    not (those by how far they are off), then the score decides: its value, the weighted sum of ranks among these
    trials, or the front of non-dominated sorting; then its first metric, then the number.
    """
    ranked = [trial for trial in trials if trial.state in ("complete", "stopped") and trial.scores]
    numbers: list[int] = []
    for step in sorted({trial.step for trial in ranked}, reverse=True):
        numbers += _order(score, {trial.number: trial.last for trial in ranked if trial.step == step})
    return tuple(numbers)


def pareto_front(score: Score, trials: Sequence[TrialRecord]) -> tuple[int, ...]:
    """Of the trials that got furthest, those that no other one is better than in everything, by rank.

    They keep the limits; if no trial does, they are among those that are least off.
    """
    by_number = {trial.number: trial for trial in trials}
    ranked = [by_number[number] for number in rank(score, trials)]
    furthest = {trial.number: trial.last for trial in ranked if trial.step == ranked[0].step}
    off = {number: excess(score, values) for number, values in furthest.items()}
    best = {number: values for number, values in furthest.items() if off[number] == min(off.values())}
    front = _fronts(score, best)
    return tuple(number for number in best if front[number] == 0)


def _order(score: Score, values: Mapping[int, Mapping[str, float]]) -> list[int]:
    """Trials that can be compared, best first."""
    first = next(iter(score.metrics))
    off = {number: excess(score, values[number]) for number in values}
    place: dict[int, float] = {}
    if score.combine == "ranks":
        place = rank_sums(score, values)
    elif score.combine == "pareto":
        for level in set(off.values()):  # dominance counts only between those that keep the limits equally well
            place |= _fronts(score, {number: values[number] for number in values if off[number] == level})
    return sorted(
        values,
        key=lambda number: (off[number], place.get(number, 0.0), signed(score, first, values[number]), number),
    )


def _fronts(score: Score, values: Mapping[int, Mapping[str, float]]) -> dict[int, int]:
    """The front of each trial: 0 for those that none dominates, 1 for those that only these do, and so on."""
    points = {number: [signed(score, metric, values[number]) for metric in score.metrics] for number in values}
    fronts: dict[int, int] = {}
    while len(fronts) < len(points):
        left = points.keys() - fronts.keys()
        free = [a for a in left if not any(_dominates(points[b], points[a]) for b in left)]
        fronts |= dict.fromkeys(free, max(fronts.values(), default=-1) + 1)
    return fronts


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a is nowhere worse than b, and somewhere better."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def repeated(repeats: Sequence[TrialRecord], *, ranking: Sequence[int]) -> tuple[Repeated, ...]:
    """Mean and spread over the seeds of each trial that was trained again: the preset first, then by rank.

    Only trainings that came to their end count; a trial with none is left out.
    """
    found = []
    for number in (None, *ranking):
        ended = [record for record in repeats if record.repeats == number and record.state == "complete"]
        if ended:
            columns = {metric: [record.last[metric] for record in ended] for metric in ended[0].last}
            found.append(
                Repeated(
                    number=number,
                    seeds=tuple(record.seed for record in ended),
                    mean={metric: statistics.fmean(column) for metric, column in columns.items()},
                    deviation={metric: _deviation(column) for metric, column in columns.items()},
                )
            )
    return tuple(found)


def _deviation(column: Sequence[float]) -> float:
    # PSNR is infinite where a frame is black in the truth and in the result.
    return statistics.stdev(column) if len(column) > 1 and all(map(math.isfinite, column)) else math.nan


def verdict(score: Score, *, ranking: Sequence[int], repeats: Sequence[TrialRecord]) -> str:
    """Whether the winner of the search differs from the preset by more than chance, in words; empty without repeats.

    The measure is the standard deviation of a difference of two single trainings, ``sqrt(s_w^2 + s_p^2)``: means over
    the seeds that are further apart than that differ.
    """
    if not repeats or not ranking:
        return ""
    means = {found.number: found for found in repeated(repeats, ranking=ranking)}
    ours, preset = means.get(ranking[0]), means.get(None)
    if ours is None or preset is None:
        sentences = [f"Whether trial {ranking[0]} is better than the preset cannot be told."]
    else:
        sentences = _comparisons(score, ours, preset)
        sentences += _broken_limits(score, ours)
        sentences += _better_on_average(score, ours, means)
        fewest = min(len(ours.seeds), len(preset.seeds))
        if 1 < fewest < FEW_SEEDS:
            sentences.append(f"A spread of {fewest} seeds is a rough estimate.")
    return " ".join([*sentences, *_missing(repeats, ranking[0])])


def _comparisons(score: Score, ours: Repeated, preset: Repeated) -> list[str]:
    """A sentence for each metric of the score."""
    counts = {len(ours.seeds), len(preset.seeds)}
    seeds = f"{len(ours.seeds)} seed{'s' if counts != {1} else ''}"
    if len(counts) > 1:
        seeds = f"{len(ours.seeds)} and {len(preset.seeds)} seeds"
    sentences = []
    for metric in score.metrics:
        where, what = (f" in {COLUMN[metric]}", "") if len(score.metrics) > 1 else ("", f"{COLUMN[metric]} ")
        gain = signed(score, metric, preset.mean) - signed(score, metric, ours.mean)
        spread = math.hypot(ours.deviation[metric], preset.deviation[metric])
        if math.isnan(spread):
            why = " from a single seed" if 1 in counts else ""
            finding = f"Whether trial {ours.number} is better than the preset{where} cannot be told{why}"
        elif abs(gain) > spread:
            finding = f"Trial {ours.number} is {'better' if gain > 0 else 'worse'} than the preset{where}"
        else:
            finding = f"Trial {ours.number} shows no difference{where} from the preset that can be told from chance"
        sentences.append(
            f"{finding}: {what}{figures(metric, ours)} against {figures(metric, preset)} over {seeds}"
            f"{_times(abs(gain), spread)}."
        )
    return sentences


def _times(gain: float, spread: float) -> str:
    if math.isnan(spread):
        return ""
    if spread == 0:
        return ", without any spread"
    return f", a difference of {gain / spread:.1f} times the spread"


def _broken_limits(score: Score, ours: Repeated) -> list[str]:
    over = excesses(score, ours.mean)
    return [
        f"Its {COLUMN[metric]} is {number_text(metric, ours.mean[metric])} on average, "
        f"{'below' if metric in HIGHER_IS_BETTER else 'above'} the limit of {limit:g}."
        for metric, limit in score.limits.items()
        if over[metric] > 0
    ]


def _better_on_average(score: Score, ours: Repeated, means: Mapping[int | None, Repeated]) -> list[str]:
    """The search chose by one training of each trial; the repeats may see it otherwise."""
    if score.combine == "pareto":
        return []
    best, *_ = _order(score, {number: found.mean for number, found in means.items() if number is not None})
    return [] if best == ours.number else [f"Of the repeated trials, trial {best} is the best on average."]


def _missing(repeats: Sequence[TrialRecord], winner: int) -> list[str]:
    """What the comparison lacks."""
    sentences = []
    for number, name in ((winner, f"trial {winner}"), (None, "the preset")):
        states = [record.state for record in repeats if record.repeats == number]
        failed = states.count("failed")
        to_come = len(states) - failed - states.count("complete")
        if not states:
            sentences.append(f"There are no repeats of {name}.")
        if failed:
            sentences.append(f"{failed} of {len(states)} repeats of {name} failed.")
        if to_come:
            sentences.append(f"{to_come} of {len(states)} repeats of {name} {'is' if to_come == 1 else 'are'} to come.")
    return sentences


def figures(metric: str, found: Repeated) -> str:
    """Mean and spread, ``0.0812 +- 0.0011``; of a single seed the value."""
    deviation = found.deviation[metric]
    if math.isnan(deviation):
        return number_text(metric, found.mean[metric])
    # Two digits of the spread, or it could read 0.0000.
    digits = 1 - math.floor(math.log10(deviation)) if deviation else 0
    digits = max(_decimals(metric), digits)
    return f"{found.mean[metric]:.{digits}f} +- {deviation:.{digits}f}"


def number_text(metric: str, value: float) -> str:
    """A metric's value with its usual number of decimals."""
    return f"{value:.{_decimals(metric)}f}"


def _decimals(metric: str) -> int:
    return 2 if metric == "psnr" else 4


def summarise(
    space: Space,
    *,
    preset_values: dict[str, Any],
    trials: Iterable[TrialRecord],
    preset: TrialRecord | None,
    repeats: Sequence[TrialRecord],
    bicubic: dict[str, float],
) -> SweepResults:
    """All that follows from the trainings of a sweep, also while it still runs."""
    trials = tuple(sorted(trials, key=lambda trial: trial.number))
    ranking = rank(space.score, trials)
    return SweepResults(
        space=space,
        preset_values=preset_values,
        trials=trials,
        preset=preset,
        repeats=tuple(repeats),
        ranking=ranking,
        front=pareto_front(space.score, trials) if space.score.combine == "pareto" else (),
        repeated=repeated(repeats, ranking=ranking),
        verdict=verdict(space.score, ranking=ranking, repeats=repeats),
        bicubic=bicubic,
    )
