"""The page of a run whose files are hurt, wild or hostile: it shows what can be read, and says what cannot."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from tecogan_dist.base.storage import Location
from tecogan_dist.pages.run_curves import read_curves
from tecogan_dist.runs.records import METRICS_FILE, read_metrics
from tests.support.pages import policy_of
from tests.support.recorded_runs import add_previews, record
from tests.support.run_pages import page_of, points

HOSTILE = "<script>alert(1)<&\"'"


def test_what_is_not_finite_is_a_gap_with_a_mark(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=50, changes={9: {"raw/warp": math.nan}})
    file = folder / METRICS_FILE
    lines = file.read_text().splitlines()
    # As programs write them that take JSON less strictly.
    lines[20] = re.sub(r'"raw/warp": [^,]+', '"raw/warp": NaN', lines[20])
    lines[30] = re.sub(r'"raw/warp": [^,]+', '"raw/warp": -Infinity', lines[30])
    file.write_text("\n".join(lines))
    broken = [200, json.loads(lines[20])["step"], json.loads(lines[30])["step"]]
    page = page_of(folder)
    figure = page.by_title["warp"]
    assert [step for step, value in points(figure["data"][0]).items() if value is None] == broken
    assert [one["x0"] for one in figure["layout"]["shapes"] if one["line"]["color"] == "var(--bad)"] == broken
    assert "left out" not in page.words


WILD = (0, -0.0, 1e308, -1e308, 5e-324, 1e-300, None, 2**63 - 1, -(2**63), -1, 0.5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(12))
def test_values_gone_wild_and_missing_make_a_page_without_a_warning(tmp_path: Path, seed: int) -> None:
    folder = record(tmp_path / "film", lines=10)
    known = sorted({name for line in read_metrics(folder) for name in line} - {"step"})
    random = np.random.default_rng(seed)
    chosen = list(random.permutation(known))[: random.integers(1, 60)]
    lines, step = [], int(random.choice([0, 10**6, 2**62]))
    for _ in range(random.choice([1, 5, 1200])):
        step += int(random.choice([0, 1, 1000]))
        some = [name for name in chosen if random.random() < 0.7]
        lines.append(json.dumps({"step": step, **{name: WILD[random.integers(len(WILD))] for name in some}}))
    (folder / METRICS_FILE).write_text("\n".join(lines) + "\n")
    scores = {str(10 * i): {"psnr": WILD[random.integers(len(WILD))], "tof": 1e308} for i in range(random.integers(4))}
    (folder / "scores.json").write_text(json.dumps(scores))
    page_of(folder, record(tmp_path / "other", lines=3))
    assert page_of(folder).figures or not chosen


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("what is this", "is not valid JSON"),
        ('{"raw/content": 1}', "it has no step"),
        ('{"step": -1}', "it has no step"),
        ('{"step": 5, "raw/content": "much"}', "the value of raw/content is not a number"),
        ('{"step": 5, "raw/content": NaNs}', "is not valid JSON"),
        ("\x00\xff", "is not valid JSON"),
    ],
)
def test_a_damaged_line_is_told_of_and_the_others_are_shown(tmp_path: Path, line: str, reason: str) -> None:
    folder = record(tmp_path / "film", lines=30, validations=1)
    file = folder / METRICS_FILE
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:10], line, *lines[11:]]) + '\n{"step": 700, "raw/cont')
    page = page_of(folder)
    assert re.search(rf"line 11 of metrics\.jsonl is left out: .*{reason}", page.words)
    assert "line 32" not in page.words  # half a line, which training is about to complete
    there = [json.loads(one)["step"] for one in (*lines[:10], *lines[11:-1])]
    assert page.by_title["content"]["data"][0]["x"] == there


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a\nb\nc\n", "none of its 3 lines can be read"),
        (b"\x93NUMPY\xff" * 100, "it cannot be read: it is not text"),
        (b"x" * (2**20 + 1), "it has more than 1048576 bytes"),
        (None, "it is a folder where an ordinary file is wanted"),
    ],
)
def test_records_of_which_nothing_can_be_read_leave_a_page_without_curves(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    folder = record(tmp_path / "film", lines=3)
    (folder / METRICS_FILE).unlink()
    if content is None:
        (folder / METRICS_FILE).mkdir()
    else:
        (folder / METRICS_FILE).write_bytes(content)
    page = page_of(folder)
    assert re.search(rf"metrics\.jsonl is left out: .*{reason}", page.words)
    assert "content" not in page.by_title


def test_names_that_training_cannot_have_written_are_left_out(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=3)
    (folder / METRICS_FILE).write_text(json.dumps({"step": 1, **{f"a{i}": i for i in range(1001)}}) + "\n")
    assert "more than 1000 different names are in metrics.jsonl" in page_of(folder).words


def test_a_run_that_went_back_counts_each_step_once(tmp_path: Path) -> None:
    steps = [10, 20, 30, 40, 20, 30]
    lines = [json.dumps({"step": step, "raw/content": float(i)}) for i, step in enumerate(steps)]
    (tmp_path / METRICS_FILE).write_text("\n".join(lines) + "\n")
    series = read_curves(Location.of(tmp_path)).series["raw/content"]
    assert dict(zip(series.steps.tolist(), series.values.tolist(), strict=True)) == {10: 0, 20: 4, 30: 5}


def test_damaged_notes_cost_what_they_say_and_no_more(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=40)
    add_previews(folder, [100, 200])
    for name in ("scores.json", "status.json", "restarts.jsonl", "previews/index.json"):
        (folder / name).write_text("{\n")
    page = page_of(folder)
    for name in ("scores.json", "status.json", "restarts.jsonl", "index.json"):
        assert re.search(rf"{name}[^:]* is left out: it is damaged", page.words), name
    assert str(folder / "scores.json") not in page.words  # a sentence names its file once
    assert len(page.by_title["PSNR"]["data"][0]["x"]) == 8  # the records have the scores, too


def test_hostile_words_are_words(tmp_path: Path) -> None:
    folder = record(
        tmp_path / HOSTILE, lines=60, changes={0: {f"raw/{HOSTILE}</script>": 1.0, '<a href="javascript:x">': 1.0}}
    )
    add_previews(folder, [500, 1000])
    environment = {"command": f"tecogan {HOSTILE}", "versions": {HOSTILE: HOSTILE}, "git": {"commit": HOSTILE}}
    (folder / "environment.json").write_text(json.dumps(environment))
    other = record(tmp_path / "other", lines=60)
    for page in (page_of(folder), page_of(folder, other)):
        scripts = page.executed()
        assert len(scripts) == 3  # plotly.js, what draws, what wipes
        assert page.policy == policy_of(scripts, images="data: blob:")
        assert HOSTILE in page.words
        texts = [trace["name"] for figure in page.figures for trace in figure["data"] if "name" in trace]
        assert not [text for text in texts if "<" in text]
        assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form", "video"} == set()
        for tag, attributes in page.tags:
            assert not [name for name in attributes if name.startswith("on")]
            assert "src" not in attributes or (tag == "img" and attributes["src"].startswith("data:image/png;"))
        links = [attributes["href"] for attributes in page.named("a")]
        assert links
        assert all(link.startswith("#") for link in links)
        assert {link[1:] for link in links} <= {a["id"] for _, a in page.tags if "id" in a}
