"""What a run has recorded: steps, and the scores of held-out scenes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.records import (
    METRICS_FILE,
    SCORES_FILE,
    best_step,
    check_records,
    drop_after,
    metrics_line,
    read_metrics,
    read_scores,
    scores_text,
)


def refuse(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


def test_best_step() -> None:
    scores = {1: {"psnr": 20.0, "tof": 0.5}, 2: {"psnr": 22.0, "tof": 0.7}, 3: {"psnr": 22.0, "tof": 0.6}, 4: {}}
    assert best_step(scores, "psnr") == 2
    assert best_step(scores, "tof") == 1
    assert best_step(scores, "lpips") is None
    assert best_step({}, "psnr") is None
    assert best_step({1: {"psnr": math.nan}, 2: {"psnr": 20.0}}, "psnr") == 2


def test_what_is_not_finite_is_written_as_json_too(tmp_path: Path) -> None:
    values = {"content": math.nan, "warp": math.inf, "pingpong": -math.inf, "psnr": 20.5}
    line = metrics_line(7, values)
    assert json.loads(line, parse_constant=refuse) == {"step": 7, "content": None, "warp": None, "pingpong": None} | {
        "psnr": 20.5
    }
    (tmp_path / METRICS_FILE).write_bytes(line)
    (found,) = read_metrics(tmp_path)
    assert (found["step"], found["psnr"], math.isnan(found["warp"])) == (7, 20.5, True)
    text = scores_text({10: values, 2: {"psnr": 1.0}})
    assert list(json.loads(text, parse_constant=refuse)) == ["2", "10"]
    (tmp_path / SCORES_FILE).write_bytes(text)
    scores = read_scores(Location.of(tmp_path))
    assert scores[2] == {"psnr": 1.0}
    assert math.isnan(scores[10]["content"])


def test_later_steps_and_half_a_line_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    lines = [metrics_line(step, {"content": 0.5}) for step in (1, 2, 3)]
    drop_after(path, 2)
    assert not path.exists()
    for end in (b"", b'{"step": 3, "cont', b"\xff\xfe", lines[2][:-1]):
        path.write_bytes(b"".join(lines) + end)
        drop_after(path, 2)
        assert path.read_bytes() == b"".join(lines[:2])
    path.write_bytes(b"".join(lines)[:-1])  # by an editor that leaves out the last line's end
    drop_after(path, 5)
    assert path.read_bytes() == b"".join(lines)


HOSTILE = [
    *(b"not json", b"", b"[]", b"null", b"{}", b'{"step": "3"}', b'{"step": true}', b'{"step": -1}', b"\xff\xfe"),
    *(b'{"step": 3, "content": "x"}', b'{"step": 3, "content": [1]}', b'{"step": 3, "content": NaN}', b"[" * 100_000),
    *(b'{"step": 3, "content": true}', b'{"step": 1%s}' % (b"0" * 30), b"\x00" * 50, b'{"step": 3, "c": Infinity}'),
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / METRICS_FILE
    content = metrics_line(1, {}) + line + b"\n" + metrics_line(2, {})
    path.write_bytes(content)
    for action in (
        lambda: drop_after(path, 5),
        lambda: read_metrics(tmp_path),
        lambda: check_records(Location.of(tmp_path)),
    ):
        with pytest.raises(
            UserError, match=r"metrics\.jsonl is damaged in line 2 \((?!line).*\): mend or remove"
        ) as caught:
            action()
        assert len(str(caught.value)) < 1000
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "[]",
            "null",
            "x",
            '{"a": {}}',
            '{"1": 5}',
            '{"1": null}',
            '{"1": {"psnr": "x"}}',
            '{"1": {"psnr": NaN}}',
        ),
        *('{"-1": {}}', '{"1e3": {}}', '{"%s": {}}' % ("9" * 5000), '{"1": {"psnr": [1]}}', '{"²": {}}', "[" * 100_000),
    ],
)
def test_damaged_scores_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / SCORES_FILE).write_text(text)
    with pytest.raises(UserError, match=r"scores\.json is damaged .*: mend it, or move it away") as caught:
        read_scores(Location.of(tmp_path))
    assert len(str(caught.value)) < 1000
