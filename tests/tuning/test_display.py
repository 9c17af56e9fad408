"""What people see of a sweep: plain lines in a log, a table on a terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pty
import re
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator

import pytest

from tecogan_dist.tuning.board import TrialLine, TrialProgress
from tecogan_dist.tuning.display import SweepDisplay
from tecogan_dist.tuning.ledger import Event
from tecogan_dist.tuning.records import Segment, TrialRecord, TrialState
from tecogan_dist.tuning.space import Distribution, Repeat, Score, Space

SPACE = Space(
    settings={
        "loss.warp": Distribution("uniform", (0.0, 2.0)),
        "discriminator.balance_threshold": Distribution("choice", (0.4, 0.6)),
    },
    score=Score(metrics={"tof": "min"}),
    trials=4,
    steps=60,
    measure_every=15,
)


def trial(number: int, state: TrialState = "running", tofs: tuple[float, ...] = (), *, reason: str = "") -> TrialRecord:
    values = {"loss.warp": (1 + number) / 3, "discriminator.balance_threshold": 0.4}
    return TrialRecord(
        number=number,
        seed=1,
        segments=(Segment(values=values, first_step=0),),
        state=state,
        reason=reason,
        scores={15 * (index + 1): {"psnr": 30.0, "tof": tof} for index, tof in enumerate(tofs)},
    )


def stopped(number: int, tof: float) -> TrialRecord:
    return trial(number, "stopped", (tof,), reason="stopped by asha after step 15")


def measured_now(record: TrialRecord, *, ago: float = 0.0) -> TrialRecord:
    return dataclasses.replace(record, times=dict.fromkeys(record.scores, time.time() - ago))


class Sweep:
    """Records that change, and a display of them."""

    def __init__(self, space: Space = SPACE) -> None:
        self.records: dict[str, TrialRecord] = {}
        self.display = SweepDisplay(space, lambda: tuple(self.records.values()))

    def now(self, record: TrialRecord, event: Event) -> None:
        self.records[record.name] = record
        self.display.changed(record, event)


def test_a_log_has_a_line_for_all_that_happens(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep()
    with sweep.display:
        sweep.now(trial(0), "started")
        sweep.now(measured_now(trial(0, tofs=(0.3,))), "measured")
        sweep.now(trial(0, "complete", (0.3, 0.3, 0.3, 0.2)), "ended")
        sweep.now(stopped(1, 0.1), "ended")
        sweep.now(trial(2, "failed", reason="its process died."), "ended")
        sweep.display.news([TrialLine("0003", "warning: slow"), TrialLine("preset", "warning: slow")])
        sweep.now(dataclasses.replace(trial(0, "complete", (0.25,)), role="preset"), "ended")
        sweep.now(dataclasses.replace(trial(0), role="repeat", repeats=0, seed=2), "started")
        sweep.now(dataclasses.replace(trial(0), role="repeat", repeats=None, seed=3), "started")
    assert capsys.readouterr().out.splitlines() == [
        "trial 0000 starts: warp 0.3333, balance_threshold 0.4",
        "trial 0000, step 15/60: tOF 0.3000",
        "trial 0000 is complete: tOF 0.2000; rank 1 of 1 so far",
        "trial 0001 was stopped by asha after step 15: tOF 0.1000; rank 2 of 2 so far",
        "trial 0002 has failed: its process died.",
        "trial 0003: warning: slow",
        "preset: warning: slow",
        "the preset is complete: tOF 0.2500",
        "trial 0000 with seed 2 starts: warp 0.3333, balance_threshold 0.4",
        "the preset with seed 3 starts: warp 0.3333, balance_threshold 0.4",
    ]


def test_limits_are_shown_beside_the_score(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep(dataclasses.replace(SPACE, score=Score(metrics={"tof": "min"}, limits={"psnr": 28.0})))
    sweep.now(measured_now(trial(0, tofs=(0.3,))), "measured")
    assert capsys.readouterr().out == "trial 0000, step 15/60: tOF 0.3000, PSNR 30.00\n"


def test_what_was_known_before_is_not_told_as_new(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep()
    sweep.now(measured_now(trial(0, tofs=(0.3,)), ago=100), "measured")
    sweep.now(measured_now(trial(0, "complete", (0.3, 0.3, 0.3, 0.2)), ago=100), "ended")
    sweep.now(measured_now(stopped(1, 0.1), ago=100), "ended")
    assert capsys.readouterr().out.splitlines() == [
        "trial 0000 is already complete: tOF 0.2000; rank 1 of 1 so far",
        "trial 0001 was already stopped by asha after step 15: tOF 0.1000; rank 2 of 2 so far",
    ]


def test_a_trial_that_took_anothers_weights_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep()
    copied = Segment(values={"loss.warp": 0.5, "discriminator.balance_threshold": 0.6}, first_step=15, donor=3)
    for tofs in ((0.3, 0.2), (0.3, 0.2, 0.1)):
        record = measured_now(trial(1, tofs=tofs))
        sweep.now(dataclasses.replace(record, segments=(*record.segments, copied)), "measured")
    assert capsys.readouterr().out.splitlines() == [
        "trial 0001 went on from trial 0003 after step 15: warp 0.5, balance_threshold 0.6",
        "trial 0001, step 30/60: tOF 0.2000",
        "trial 0001, step 45/60: tOF 0.1000",
    ]


@pytest.mark.parametrize("repeat", [None, Repeat(top=1, seeds=2)])
def test_the_time_left_is_that_of_all_trainings_to_come(
    repeat: Repeat | None, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = Sweep(dataclasses.replace(SPACE, repeat=repeat))
    sweep.now(stopped(0, 0.2), "ended")
    sweep.now(trial(1), "started")
    before = time.monotonic()
    sweep.display.news([TrialProgress("0001", 2, 1.0)])
    after = time.monotonic()
    time.sleep(0.2)
    sweep.display.news([TrialProgress("0001", 12, 1.0)])
    shortest = time.monotonic() - after
    sweep.now(measured_now(trial(1, tofs=(0.3,))), "measured")
    longest = time.monotonic() - before
    found = re.search(r"tOF 0\.3000; at most (?:(\d+):)?(\d+):(\d\d) left\n$", capsys.readouterr().out)
    assert found
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    trainings = 4 + 1 + (0 if repeat is None else 2 * 2)
    left = trainings * 60 - 60 - 15  # the stopped one is over
    told = 3600 * hours + 60 * minutes + seconds
    assert math.floor(left / 10 * shortest) <= told <= math.ceil(left / 10 * longest)


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, *, columns: int, lines: int) -> Iterator[Callable[[], str]]:
    """A pseudo-terminal as stdout; what it is given is what the value gives back, with nothing for colours."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(lines))
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    chunks: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()

    def shown() -> str:
        with contextlib.suppress(ValueError):
            stdout.close()
        reader.join(timeout=30)
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", b"".join(chunks).decode())

    with os.fdopen(theirs, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        yield shown
    reader.join(timeout=30)
    os.close(ours)


def last_table(text: str) -> list[str]:
    """Lines of the table that was drawn last, from its title on."""
    *_, title = re.finditer(r"\d+ of \d+ trainings have ended", text)
    return [line.rstrip() for line in text[title.start() :].rstrip().splitlines()]


def test_a_terminal_shows_a_table_best_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, columns=100, lines=30) as shown:
        sweep = Sweep()
        with sweep.display:
            sweep.now(trial(0), "started")
            sweep.now(trial(0, "complete", (0.3, 0.3, 0.3, 0.2)), "ended")
            sweep.now(stopped(1, 0.15), "ended")
            sweep.now(trial(2, "complete", (0.3, 0.3, 0.3, 0.1)), "ended")
            failed = trial(4, "failed", reason="the machine ran out of memory, and Ray ended its process." * 3)
            sweep.now(failed, "ended")
            sweep.now(dataclasses.replace(trial(0, "complete", (0.3, 0.3, 0.3, 0.25)), role="preset"), "ended")
            sweep.records["0003"] = trial(3, tofs=(0.4,))
            sweep.display.news([TrialProgress("0003", 21, 1.0)])
        text = shown()
    assert "starts" not in text  # the table shows it
    assert "trial 0001 was stopped by asha after step 15: tOF 0.1500; rank 2 of 2 so far" in text
    assert f"trial 0004 has failed: {failed.reason}" in text  # in full
    title, head, _, *rows = last_table(text)
    assert title == "5 of 5 trainings have ended (1 failed)"
    assert head.split() == ["rank", "trial", "step", "tOF", "warp", "balance_threshold"]
    assert [row.split() for row in rows if row.strip()] == [
        ["1", "0002", "60/60", "0.1000", "complete", "1", "0.4"],
        ["2", "0000", "60/60", "0.2000", "complete", "0.3333", "0.4"],
        ["3", "0001", "15/60", "0.1500", "stopped", "by", "asha", "0.6667", "0.4"],
        ["preset", "60/60", "0.2500", "complete", "0.3333", "0.4"],
        ["0003", "21/60", "0.4000", "running", "1.333", "0.4"],
    ]


def test_a_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, columns=55, lines=14) as shown:
        sweep = Sweep(dataclasses.replace(SPACE, trials=40))
        with sweep.display:
            for number in range(20):
                sweep.records[f"{number:04d}"] = stopped(number, 0.5 - number / 100)
            for number in range(20, 30):
                sweep.records[f"{number:04d}"] = trial(number)
            sweep.display.news([])
        table = last_table(shown())
    assert len(table) < 14
    assert max(map(len, table)) == 55
    assert table[0] == "20 of 41 trainings have ended"
    assert table[1].split() == ["rank", "trial", "step", "tOF", "warp"]  # balance_threshold has no room
    names = [row.split()[1] for row in table if "stopped" in row]
    assert names == ["0019", "0018", "0017", "0016"]
    assert sum("running" in row for row in table) == 4
    assert table[-1] == "and 16 more that have ended"


def test_the_table_is_drawn_once_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, columns=80, lines=24) as shown:
        sweep = Sweep()
        with sweep.display:
            began = time.monotonic()
            for _ in range(20):
                sweep.display.news([])
            seconds = time.monotonic() - began
        text = shown()
    # Once more when it is taken away.
    assert text.count("trainings have ended") <= 2 + math.floor(seconds)


def test_a_terminal_that_can_only_print_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, columns=80, lines=24) as shown:
        monkeypatch.setenv("TERM", "dumb")
        sweep = Sweep()
        with sweep.display:
            sweep.now(trial(0), "started")
            sweep.display.news([])
        text = shown()
    assert text == "trial 0000 starts: warp 0.3333, balance_threshold 0.4\n"
