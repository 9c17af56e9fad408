"""The page of several runs: what differs, where each stands, and their curves over each other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tecogan_dist.base.storage import Location
from tecogan_dist.pages.run import render_runs
from tecogan_dist.pages.run_records import names, read_runs
from tecogan_dist.runs.records import read_metrics
from tests.support.recorded_runs import add_previews, config_of, record
from tests.support.run_pages import page_of, points


def test_several_runs_over_each_other(tmp_path: Path) -> None:
    first = record(tmp_path / "first", lines=100, seed=1, restarts=(600,))
    second = record(
        tmp_path / "second", lines=80, seed=2, better=5, config=config_of("tecogan", "--loss.pingpong", "0.25")
    )
    for number, folder in enumerate((first, second)):
        add_previews(folder, [500, 1000], seed=number)
    page = page_of(first, second)
    figure = page.by_title["content"]
    for folder, colour in ((first, "var(--series-1)"), (second, "var(--series-2)")):
        traces = [trace for trace in figure["data"] if trace["name"].startswith(folder.name)]
        assert {trace["line"]["color"] for trace in traces} == {colour}
        known = {line["step"]: line["raw/content"] for line in read_metrics(folder) if "raw/content" in line}
        assert points(traces[0]) == pytest.approx(known, rel=1e-5)
    assert "loss.pingpong0.50.25" in page.words.replace(" ", "")
    table = page.words.split("Where they stand")[1].split("Held-out scenes")[0]
    best = {
        folder: max(values["psnr"] for values in json.loads((folder / "scores.json").read_text()).values())
        for folder in (first, second)
    }
    assert all(f"{value:.2f}" in table for value in best.values())
    wins = [attributes for attributes in page.named("td") if attributes.get("class") == "wins"]
    assert wins
    options = [attributes["value"] for attributes in page.named("option")]
    assert options == 2 * ["still-LR", "still-bicubic", "still-HR", "run-0", "run-1"]


def test_the_state_of_each_has_its_colour_and_a_failure_its_reason(tmp_path: Path) -> None:
    states = {"finished": "good", "stopped": "warn", "failed": "bad", "running": "good"}
    config = config_of("tecogan", "--steps", "200")
    folders = [record(tmp_path / f"run_{state}", lines=10, state=state, config=config) for state in states]
    html = render_runs(read_runs([Location.of(folder) for folder in folders]), [None] * len(folders))
    cells = dict(re.findall(r'<td class="state"><b class="(\w+)">\w+</b><small>([^<]*)</small>', html))
    assert set(cells) == {"good", "warn", "bad"}
    named = re.findall(r'<td class="state"><b class="(\w+)">(\w+)</b>', html)
    assert named == [(colour, state) for state, colour in states.items()]
    assert re.match(r"\d+ seconds? ago: the GPU fell off the bus; ", cells["bad"])


def test_runs_of_different_kinds_are_compared_by_what_both_have(tmp_path: Path) -> None:
    gan = record(tmp_path / "gan", lines=60)
    plain = record(tmp_path / "plain", lines=60, config=config_of("frvsr"), state=None)
    words = page_of(gan, plain).words
    assert "These are runs of different kinds (TecoGAN: gan; FRVSR: plain)." in words
    assert "Only gan recorded the discriminator." in words
    begun = record(tmp_path / "begun", lines=0)
    third = record(tmp_path / "third", lines=10, without="time|memory")
    words = page_of(gan, plain, begun, third).words
    assert "Only gan and third recorded the discriminator." in words
    assert "Only gan and plain recorded where the time goes and memory." in words
    assert "Nothing is recorded yet of begun." in words
    assert words.count("Only ") == 2
    assert "loss.adversarial0.010.0" in words


def test_each_run_has_its_strong_curve_in_the_legend(tmp_path: Path) -> None:
    """Averages begin at step 300: a run that has ended before has its values alone."""
    long = record(tmp_path / "long", lines=30, config=config_of("frvsr"))
    short = record(tmp_path / "short", lines=3)
    page = page_of(long, short)
    for title in ("content", "warp", "total"):
        data = page.by_title[title]["data"]
        named = {trace["name"]: trace for trace in data if trace["showlegend"]}
        assert set(named) == {"long", "short"}, title
        assert {(one["opacity"], one["line"]["width"]) for one in named.values()} == {(1.0, 1.8)}
        assert min(named["long"]["x"]) >= 300
        assert named["short"]["x"] == [20, 40, 60]
        assert named["long"]["legendrank"] < named["short"]["legendrank"]  # in the order of the runs
        (pale,) = [trace for trace in data if trace["opacity"] < 1]
        assert pale["name"] == "long value"
    assert "when it has come up from 0; of a shorter run the values are strong)" in page.words
    only_fake = record(tmp_path / "fake", lines=5, without="discriminator/real")
    names = [trace["name"] for trace in page_of(short, only_fake).by_title["What it says"]["data"]]
    assert names == ["short", "short generated", "fake generated"]


def test_runs_that_measured_nothing_have_no_words_about_scores(tmp_path: Path) -> None:
    folders = [record(tmp_path / preset, lines=20, config=config_of(preset)) for preset in ("frvsr", "tecogan")]
    assert "The best value of each" in page_of(*folders).words
    assert "so compare LPIPS, tOF and tLP." in page_of(*folders).words
    folders = [
        record(tmp_path / f"{preset}_alone", lines=20, validations=0, config=config_of(preset))
        for preset in ("frvsr", "tecogan")
    ]
    words = page_of(*folders).words
    assert "Where they stand" in words
    assert "The best value of each" not in words
    assert "so compare" not in words
    assert "LPIPS, tOF and tLP would tell, and are not recorded of both: 'tecogan evaluate' measures them." in words


def test_short_names_tell_runs_apart(tmp_path: Path) -> None:
    places = [Location(f"{tmp_path}/{name}") for name in ("a/run", "b/run", "c/other")]
    assert names(places[:1]) == ["run"]
    assert names(places[1:]) == ["run", "other"]
    assert names(places) == ["a/run", "b/run", "c/other"]
    assert names([Location("s3://films/a/run"), Location("s3://films/b/run?region=x")]) == ["a/run", "b/run"]
