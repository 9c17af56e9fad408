"""The figures of a sweep's page: the right points, marks and arrows."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from tecogan_dist.pages.sweep_lineage import ancestry
from tecogan_dist.tuning.records import Segment
from tecogan_dist.tuning.space import Score
from tests.support.sweep_pages import (
    RANGES,
    TOF_AND_LPIPS,
    asha,
    page_of,
    population,
    results_of,
    scores_of,
    trial,
    values_of,
)


def test_curves_are_marked_where_trials_were_stopped() -> None:
    results = asha()
    page = page_of(results)
    stopped = page.traces("stopped early")[1]  # after the history's
    assert list(stopped["x"]) == [100] * 4
    assert list(stopped["y"]) == [scores_of(number, 100)["tof"] for number in (2, 3, 4, 7)]
    failed = page.traces("failed")[0]
    assert (list(failed["x"]), list(failed["y"])) == ([200], [scores_of(5, 200)["tof"]])
    curve = page.traces("trial 6 (rank 2)")[0]
    assert list(curve["x"]) == [100, 200, 300]
    assert list(curve["y"]) == [scores_of(6, step)["tof"] for step in (100, 200, 300)]
    for name, expected in (("preset", scores_of(2, 300)["tof"]), ("bicubic", 0.31)):
        assert page.traces(name)[0]["y"][-1] == expected


def test_a_trial_that_diverged_does_not_flatten_the_others() -> None:
    trials = [trial(n) for n in range(4)]
    trials[3] = dataclasses.replace(
        trials[3], state="failed", scores={100: {"tof": 0.3}, 200: {"tof": 5e6}, 300: {"tof": math.nan}}
    )
    page = page_of(results_of(trials))
    figure = next(figure for figure in page.figures if any(trace.get("name") == "failed" for trace in figure["data"]))
    assert figure["layout"]["yaxis"]["range"][1] < 1
    assert next(trace for trace in figure["data"] if trace["name"] == "failed")["y"] == [5e6]


def test_the_best_so_far_keeps_the_limits() -> None:
    # tOF prefers trials 0 and 1, whose LPIPS is above the limit.
    results = results_of([trial(n) for n in range(6)], score=Score(metrics={"tof": "min"}, limits={"lpips": 0.305}))
    page = page_of(results)
    best = page.traces("best so far")[0]["y"]
    assert best[:2] == [None, None]
    assert best[2:] == [scores_of(2, 300)["tof"]] * 4
    assert list(page.traces("complete, breaks a limit")[0]["x"]) == [0, 1]
    assert "the best of those so far that keep the limits" in page.words


def test_settings_are_compared_at_the_step_that_all_reached() -> None:
    page = page_of(asha())
    assert page.words.count("All 7 ranked trials at step 100, the last that all of them reached") == 4
    slices = [
        figure for figure in page.figures if _title(figure, "xaxis") in RANGES and _title(figure, "yaxis") == "tOF (px)"
    ]
    assert [_title(figure, "xaxis") for figure in slices] == list(RANGES)
    assert sorted(slices[0]["data"][0]["y"]) == sorted(scores_of(n, 100)["tof"] for n in range(8) if n != 5)


def _title(figure: dict[str, Any], axis: str) -> str:
    return str(figure["layout"].get(axis, {}).get("title", {}).get("text", ""))


def test_numbers_of_the_coordinates_can_be_told_apart() -> None:
    scores = [{"tof": 0.1953 + 2e-4 * n, "psnr": 21.7 + 2 * n} for n in range(5)]
    trials = [dataclasses.replace(trial(n), scores={300: scores[n]}) for n in range(5)]
    page = page_of(results_of(trials, score=Score(metrics={"tof": "min", "psnr": "max"}, combine="pareto")))
    (figure,) = [f for f in page.figures if "tOF (px)" in f["layout"].get("xaxis", {}).get("ticktext", ())]
    expected = [(f"{values['tof']:.5f}", f"{values['psnr']:.1f}") for values in scores]
    ticks = [[a["text"] for a in figure["layout"]["annotations"] if a["x"] == axis] for axis in (0, 1)]
    assert ticks == [list(column) for column in zip(*expected, strict=True)]
    shown = [tuple(text for _, text in line["customdata"][:2]) for line in figure["data"] if line["mode"] == "lines"]
    assert sorted(shown) == expected


def test_importance_is_of_being_good_also_where_more_is_better() -> None:
    """Of the two settings one decides PSNR's best, the other its worst: only the first matters for being good."""
    generator = np.random.default_rng(1)
    trials = []
    for number in range(40):
        first, second = generator.uniform(size=2)
        values = {"loss.pingpong": first, "loss.perceptual": 10 ** (-2 * second), "discriminator.temporal_only": False}
        psnr = 30 + 5 * (first > 0.8) - 5 * (second > 0.8) * (first <= 0.8) + 0.01 * generator.normal()
        record = trial(number)
        segments = (Segment(values=values, first_step=0),)
        trials.append(dataclasses.replace(record, segments=segments, scores={300: {"psnr": psnr, "tof": first}}))
    both = Score(metrics={"psnr": "max", "tof": "min"}, combine="ranks")
    page = page_of(results_of(trials, score=both))
    (bars,) = [trace for trace in page.traces("PSNR (dB)") if trace["type"] == "bar"]
    shares = dict(zip(bars["y"], bars["x"], strict=True))
    assert shares["loss.pingpong"] > 0.8


def test_the_front_is_the_rankings() -> None:
    results = asha(Score(metrics=TOF_AND_LPIPS, combine="pareto", limits={"psnr": 24.305}))
    assert results.front == (6, 1)  # trial 0, with the scores of trial 6, does not keep the limit
    page = page_of(results)
    (front,) = page.traces("on the front")
    points = dict(zip(front["texttemplate"], zip(front["x"], front["y"], strict=True), strict=True))
    assert points == {str(n): (scores_of(n, 300)["tof"], scores_of(n, 300)["lpips"]) for n in (1, 6)}
    assert page.traces("breaks a limit")[0]["x"] == [scores_of(0, 300)["tof"]]
    (preset,) = [trace for trace in page.traces("preset") if trace["mode"] == "markers"]
    assert list(preset["x"]) == [scores_of(2, 300)["tof"]]


def test_three_objectives_are_shown_in_pairs() -> None:
    score = Score(metrics={"tof": "min", "lpips": "min", "psnr": "max"}, combine="pareto")
    page = page_of(results_of([trial(n) for n in range(6)], score=score))
    pairs = [figure for figure in page.figures if any(t.get("name") == "on the front" for t in figure["data"])]
    titles = [(_title(figure, "xaxis"), _title(figure, "yaxis")) for figure in pairs]
    assert titles == [("tOF (px)", "LPIPS"), ("tOF (px)", "PSNR (dB)"), ("LPIPS", "PSNR (dB)")]


def test_lineage_points_from_the_donor_and_follows_the_weights() -> None:
    results = population()
    trials = {record.number: record for record in results.trials}
    assert ancestry(trials, 2) == [(2, 200, 300), (3, 100, 200), (0, 0, 100)]
    assert ancestry(trials, 1) == [(1, 0, 300)]
    page = page_of(results)
    (figure,) = [
        figure for figure in page.figures if figure["layout"].get("annotations") and _title(figure, "xaxis") == "step"
    ]
    arrows = [(a["ax"], a["ay"], a["x"], a["y"]) for a in figure["layout"]["annotations"]]
    assert arrows == [(200, 3, 200, 2), (100, 0, 100, 3)]
    schedule = next(f for f in page.figures if _title(f, "yaxis") == "loss.pingpong" and _title(f, "xaxis") == "step")
    of_two = next(trace for trace in schedule["data"] if trace["hovertemplate"].startswith("trial 2 "))
    assert (list(of_two["x"]), list(of_two["y"])) == ([0, 200, 300], [values_of(2)["loss.pingpong"], 0.25, 0.25])
