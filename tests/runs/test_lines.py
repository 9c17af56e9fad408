"""Records for whoever looks: read as far as they can be, and what cannot be read is told in a sentence."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from tecogan_dist.base.storage import Location
from tecogan_dist.runs.lines import LATEST, MOST_NAMES, Blocks, Damage, read_curves
from tecogan_dist.runs.records import LINE_BYTES, METRICS_FILE, metrics_line


def lines_of(count: int) -> list[bytes]:
    return [metrics_line(10 * (number + 1), {"raw/content": float(number)}) for number in range(count)]


def test_curves_are_what_was_written(tmp_path: Path) -> None:
    content = [*lines_of(2 * LATEST), metrics_line(10**6, {"raw/content": math.nan, "loss/warp": 1e300})]
    (tmp_path / METRICS_FILE).write_bytes(b"".join(content) + b'{"step": 2000000, "raw/con')
    curves = read_curves(Location.of(tmp_path))
    assert curves.notes == ()
    assert curves.last_step == 10**6
    series = curves.series["raw/content"]
    assert series.steps.tolist() == [json.loads(line)["step"] for line in content]
    assert series.values[:-1].tolist() == [float(number) for number in range(2 * LATEST)]
    assert series.not_finite.tolist() == [10**6]
    assert math.isnan(curves.series["loss/warp"].last)  # beyond float32
    assert len(curves.latest) == LATEST


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"what is this", "it is not valid JSON"),
        (b'{"step": 5, "raw/content": "much"}', "the value of raw/content is not a number"),
        (b'{"raw/content": 1}', "it has no step"),
        (b"\x00\xff", "it is not text."),
        (b'{"step": 5, "raw/c\xfcntent": 1}', "it is not text."),
        (b'{"step": 5, "step": 6}', "it is not valid JSON"),
        (b"[" * 2**20, f"it has more than {LINE_BYTES} bytes|it is not valid JSON"),
        (b"x" * (3 * LINE_BYTES), f"it has more than {LINE_BYTES} bytes"),
        (b"", "it is not valid JSON"),
    ],
)
def test_a_damaged_line_costs_that_line(tmp_path: Path, line: bytes, reason: str) -> None:
    lines = lines_of(30)
    (tmp_path / METRICS_FILE).write_bytes(b"".join([*lines[:10], line + b"\n", *lines[10:]]))
    curves = read_curves(Location.of(tmp_path))
    assert len(curves.series["raw/content"].steps) == 30
    assert len(curves.notes) == 1
    assert re.match(rf"line 11 of {METRICS_FILE} is left out: ({reason})", curves.notes[0])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x93NUMPY\xff" * 1000, "is left out: it cannot be read: it is not text."),
        (b"\xff\xfe\n" * 1000, r"is left out: none of its 1000 lines can be read \(the first: it is not text\)"),
        (b"\x00" * (2 * LINE_BYTES), f"is left out: it cannot be read: it has more than {LINE_BYTES} bytes"),
        (b"a\nb\nc\n", r"is left out: none of its 3 lines can be read \(the first: it is not valid JSON"),
        (None, "is left out: it is a folder where an ordinary file is wanted.$"),
    ],
)
def test_a_file_of_which_nothing_can_be_read_is_a_note(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is None:
        (tmp_path / METRICS_FILE).mkdir()
    else:
        (tmp_path / METRICS_FILE).write_bytes(content)
    curves = read_curves(Location.of(tmp_path))
    assert (curves.series, curves.latest, curves.last_step) == ({}, (), 0)
    (note,) = curves.notes
    assert re.match(rf"{METRICS_FILE} {sentence}", note), note


def test_more_names_than_training_has_are_left_out(tmp_path: Path) -> None:
    many = {f"a{number}": float(number) for number in range(MOST_NAMES + 5)}
    (tmp_path / METRICS_FILE).write_bytes(metrics_line(1, many) + metrics_line(2, many))
    curves = read_curves(Location.of(tmp_path))
    assert len(curves.series) == MOST_NAMES
    assert curves.notes == (
        f"more than {MOST_NAMES} different names are in {METRICS_FILE}: those that came later are left out.",
    )


@pytest.mark.parametrize("size", [1, 3, 7, 64, 10**6])
def test_lines_are_cut_alike_however_they_come(size: int) -> None:
    content = b"one\n\nthree is longer\n" + b"x" * 50 + b"\nrest"
    blocks = Blocks()
    found = b"".join(blocks.feed(content[at : at + size]) for at in range(0, len(content), size))
    assert (found, blocks.rest) == (content[:-4], b"rest")


def test_a_line_without_an_end_is_not_kept() -> None:
    blocks = Blocks()
    for _ in range(20):
        assert blocks.feed(b"x" * LINE_BYTES) == b""
        assert len(blocks.rest) <= LINE_BYTES + 1
    assert blocks.feed(b'xx\n{"step": 1}\n{') == b"x" * (LINE_BYTES + 1) + b'\n{"step": 1}\n'
    assert blocks.rest == b"{"


def test_one_sentence_tells_of_any_number_of_lines() -> None:
    damage = Damage()
    assert damage.note() is None
    for number in range(5, 15):
        damage.add(number, "it has no step")
    assert damage.note() == f"10 damaged lines of {METRICS_FILE} are left out; the first is line 5: it has no step."
    assert damage.notes()[3:] == [f"7 more damaged lines of {METRICS_FILE} are left out."]
