"""Who is best, and whether that is chance: against formulas written another way."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Mapping, Sequence

import pytest

from tecogan_dist.tuning.ranking import (
    excess,
    excesses,
    merit,
    pareto_front,
    rank,
    rank_sums,
    repeated,
    summarise,
    verdict,
)
from tecogan_dist.tuning.records import Segment, SweepResults, TrialRecord, TrialState
from tecogan_dist.tuning.space import Distribution, Repeat, Score, Space

TOF = Score(metrics={"tof": "min"})
LIMITED = Score(metrics={"tof": "min"}, limits={"lpips": 0.2, "psnr": 30.0})
BOTH = Score(metrics={"tof": "min", "psnr": "max"}, combine="pareto")
RANKS = dataclasses.replace(BOTH, combine="ranks")


def trial(
    number: int, scores: Mapping[int, dict[str, float]], state: TrialState = "complete", *, seed: int = 1
) -> TrialRecord:
    segment = Segment(values={"loss.warp": float(number)}, first_step=0)
    return TrialRecord(number=number, seed=seed, segments=(segment,), state=state, scores=dict(scores))


def complete(*scores: dict[str, float]) -> list[TrialRecord]:
    return [trial(number, {100: values}) for number, values in enumerate(scores)]


def drawn(count: int, *, seed: int, levels: int = 6) -> list[dict[str, float]]:
    """Coarse values, so that many are equal."""
    draw = random.Random(seed)
    return [
        {
            "tof": draw.randrange(1, levels) / 10,
            "psnr": 27.0 + draw.randrange(levels),
            "lpips": draw.randrange(1, levels) / 20,
        }
        for _ in range(count)
    ]


def test_merit_is_lower_for_better_values() -> None:
    assert merit(TOF, {"tof": 0.1, "psnr": 20}) == 0.1
    assert merit(Score(metrics={"psnr": "max"}), {"psnr": 30.5}) == -30.5
    assert merit(BOTH, {"tof": 0.1, "psnr": 20}, "psnr") == -20
    assert merit(BOTH, {"tof": 0.1, "psnr": 20, "ssim": 0.5, "tlp": 3}, "ssim") == -0.5
    assert merit(BOTH, {"tof": 0.1, "psnr": 20, "ssim": 0.5, "tlp": 3}, "tlp") == 3


def test_merit_puts_what_breaks_a_limit_behind_all_that_keep_it() -> None:
    bad = {"tof": 900.0, "lpips": 0.2, "psnr": 30.0}  # at the limits: kept
    barely = {"tof": 0.0, "lpips": 0.2000001, "psnr": 50.0}
    more = {"tof": 0.0, "lpips": 0.1, "psnr": 27.0}  # by 10 %
    most = {"tof": 0.0, "lpips": 0.22, "psnr": 27.0}  # by 10 % of each
    merits = [merit(LIMITED, values) for values in (bad, barely, more, most)]
    assert merits == sorted(merits)
    assert len(set(merits)) == 4
    assert merit(LIMITED, barely, "tof") == 0.0  # a metric that is named is compared plainly


def test_excess_is_relative_and_adds_up() -> None:
    values = {"tof": 0.0, "lpips": 0.25, "psnr": 27.0}
    assert excess(LIMITED, values) == pytest.approx(0.05 / 0.2 + 3 / 30)
    assert excesses(LIMITED, {"lpips": 0.1, "psnr": 33.0}) == pytest.approx({"lpips": -0.5, "psnr": -0.1})
    assert excess(LIMITED, {"lpips": 0.1, "psnr": 33.0}) == 0
    assert excess(Score(metrics={"tof": "min"}, limits={"tlp": 0.0}), {"tlp": 0.5}) == 0.5


def test_only_trials_that_ended_and_were_measured_are_ranked_those_that_got_further_first() -> None:
    trials = [
        trial(0, {50: {"tof": 0.1}}, "stopped"),
        trial(1, {50: {"tof": 0.9}, 100: {"tof": 0.8}}),
        trial(2, {50: {"tof": 0.05}, 100: {"tof": 0.05}}, "failed"),
        trial(3, {}, "stopped"),
        trial(4, {50: {"tof": 0.01}}, "running"),
        trial(5, {}, "waiting"),
        trial(6, {50: {"tof": 0.05}}, "stopped"),
        trial(7, {100: {"tof": 0.7}}),
    ]
    assert rank(TOF, trials) == (7, 1, 6, 0)
    assert rank(TOF, []) == rank(TOF, [trials[2]]) == ()


def test_one_metric_with_limits_by_debs_rule() -> None:
    trials = complete(
        {"tof": 0.3, "lpips": 0.1, "psnr": 31.0},
        {"tof": 0.1, "lpips": 0.3, "psnr": 31.0},  # off by half
        {"tof": 0.2, "lpips": 0.2, "psnr": 30.0},
        {"tof": 0.5, "lpips": 0.21, "psnr": 31.0},  # off by a 20th
        {"tof": 0.2, "lpips": 0.2, "psnr": 30.0},
        {"tof": 0.4, "lpips": 0.21, "psnr": 31.0},
    )
    assert rank(LIMITED, trials) == (2, 4, 0, 5, 3, 1)


@pytest.mark.parametrize("seed", range(5))
def test_weighted_ranks_are_a_count_of_who_is_better(seed: int) -> None:
    score = Score(
        metrics={"tof": "min", "psnr": "max", "lpips": "min"}, combine="ranks", weights={"psnr": 0.5, "lpips": 3.0}
    )
    points = drawn(12, seed=seed)

    def sum_of_ranks(own: dict[str, float]) -> float:
        total = 0.0
        for name, sign, weight in (("tof", 1, 1.0), ("psnr", -1, 0.5), ("lpips", 1, 3.0)):
            better = sum(sign * other[name] < sign * own[name] for other in points)
            equal = sum(other[name] == own[name] for other in points)
            total += weight * (better + (equal + 1) / 2)
        return total

    sums = {number: sum_of_ranks(own) for number, own in enumerate(points)}
    assert rank_sums(score, dict(enumerate(points))) == pytest.approx(sums)
    expected = sorted(sums, key=lambda number: (sums[number], points[number]["tof"], number))
    assert rank(score, complete(*points)) == tuple(expected)


def test_limits_come_before_ranks() -> None:
    points = ({"tof": 0.1, "psnr": 25.0}, {"tof": 0.4, "psnr": 29.0}, {"tof": 0.3, "psnr": 28.0})
    limited = dataclasses.replace(RANKS, limits={"psnr": 28.0})
    # Sums of ranks: 1 + 3, 3 + 1, 2 + 2: ties are settled by the first metric.
    assert rank(RANKS, complete(*points)) == (0, 2, 1)
    assert rank(limited, complete(*points)) == (2, 1, 0)


def dominates(a: dict[str, float], b: dict[str, float]) -> bool:
    nowhere_worse = a["tof"] <= b["tof"] and a["psnr"] >= b["psnr"]
    return nowhere_worse and (a["tof"] < b["tof"] or a["psnr"] > b["psnr"])


@pytest.mark.parametrize("seed", range(5))
def test_fronts_are_those_of_brute_force(seed: int) -> None:
    points = drawn(14, seed=seed)
    trials = complete(*points)
    left, expected, first_front = dict(enumerate(points)), [], None
    while left:
        front = [a for a in left if not any(dominates(left[b], left[a]) for b in left)]
        front.sort(key=lambda number: (points[number]["tof"], number))
        first_front = first_front or tuple(front)
        expected += front
        left = {number: point for number, point in left.items() if number not in front}
    assert rank(BOTH, trials) == tuple(expected)
    assert pareto_front(BOTH, trials) == first_front


def test_the_front_is_of_those_that_got_furthest_and_keep_the_limits() -> None:
    score = dataclasses.replace(BOTH, limits={"psnr": 28.0})
    trials = [
        *complete(
            {"tof": 0.3, "psnr": 29.0},
            {"tof": 0.1, "psnr": 21.0},
            {"tof": 0.2, "psnr": 28.0},
            {"tof": 0.4, "psnr": 28.5},
        ),
        trial(4, {50: {"tof": 0.01, "psnr": 40.0}}, "stopped"),
        trial(5, {100: {"tof": 0.01, "psnr": 40.0}}, "failed"),
    ]
    assert pareto_front(score, trials) == (2, 0)
    assert rank(score, trials) == (2, 0, 3, 1, 4)
    assert pareto_front(score, [trials[1], trials[4]]) == (1,)  # none keeps the limits
    assert pareto_front(score, [trials[5]]) == ()


@pytest.mark.parametrize("score", [TOF, BOTH, RANKS], ids=lambda score: score.combine)
def test_the_order_is_total_and_does_not_depend_on_that_of_the_trials(score: Score) -> None:
    score = dataclasses.replace(score, limits={"lpips": 0.1})
    trials = complete(*drawn(20, seed=7, levels=4))
    order = rank(score, trials)
    assert sorted(order) == list(range(20))
    off = [excess(score, trials[number].last) for number in order]
    assert off == sorted(off)
    assert off[0] == 0 < off[-1]
    for seed in range(5):
        shuffled = random.Random(seed).sample(trials, len(trials))
        assert rank(score, shuffled) == order
        assert pareto_front(score, shuffled) == pareto_front(score, trials)


def test_equal_trials_are_ranked_by_number() -> None:
    trials = complete(*[{"tof": 0.25, "psnr": 28.0}] * 3)
    for score in (TOF, BOTH, RANKS):
        assert rank(score, reversed(trials)) == (0, 1, 2)
    assert pareto_front(BOTH, trials) == (0, 1, 2)


def again(
    number: int | None, column: Sequence[float | None], *, psnr: float = 30.0, state: TrialState = "failed"
) -> list[TrialRecord]:
    """Repeats of a trial with these last tOF, their PSNR 1 dB apart; None: one that is in ``state``."""
    return [
        TrialRecord(
            number=index,
            role="repeat",
            repeats=number,
            seed=100 + index,
            segments=(Segment(values={}, first_step=0),),
            state=state if tof is None else "complete",
            scores={} if tof is None else {50: {"tof": 9.0, "psnr": 1.0}, 100: {"tof": tof, "psnr": psnr + index}},
        )
        for index, tof in enumerate(column)
    ]


def test_repeats_are_the_preset_first_then_by_rank() -> None:
    records = [*again(2, [0.1, 0.2, 0.4]), *again(None, [0.5, 0.7]), *again(0, [0.3, None]), *again(1, [None])]
    preset, first, second = repeated(records, ranking=(2, 1, 0))
    assert (preset.number, first.number, second.number) == (None, 2, 0)
    assert first.seeds == (100, 101, 102)
    assert first.mean == pytest.approx({"tof": 0.7 / 3, "psnr": 31.0})
    assert first.deviation == pytest.approx({"tof": statistics.stdev([0.1, 0.2, 0.4]), "psnr": 1.0})
    assert second.mean["tof"] == 0.3
    assert math.isnan(second.deviation["tof"])


def test_a_winner_beyond_the_spread_is_better() -> None:
    records = [*again(7, [0.080, 0.081, 0.082]), *again(None, [0.088, 0.090, 0.092])]
    # means 0.081 and 0.090, deviations 0.001 and 0.002: 0.009 / sqrt(0.001^2 + 0.002^2) = 4.02
    assert verdict(TOF, ranking=(7, 3), repeats=records) == (
        "Trial 7 is better than the preset: tOF 0.0810 +- 0.0010 against 0.0900 +- 0.0020 over 3 seeds, a difference "
        "of 4.0 times the spread. A spread of 3 seeds is a rough estimate."
    )
    swapped = [*again(7, [0.088, 0.090, 0.092, 0.09]), *again(None, [0.080, 0.081, 0.082, 0.081])]
    worse = verdict(TOF, ranking=(7,), repeats=swapped)
    assert worse.startswith("Trial 7 is worse than the preset: tOF 0.0900 +- 0.0016 against 0.08100 +- 0.00082")
    assert "rough" not in worse


def test_more_is_better_where_the_metric_says_so() -> None:
    score = Score(metrics={"psnr": "max"})
    repeats = [*again(1, [0.1, 0.1], psnr=34.0), *again(None, [0.1, 0.1], psnr=32.0)]
    assert verdict(score, ranking=(1,), repeats=repeats).startswith(
        "Trial 1 is better than the preset: PSNR 34.50 +- 0.71 against 32.50 +- 0.71 over 2 seeds, a difference of 2.0"
    )


def test_a_difference_within_the_spread_is_chance() -> None:
    records = [*again(7, [0.080, 0.090, 0.100, 0.090]), *again(None, [0.085, 0.095, 0.090, 0.094])]
    text = verdict(TOF, ranking=(7,), repeats=records)
    assert text.startswith("Trial 7 shows no difference from the preset that can be told from chance: tOF 0.0900 +- ")
    assert text.endswith("a difference of 0.1 times the spread.")


def test_failed_repeats_and_single_seeds_are_said() -> None:
    records = [*again(7, [0.08, None, None]), *again(None, [0.10, 0.12, None])]
    assert verdict(TOF, ranking=(7,), repeats=records) == (
        "Whether trial 7 is better than the preset cannot be told from a single seed: tOF 0.0800 against 0.1100 +- "
        "0.0141 over 1 and 2 seeds. 2 of 3 repeats of trial 7 failed. 1 of 3 repeats of the preset failed."
    )
    none = [*again(7, [None, None]), *again(None, [0.10, None], state="running")]
    assert verdict(TOF, ranking=(7,), repeats=none) == (
        "Whether trial 7 is better than the preset cannot be told. 2 of 2 repeats of trial 7 failed. 1 of 2 repeats of "
        "the preset is to come."
    )
    assert verdict(TOF, ranking=(7,), repeats=again(7, [0.1])).endswith("There are no repeats of the preset.")


def test_without_repeats_or_a_winner_there_is_no_verdict() -> None:
    assert verdict(TOF, ranking=(7,), repeats=[]) == ""
    assert verdict(TOF, ranking=(), repeats=again(None, [0.1, 0.2])) == ""


def test_repeats_that_are_all_equal_have_no_spread_to_count_in() -> None:
    records = [*again(7, [0.25, 0.25]), *again(None, [0.5, 0.5])]
    assert "better than the preset: tOF 0.2500 +- 0.0000 against 0.5000 +- 0.0000 over 2 seeds, without any" in (
        verdict(TOF, ranking=(7,), repeats=records)
    )
    same = [*again(7, [0.3, 0.3, 0.3]), *again(None, [0.3, 0.3, 0.3])]  # which has a rounding
    assert "no difference from the preset" in verdict(TOF, ranking=(7,), repeats=same)


def test_a_limit_that_is_broken_on_average_and_a_better_runner_up_are_said() -> None:
    score = Score(metrics={"tof": "min"}, limits={"psnr": 32.5})
    records = [*again(7, [0.08, 0.09, 0.10]), *again(3, [0.07, 0.08, 0.06]), *again(None, [0.2, 0.3, 0.25])]
    text = verdict(score, ranking=(7, 3), repeats=records)
    assert "Its PSNR is 31.00 on average, below the limit of 32.5." in text
    assert "Of the repeated trials, trial 3 is the best on average." in text
    kept = verdict(TOF, ranking=(3, 7), repeats=records)
    assert "limit" not in kept
    assert "on average" not in kept


def test_every_metric_of_the_score_has_a_sentence() -> None:
    records = [*again(7, [0.08, 0.09, 0.10]), *again(None, [0.2, 0.3, 0.25])]
    text = verdict(BOTH, ranking=(7,), repeats=records)
    assert "Trial 7 is better than the preset in tOF: 0.0900 +- 0.0100 against" in text
    assert "Trial 7 shows no difference in PSNR from the preset that can be told from chance: 31.00 +- 1.00 ag" in text


def test_infinite_psnr_is_ranked_and_has_no_spread() -> None:
    score = Score(metrics={"psnr": "max"}, limits={"psnr": 20.0})
    assert rank(score, complete({"psnr": 40.0}, {"psnr": math.inf}, {"psnr": 19.0})) == (1, 0, 2)
    repeats = [*again(1, [0.1, 0.1], psnr=math.inf), *again(None, [0.1, 0.1])]
    assert verdict(score, ranking=(1,), repeats=repeats) == (
        "Whether trial 1 is better than the preset cannot be told: PSNR inf against 30.50 +- 0.71 over 2 seeds. A "
        "spread of 2 seeds is a rough estimate."
    )


def test_summarise_puts_it_together() -> None:
    trials = complete({"tof": 0.3, "psnr": 29.0}, {"tof": 0.2, "psnr": 28.0}, {"tof": 0.4, "psnr": 28.0})
    repeats = [*again(1, [0.2, 0.3]), *again(None, [0.25, 0.2])]

    def results_by(score: Score) -> SweepResults:
        settings = {"loss.warp": Distribution("uniform", (0.0, 2.0))}
        space = Space(settings=settings, score=score, trials=3, steps=100, measure_every=50, repeat=Repeat(top=1))
        return summarise(
            space, preset_values={}, trials=reversed(trials), preset=None, repeats=repeats, bicubic={"tof": 0.5}
        )

    results = results_by(BOTH)
    assert results.trials == tuple(trials)
    assert (results.ranking, results.front) == ((1, 0, 2), (1, 0))
    assert [found.number for found in results.repeated] == [None, 1]
    assert results.verdict == verdict(BOTH, ranking=(1, 0, 2), repeats=repeats) != ""
    assert (results_by(TOF).ranking, results_by(TOF).front) == ((1, 0, 2), ())
