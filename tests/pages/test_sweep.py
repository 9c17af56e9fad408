"""A sweep's page: complete for every kind, self-contained and safe, with the right words and numbers."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from plotly.offline import get_plotlyjs

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.pages.sweep import render_sweep, score_in_words, write_sweep_page
from tecogan_dist.pages.sweep_pictures import Showing
from tecogan_dist.tuning.ranking import summarise
from tecogan_dist.tuning.records import Segment, SweepResults, TrialRecord, TrialState
from tecogan_dist.tuning.space import Distribution, Score
from tecogan_dist.tuning.study import study_of
from tests.support.pages import policy_of
from tests.support.sweep_pages import (
    COMMAND,
    RANGES,
    TOF,
    TOF_AND_LPIPS,
    SweepPage,
    asha,
    page_of,
    population,
    results_of,
    scores_of,
    space_of,
    trial,
    values_of,
)

NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
SETTINGS = ["history", "curves", "importance", "coordinates", "slices", "contour"]


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
    assert page.policy == policy_of(page.executed(), images="data: blob:")
    assert len(page.executed()) == 2
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
    assert {tag for tag, _ in page.tags if tag not in ("meta", "img", "br")} == {
        *("html", "head", "title", "style", "body", "main", "h1", "h2", "h3", "p", "span", "div", "small", "b", "pre"),
        *("code", "ul", "li", "a", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "script"),
        *("figure", "figcaption", "noscript"),
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
    expected += f"{values['loss.pingpong']:.4g} {values['loss.perceptual']:.4g} true"
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
    assert SweepPage(place.read_bytes().decode("utf-8")).text.count("second") >= 1
    place.path.unlink()
    place.path.mkdir()
    (place.path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_sweep_page(output, results, study_of(results), [], title="third", command="")
