"""What of a run's records is kept to look for patterns in: the last lines, and what validations are compared with."""

from __future__ import annotations

import math
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tecogan_dist.base.storage import Location
from tecogan_dist.runs import recent
from tecogan_dist.runs.patterns import ENOUGH_LINES, patterns
from tecogan_dist.runs.recent import Follower, Window
from tecogan_dist.runs.records import METRICS_FILE, drop_after, metrics_line, read_metrics
from tests.support.s3_server import S3Server

PSNR = "validation/official/psnr"


def overfitted(count: int, *, best: int) -> list[tuple[int, dict[str, float]]]:
    """Records each 20 steps whose content loss falls, and a validation each 500 records: the best one is long ago."""
    random = np.random.default_rng(0)
    found = []
    for number in range(1, count + 1):
        content = 2e-3 * math.exp(-2 * number / count + random.normal(0, 0.1))
        found.append((20 * number, {"raw/content": content, "loss/content": content, "time/step": 0.5}))
        if number % 500 == 0:
            found.append((20 * number, {PSNR: 30 - 0.4 * abs(number / 500 - best)}))
    return found


def content_of(records: list[tuple[int, dict[str, float]]]) -> bytes:
    return b"".join(metrics_line(step, values) for step, values in records)


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path, server: S3Server) -> Location:
    return Location.of(tmp_path / "run" if request.param == "local" else server.uri(f"{tmp_path.name}/run"))


def test_the_last_lines_and_all_scores_are_seen(run: Location) -> None:
    records = overfitted(6000, best=2)
    (run / METRICS_FILE).write_bytes(content_of(records) + b'{"step": 120020, "raw/con')
    seen = Follower(run).look()
    assert seen.note is None
    assert seen.last_step == 120_000
    assert list(seen.lines) == [{"step": step, **values} for step, values in records[-ENOUGH_LINES:]]
    assert seen.scores == {step: {"psnr": values[PSNR]} for step, values in records if PSNR in values}


def test_a_validation_is_compared_with_one_of_long_ago(run: Location) -> None:
    """The same patterns as all lines show, though the best step is 80,000 steps ago."""
    records = overfitted(6000, best=4)
    (run / METRICS_FILE).write_bytes(content_of(records))
    whole = patterns([{"step": step, **values} for step, values in records])
    assert [one.name for one in whole] == ["validation gets worse"]
    seen = Follower(run).look()
    assert patterns(seen.lines, earlier=seen.earlier, scores=seen.scores) == whole
    assert patterns(seen.lines, scores=seen.scores) == []
    window = Window()
    for step, values in records:
        if PSNR in values:
            window.validated()
        else:
            window.add(step, values)
    assert len(window.lines) == ENOUGH_LINES
    assert max(line["step"] for line in window.earlier) < window.lines[0]["step"]
    assert patterns(window.lines, earlier=window.earlier, scores=seen.scores) == whole


def test_what_is_appended_is_read_on(run: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "CHUNK_BYTES", 1000)
    content = content_of(overfitted(1500, best=1))
    follower = Follower(run)
    assert follower.look().last_step == 0
    for end in (0, 1, 5000, 5001, 9000, len(content) // 2, len(content) - 1, len(content), len(content)):
        (run / METRICS_FILE).write_bytes(content[:end])
        assert follower.look() == Follower(run).look()
    assert follower.look().last_step == 30_000


def test_only_what_was_appended_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / METRICS_FILE
    records = overfitted(4000, best=1)
    file.write_bytes(content_of(records[:3000]))
    follower = Follower(Location.of(tmp_path))
    follower.look()
    taken: list[int] = []
    original = Follower._take

    def take(self: Follower, chunk: bytes) -> None:
        taken.append(len(chunk))
        original(self, chunk)

    monkeypatch.setattr(Follower, "_take", take)
    with open(file, "ab") as more:
        more.write(content_of(records[3000:]))
    seen = follower.look()
    assert sum(taken) == len(content_of(records[3000:]))
    monkeypatch.undo()
    assert seen == Follower(Location.of(tmp_path)).look()


def test_a_run_that_went_back_to_its_checkpoint_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / METRICS_FILE
    file.write_bytes(content_of(overfitted(800, best=1)))
    follower = Follower(Location.of(tmp_path))
    follower.look()
    drop_after(file, 10_000)
    assert follower.look().last_step == 10_000
    with open(file, "ab") as more:  # longer than before, and other records
        more.writelines(metrics_line(step, {"raw/content": 7.0}) for step in range(10_020, 90_000, 20))
    seen = follower.look()
    assert seen.lines[0]["raw/content"] == 7.0
    assert seen == Follower(Location.of(tmp_path)).look()
    file.unlink()
    assert follower.look() == Follower(Location.of(tmp_path / "nothing")).look()


def test_damage_is_told_wherever_it_shows(tmp_path: Path) -> None:
    lines = content_of(overfitted(5000, best=1)).splitlines(keepends=True)
    torn, strange, short = lines[100][:30] + b"\n", b"\x00\xff\x13\n", b"\n"
    damaged = [*lines[:100], torn, *lines[101:2000], strange, *lines[2000:], short, lines[-1]]
    (tmp_path / METRICS_FILE).write_bytes(b"".join(damaged))
    follower = Follower(Location.of(tmp_path))
    for _ in range(2):
        seen = follower.look()
        assert seen.note is not None
        assert seen.note.startswith(f"3 damaged lines of {METRICS_FILE} are left out; the first is line 101: it is not")
        assert len(seen.lines) == ENOUGH_LINES - 1
    (tmp_path / METRICS_FILE).write_bytes(b"\xff\xfe\x13" * 100)
    assert follower.look().note == f"{METRICS_FILE} is left out: it cannot be read: it is not text."
    (tmp_path / METRICS_FILE).write_bytes(b"\xff\xfe\n" * 100)
    assert "none of its 100 lines can be read (the first: it is not text)" in str(follower.look().note)


def test_lines_of_others_are_read_too(tmp_path: Path) -> None:
    """Without blanks, with another order, and with the words that Python writes."""
    lines = [b'{"raw/content":%f,"step":%d,"time/step":NaN}\n' % (step, step) for step in range(20, 1000, 20)]
    (tmp_path / METRICS_FILE).write_bytes(b"".join(lines))
    seen = Follower(Location.of(tmp_path)).look()
    assert (seen.note, len(seen.lines), seen.last_step) == (None, 49, 980)
    assert math.isnan(seen.lines[0]["time/step"])


def test_the_lines_are_those_that_training_reads(tmp_path: Path) -> None:
    records = overfitted(900, best=1)
    (tmp_path / METRICS_FILE).write_bytes(content_of(records))
    assert list(Follower(Location.of(tmp_path)).look().lines) == read_metrics(tmp_path)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    filler = {f"raw/perceptual_{number}": 1 / 3 for number in range(60)}
    block = b"".join(metrics_line(step, {"raw/content": 1.0, **filler}) for step in range(20, 20_020, 20))
    peaks = []
    for times in (4, 16):
        with open(tmp_path / METRICS_FILE, "wb") as file:
            for _ in range(times):
                file.write(block)
        tracemalloc.start()
        seen = Follower(Location.of(tmp_path)).look()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(seen.lines) == ENOUGH_LINES
    assert peaks[1] < 1.2 * peaks[0]
    assert os.path.getsize(tmp_path / METRICS_FILE) > 30e6
