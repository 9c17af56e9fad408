"""A sweep's page: complete for every kind, self-contained and safe, with the right numbers, marks and pixels."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import math
import warnings
from collections.abc import Iterator
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from PIL import Image
from plotly.offline import get_plotlyjs

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import ClipStore, open_clip
from tecogan_dist.data.writing import ClipStoreWriter, write_clip
from tecogan_dist.metrics.protocol import Images
from tecogan_dist.metrics.sequence import mean, measure
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.pages.sweep import render_sweep, score_in_words, write_sweep_page
from tecogan_dist.pages.sweep_lineage import ancestry
from tecogan_dist.pages.sweep_pictures import Showing, bicubic_scores, showings
from tecogan_dist.runs.checkpoints import EMA_FILE, checkpoint_name
from tecogan_dist.runs.find import load_upscaler
from tecogan_dist.training.task import TrainingTask
from tecogan_dist.tuning.ranking import summarise
from tecogan_dist.tuning.records import Segment, SweepResults, TrialRecord, TrialState
from tecogan_dist.tuning.space import Asha, Distribution, Fifo, Metric, Pbt, Scheduler, Score, Space
from tecogan_dist.tuning.study import study_of
from tecogan_dist.upscaling.recurrence import to_image, upscale_float, upscale_frames
from tests.support.plain_runs import make_config, run

COMMAND = "tecogan train --config best.yaml --data STORE --output runs/winner"
NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
VOID = {"meta", "img", "br"}
RANGES = {
    "loss.pingpong": Distribution("uniform", (0.0, 1.0)),
    "loss.perceptual": Distribution("loguniform", (0.01, 1.0)),
    "discriminator.temporal_only": Distribution("choice", (False, True)),
}
SETTINGS = ["history", "curves", "importance", "coordinates", "slices", "contour"]
EXECUTED = ("", "text/javascript", "module")


class Page(HTMLParser):
    """A page's tags in order, its text without scripts, its scripts and figures; open tags must close in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.scripts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "script":
            self.scripts.append((dict(attrs).get("type") or "", ""))
        if tag not in VOID:
            self._open.append(tag)
        else:
            self.text += " "

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self.text += " " if tag in ("td", "th", "tr", "b", "p", "span", "small", "pre", "h2", "figcaption") else ""

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif not self._open or self._open[-1] != "style":
            self.text += data

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    @property
    def headings(self) -> list[str]:
        return [attributes["id"] for attributes in self.named("h2")]

    @property
    def figures(self) -> list[dict[str, Any]]:
        return [json.loads(text) for kind, text in self.scripts if kind == "application/json"]

    def traces(self, name: str) -> list[dict[str, Any]]:
        return [trace for figure in self.figures for trace in figure["data"] if trace.get("name") == name]

    def executed(self) -> list[str]:
        return [text for kind, text in self.scripts if kind in EXECUTED]

    def row(self, first: str) -> str:
        """The ranking's row that begins so, up to the next."""
        return self.words.split("how it ended")[1].split(f" {first} ", 1)[1]


def pixels(uri: str) -> Images:
    kind, data = uri.split(";base64,")
    assert kind == "data:image/png"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("RGB"))


def values_of(number: int) -> dict[str, Any]:
    generator = np.random.default_rng(number)
    return {
        "loss.pingpong": float(generator.uniform()),
        "loss.perceptual": float(10 ** generator.uniform(-2, 0)),
        "discriminator.temporal_only": bool(number % 2),
    }


def scores_of(number: int, step: int) -> dict[str, float]:
    """Better with the steps; of two trials one is better in tOF and the other in LPIPS."""
    return {
        "psnr": 24 + step / 1000 + 0.01 * number,
        "ssim": 0.7 + step / 10_000,
        "lpips": 0.3 - step / 10_000 + 0.01 * (5 - number % 6),
        "tof": 0.2 - step / 10_000 + 0.01 * (number % 6),
    }


def trial(number: int, *, steps: int = 300, state: TrialState = "complete", reason: str = "") -> TrialRecord:
    return TrialRecord(
        number=number,
        seed=1,
        segments=(Segment(values=values_of(number), first_step=0),),
        state=state,
        reason=reason,
        scores={step: scores_of(number, step) for step in range(100, steps + 1, 100)},
        times={step: 1e9 + 1000 * number + step for step in range(100, steps + 1, 100)},
        began=1e9 + 1000 * number,
    )


def space_of(score: Score, scheduler: Scheduler | None = None) -> Space:
    return Space(settings=RANGES, score=score, scheduler=scheduler or Fifo(), trials=8, steps=300, measure_every=100)


TOF = Score(metrics={"tof": "min"})
TOF_AND_LPIPS: dict[Metric, Any] = {"tof": "min", "lpips": "min"}


def results_of(
    trials: list[TrialRecord], *, score: Score = TOF, scheduler: Scheduler | None = None, with_preset: bool = True
) -> SweepResults:
    preset_values = {"loss.pingpong": 0.5, "loss.perceptual": 0.2, "discriminator.temporal_only": False}
    preset = TrialRecord(
        number=0,
        role="preset",
        seed=1,
        segments=(Segment(values=preset_values, first_step=0),),
        state="complete",
        scores={step: scores_of(2, step) for step in (100, 200, 300)},
    )
    return summarise(
        space_of(score, scheduler),
        preset_values=preset_values,
        trials=trials,
        preset=preset if with_preset else None,
        repeats=[],
        bicubic={"psnr": 23.5, "ssim": 0.65, "tof": 0.31} if with_preset else {},
    )


def asha(score: Score = TOF) -> SweepResults:
    """Eight trials: 0, 1 and 6 complete, 5 failed after step 200, the others stopped at their first rung."""
    ends: dict[int, tuple[int, TrialState, str]] = {
        0: (300, "complete", ""),
        1: (300, "complete", ""),
        5: (200, "failed", "its training has diverged"),
        6: (300, "complete", ""),
    }
    trials = []
    for number in range(8):
        steps, state, reason = ends.get(number, (100, "stopped", "stopped by asha after step 100"))
        trials.append(trial(number, steps=steps, state=state, reason=reason))
    return results_of(trials, score=score, scheduler=Asha(kind="asha", metric="tof"))


def population() -> SweepResults:
    """Trial 3 goes on from trial 0's weights after step 100; trial 2 from trial 3's after step 200."""
    trials = [trial(number) for number in range(4)]
    for taker, donor, step in ((3, 0, 100), (2, 3, 200)):
        changed = Segment(values={**values_of(donor), "loss.pingpong": 0.25}, first_step=step, donor=donor)
        trials[taker] = dataclasses.replace(trials[taker], segments=(*trials[taker].segments, changed))
    return results_of(trials, scheduler=Pbt(kind="pbt"))


def page_of(results: SweepResults, pictures: list[Showing] | None = None, **words: str) -> Page:
    title = words.pop("title", "Sweep of loss weights")
    command = words.pop("command", COMMAND)
    return Page(render_sweep(results, study_of(results), pictures or [], title=title, command=command, **words))


@pytest.mark.parametrize(
    ("results", "sections"),
    [
        (asha(), [*SETTINGS, "timeline"]),
        (asha(Score(metrics=TOF_AND_LPIPS, combine="ranks")), [*SETTINGS, "timeline"]),
        (asha(Score(metrics=TOF_AND_LPIPS, combine="pareto")), [*SETTINGS, "front", "timeline"]),
        (population(), [*SETTINGS, "timeline", "lineage", "schedules"]),
    ],
    ids=["one", "ranks", "pareto", "pbt"],
)
def test_every_kind_has_its_sections_and_loads_nothing(results: SweepResults, sections: list[str]) -> None:
    page = page_of(results, wandb="https://wandb.ai/someone/sweep")
    assert page.headings == ["ranking", *sections, "pictures"]
    links = [attributes["href"] for attributes in page.named("a")]
    assert [link for link in links if not link.startswith("#")] == ["https://wandb.ai/someone/sweep"]
    assert [link[1:] for link in links if link.startswith("#")] == page.headings
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form", "video"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or (name == "src" and tag != "img")]
    assert page.executed().count(get_plotlyjs()) == 1
    # What the policy lets run is what is there: nothing that a name could bring in.
    (policy,) = [a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.executed()]
    assert (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{hashes[0]}' "
        in policy
    )
    assert policy.endswith(f"'sha256-{hashes[1]}'")
    assert len(hashes) == 2
    for figure in page.figures:
        assert figure["data"], figure["layout"]
        assert figure["layout"]["title"]["text"] == ""
    # Plotly's own button would send a figure to a server.
    assert "showSendToCloud: false" in page.executed()[1]


def test_names_and_values_are_text_whatever_they_hold() -> None:
    evil = "</script><b onmouseover=alert(1)>\"'&{{ 7*7 }}<!--\udcff"
    space = dataclasses.replace(space_of(TOF), settings={**RANGES, evil: Distribution("choice", (evil, "plain"))})
    trials = []
    for number in range(6):
        values = {**values_of(number), evil: evil if number % 2 else "plain"}
        state: TrialState = "failed" if number == 5 else "complete"
        record = trial(number, state=state, reason=evil if number == 5 else "")
        trials.append(dataclasses.replace(record, segments=(Segment(values=values, first_step=0),)))
    results = summarise(space, preset_values=dict(trials[0].values), trials=trials, preset=None, repeats=[], bicubic={})
    results = dataclasses.replace(results, verdict=evil)
    page = page_of(results, title=evil, command=evil, wandb=f"javascript:{evil}")
    assert {tag for tag, _ in page.tags if tag not in VOID} == {
        *("html", "head", "title", "style", "body", "main", "h1", "h2", "h3", "p", "span", "div", "small", "b", "pre"),
        *("code", "ul", "li", "a", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "script"),
    }
    assert not [attributes for _, attributes in page.tags if "onmouseover" in attributes]
    assert len(page.executed()) == 2
    assert all(attributes["href"].startswith("#") for attributes in page.named("a"))
    shown = evil.encode("utf-8", "backslashreplace").decode()
    assert page.text.count(shown) >= 5
    importance = next(trace for figure in page.figures for trace in figure["data"] if trace["type"] == "bar")
    assert evil in importance["y"]


@pytest.mark.parametrize("combine", ["one", "pareto"])
@pytest.mark.parametrize(
    ("trials", "says"),
    [
        ([], "no trial was begun"),
        ([trial(0)], "Only one trial was measured"),
        ([trial(0), trial(1)], "2 measured trials are too few"),
        ([trial(n, steps=0, state="failed", reason="out of memory") for n in (0, 1)], "failed: out of memory"),
        ([trial(0, steps=100, state="failed", reason="it died"), trial(1, steps=0, state="waiting")], "not begun"),
        ([trial(0), trial(1, steps=100, state="running")], "not finished"),
        ([dataclasses.replace(trial(n), segments=trial(0).segments) for n in range(5)], "the same settings"),
        ([dataclasses.replace(trial(n), scores=trial(0).scores) for n in range(5)], "All trials scored the same"),
        ([dataclasses.replace(trial(n), began=None) for n in range(5)], "No trial began"),
    ],
)
def test_where_there_is_little_the_page_says_so(combine: Any, trials: list[TrialRecord], says: str) -> None:
    score = TOF if combine == "one" else Score(metrics=TOF_AND_LPIPS, combine="pareto")
    page = page_of(results_of(trials, score=score, with_preset=False))
    assert says in page.words
    assert page.headings[:7] == ["ranking", *SETTINGS]
    assert ("To train the winner" in page.words) == any(record.state == "complete" for record in trials)


def test_the_page_is_quiet_and_leaves_optuna_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    results = asha(Score(metrics=TOF_AND_LPIPS, combine="pareto"))
    study = study_of(results)
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        render_sweep(results, study, [], title="", command="")
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_the_table_has_every_trial_with_its_numbers() -> None:
    results = asha(Score(metrics={"tof": "min"}, limits={"lpips": 0.305}))
    page = page_of(results)
    assert results.ranking[:3] == (1, 0, 6)  # all break the limit, trial 1 by least
    assert page.row("preset").startswith(f"300 {scores_of(2, 300)['tof']:.4f} {scores_of(2, 300)['psnr']:.2f} ")
    assert page.row("bicubic").startswith(f"0.3100 23.50 0.6500 {NONE} ")
    values, scores = values_of(1), scores_of(1, 300)
    expected = f"1 300 {scores['tof']:.4f} {scores['psnr']:.2f} {scores['ssim']:.4f} {scores['lpips']:.4f} complete "
    expected += f"{values['loss.pingpong']:.4g} {values['loss.perceptual']:.4g} True"
    assert page.row("1").startswith(expected)
    assert "stopped by asha " in page.row("4")
    assert "1 trial is not ranked" in page.words
    assert "5 200 failed: its training has diverged" in page.words
    broken = sum(scores_of(n, results.trials[n].step)["lpips"] > 0.305 for n in results.ranking)
    red = [attributes for attributes in page.named("td") if "bad" in attributes.get("class", "").split()]
    assert len(red) == broken > 0
    assert "LPIPS of at most 0.305 come before all others" in page.words


def test_the_headline_compares_the_winner_with_the_preset() -> None:
    page = page_of(results_of([trial(n) for n in range(4)]))
    assert "trial 0 is ranked first of 4 trials." in page.words
    assert COMMAND in page.words
    # Trial 0's tOF is 0.02 below that of the preset, and better; its LPIPS is above, and worse.
    assert f"tOF (px) ↓ 0.1700 preset 0.1900 {MINUS}0.0200" in page.words
    assert "LPIPS ↓ 0.3200 preset 0.3000 +0.0200" in page.words
    kinds = [attributes["class"] for attributes in page.named("span") if attributes["class"] in ("good", "bad", "")]
    assert kinds == ["good", "bad", "", "bad"]


def test_repeats_are_a_table_with_their_verdict() -> None:
    repeats = []
    for number, (repeats_of, seed) in enumerate((None, s) if s < 4 else (0, s - 2) for s in (2, 3, 4, 5)):
        scores = {300: {"tof": (0.2 if repeats_of is None else 0.1) + seed / 1000}}
        record = dataclasses.replace(trial(number), role="repeat", repeats=repeats_of, seed=seed, scores=scores)
        repeats.append(record)
    base = results_of([trial(n) for n in range(3)])
    results = summarise(
        base.space,
        preset_values=base.preset_values,
        trials=base.trials,
        preset=base.preset,
        repeats=repeats,
        bicubic=base.bicubic,
    )
    page = page_of(results)
    assert "Trial 0 is better than the preset" in page.words
    assert "+-" not in page.words
    assert "preset 2 0.2025 ± 0.0007" in page.words
    assert "trial 0 (rank 1) 2 0.1025 ± 0.0007" in page.words


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (TOF, "tOF, lower is better."),
        (
            Score(metrics={"psnr": "max"}, limits={"lpips": 0.2, "ssim": 0.7, "tof": 1.5}),
            "PSNR, higher is better. Trials with LPIPS of at most 0.2, SSIM of at least 0.7 and tOF of at most 1.5 px "
            "come before all others.",
        ),
        (
            Score(metrics=TOF_AND_LPIPS, combine="ranks", weights={"tof": 2.0}),
            "the weighted sum of the ranks in tOF (lower is better, weight 2) and LPIPS (lower is better, weight 1); "
            "lower is better.",
        ),
    ],
)
def test_the_score_in_words(score: Score, words: str) -> None:
    assert score_in_words(score) == words


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


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """A scene too short to be measured and two others, of texture that moves; low resolution is every 4th pixel."""
    path = tmp_path_factory.mktemp("data") / "store"
    random = np.random.default_rng(1)
    with ClipStoreWriter(path) as writer:
        for number, (frames, height, width) in enumerate([(5, 96, 96), (9, 96, 112), (8, 88, 96)]):
            coarse = random.integers(0, 256, (16, 20, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
            moving = [coarse[:height, i : i + width] for i in range(frames)]
            scene = write_clip(
                path,
                2000 + number,
                iter(moving),
                rate=Fraction(24),
                source="made",
                source_start=0,
                downscale=1,
                encoding="lossless",
                lr_frames=(frame[::4, ::4] for frame in moving),
            )
            writer.enter(scene)
    return ClipStore.open(path)


@pytest.fixture
def threads_put_back() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def task_of(store: ClipStore, degradation: str) -> TrainingTask:
    config = make_config(["--data.degradation", degradation, "--tracking.validation_frames", "8"])
    return TrainingTask(
        config=config,
        data=store.location,
        training_scenes=(),
        validation_scenes=store.scenes,
        output=Location("unused"),
    )


@pytest.mark.usefixtures("threads_put_back")
@pytest.mark.parametrize("degradation", ["BD", "BI", "pairs"])
def test_pictures_are_the_measured_weights_frames(store: ClipStore, tmp_path: Path, degradation: str) -> None:
    options = ["--optimizer.ema_decay", "0.5", "--data.degradation", degradation] if degradation != "pairs" else []
    run(make_config(["--steps", "4", "--tracking.save_every", "2", *options]), tmp_path / "run")
    task = task_of(store, degradation)
    # Trial 1 was measured at step 2, the preset at step 4; the others' weights are not there.
    trials = [
        trial(0, steps=0, state="failed"),
        dataclasses.replace(trial(1), scores={2: scores_of(1, 2)}, folder=Location.of(tmp_path / "run")),
    ]
    results = results_of(trials)
    assert results.preset is not None
    preset = dataclasses.replace(results.preset, scores={4: scores_of(2, 4)}, folder=Location.of(tmp_path / "run"))
    shown = showings(task, dataclasses.replace(results, preset=preset))
    assert [showing.label for showing in shown] == ["truth", "bicubic", "preset", "trial 1 (rank 1)"]

    scene = store.scenes[1]  # the first that can be measured
    truth = np.stack(list(open_clip(store.path, scene).frames()))[:8]
    low = np.stack(list(open_clip(store.path, scene, low_resolution=True).frames()))[:8]
    degrade: Any = None if degradation == "pairs" else degradation
    inputs = low if degrade is None else truth
    expected = {"truth": truth}
    for name, step in (("preset", 4), ("trial 1 (rank 1)", 2)):
        file = tmp_path / "run" / checkpoint_name(step)
        model = load_upscaler(file / EMA_FILE if (file / EMA_FILE).exists() else file, "cpu")
        frames = upscale_frames(model, map(torch.from_numpy, inputs), device=torch.device("cpu"), degrade=degrade)
        expected[name] = np.stack([image.numpy() for image in frames])
    floats = upscale_float(model, map(torch.from_numpy, inputs), device=torch.device("cpu"), degrade=degrade)
    lows = torch.stack([frame.lr_frame for frame in floats])
    enlarged = resize_bicubic(lows, 4, centred=degradation != "BD")
    expected["bicubic"] = np.stack([to_image(frame).numpy() for frame in enlarged])

    y, x, side = shown[0].detail
    errors = np.abs(expected["bicubic"][4].astype(float) - truth[4]).mean(axis=2)
    assert errors[y : y + side, x : x + side].mean() >= errors[:side, :side].mean()
    for showing in shown:
        assert showing.positions == (2, 3, 4)
        np.testing.assert_array_equal(np.stack(showing.frames), expected[showing.label][2:5])
        np.testing.assert_array_equal(showing.profile, expected[showing.label][:, y + side // 2])

    page = page_of(results, shown)
    pictures = {attributes["alt"]: pixels(attributes["src"]) for attributes in page.named("img")}
    assert len(pictures) == 4 * (1 + 3 + 1)
    for name, sequence in expected.items():
        np.testing.assert_array_equal(pictures[name], sequence[3])
        np.testing.assert_array_equal(pictures[f"{name}, detail of frame 4"], sequence[4, y : y + side, x : x + side])
        np.testing.assert_array_equal(pictures[f"temporal profile of {name}"], sequence[:, y + side // 2])

    sums: dict[str, list[float]] = {"psnr": [], "ssim": [], "tof": []}
    for scene in store.scenes[1:]:
        targets = np.stack(list(open_clip(store.path, scene).frames()))[:8]
        low = np.stack(list(open_clip(store.path, scene, low_resolution=True).frames()))[:8]
        inputs = low if degrade is None else targets
        floats = upscale_float(model, map(torch.from_numpy, inputs), device=torch.device("cpu"), degrade=degrade)
        images = [to_image(resize_bicubic(f.lr_frame[None], 4, centred=degradation != "BD")[0]).numpy() for f in floats]
        for metric, numbers in measure(np.stack(images), targets, metrics=tuple(sums)).items():
            sums[metric] += numbers
    assert bicubic_scores(task) == pytest.approx({metric: mean(numbers) for metric, numbers in sums.items()})


def test_without_weights_or_scenes_there_are_no_pictures(store: ClipStore, tmp_path: Path) -> None:
    task = task_of(store, "BD")
    results = results_of([trial(0)])
    assert showings(task, results) == []
    nothing_held_out = dataclasses.replace(task, validation_scenes=())
    folder = Location.of(tmp_path / "gone")
    lost = results_of([dataclasses.replace(trial(0), folder=folder)])
    assert showings(nothing_held_out, lost) == []
    assert bicubic_scores(nothing_held_out) == {}
    with pytest.raises(UserError, match="no weights are at"):
        showings(task, lost)
    assert "There are none: no scene is held out" in page_of(results).words


def test_the_page_stays_below_12_megabytes_and_is_written_whole(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (24, 512, 512, 3), dtype=np.uint8)
    pictures = [
        Showing(
            label=f"trial {number}",
            scene=2000,
            positions=(11, 12, 13),
            frames=tuple(noise[11:14]),
            detail=(64, 128, 64),
            row=96,
            profile=noise[:, 96],
        )
        for number in range(6)
    ]
    results = asha()
    output = Location.of(tmp_path / "sweep")
    place = write_sweep_page(output, results, study_of(results), pictures, title="first", command="")
    assert place == output / "sweep.html"
    assert place.size() < 12e6
    write_sweep_page(output, results, study_of(results), [], title="second", command="")
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["sweep.html"]
    assert Page(place.read_bytes().decode("utf-8")).text.count("second") >= 1
    place.path.unlink()
    place.path.mkdir()
    (place.path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_sweep_page(output, results, study_of(results), [], title="third", command="")
