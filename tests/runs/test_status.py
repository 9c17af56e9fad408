"""``status.json`` and ``restarts.jsonl``: written beside the steps, read strictly, judged from elsewhere."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import WriterLock
from tecogan_dist.base.owners import Owner
from tecogan_dist.base.storage import Location
from tecogan_dist.config.load import to_tree
from tecogan_dist.runs import standing, status_writer
from tecogan_dist.runs.folder import RunFolder, write_run_file
from tecogan_dist.runs.owner import TakenOverError, check_owner, claim
from tecogan_dist.runs.standing import spoken, standing_of
from tecogan_dist.runs.status import (
    RESTARTS_FILE,
    SILENT_SECONDS,
    STATUS_FILE,
    Restart,
    Status,
    now_utc,
    read_restarts,
    read_status,
)
from tecogan_dist.runs.status_writer import StatusWriter
from tecogan_dist.tuning.folder import SWEEP_FILE
from tecogan_dist.tuning.segments import TRIALS_FOLDER
from tests.support.plain_runs import make_config, run
from tests.support.s3_server import S3Server
from tests.support.training_runs import until


def writer(place: Location, **changes: object) -> StatusWriter:
    given: dict[str, object] = {
        "first_step": 0,
        "steps": 10,
        "workers": 2,
        "gpus": 0,
        "device": "cpu",
        "metric": "psnr",
        "scores": {},
        "say": print,
    }
    return StatusWriter(place, **{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, server: S3Server) -> Location:
    return Location.of(tmp_path / "run" if request.param == "local" else server.uri(f"{tmp_path.name}/run"))


def written(place: Location, steps: int = 10) -> Location:
    """A folder that holds a run."""
    folder = RunFolder(path=place, checkpoint=None, resume_from=None)
    write_run_file(folder, config=make_config(["--steps", str(steps)]), data=Location.of("/store"))
    return place


def test_what_is_told_is_read_back(place: Location) -> None:
    with writer(place, scores={2: {"psnr": 30.0, "tof": 0.5}}) as status:
        status.progress(4, 2.5)
        status.saved(4)
        status.measured(4, {"psnr": 29.0, "tof": 0.25, "lpips": float("nan")})
        status.warned("a disk\x1b[31m is full")
        status.progress(10, 5.0)
    found = read_status(place)
    assert found is not None
    assert (found.state, found.step, found.steps, found.rate, found.first_step) == ("finished", 10, 10, 5.0, 0)
    assert found.owner == Owner.me(holds=True)
    assert found.checkpoint is not None
    assert found.checkpoint.step == 4
    assert found.validation is not None
    assert found.validation.values == {"psnr": 29.0, "tof": 0.25, "lpips": None}
    assert {name: (best.step, best.value) for name, best in found.validation.best.items()} == {
        "psnr": (2, 30.0),
        "tof": (4, 0.25),
    }
    assert found.warning is not None
    assert (found.warning.step, found.warning.text) == (4, "a disk\\x1b[31m is full")
    assert found.age(now_utc()) < 60
    assert [(one.step, one.workers) for one in read_restarts(place)] == [(0, 2)]


def test_attempts_stay_on_record_whatever_they_came_to(place: Location) -> None:
    for first_step in (0, 5, 5):
        with pytest.raises(RuntimeError), writer(place, first_step=first_step):
            raise RuntimeError("nothing saved")
    assert [one.step for one in read_restarts(place)] == [0, 5, 5]
    found = read_status(place)
    assert found is not None
    assert (found.state, found.problem) == ("failed", "RuntimeError: nothing saved")


def test_a_run_that_is_stopped_early_says_so(place: Location) -> None:
    with writer(place) as status:
        status.progress(7, None)
    found = read_status(place)
    assert found is not None
    assert (found.state, found.rate, found.seconds_left()) == ("stopped", None, None)


def test_a_store_that_hangs_delays_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, begun = threading.Event(), threading.Event()

    def write(self: Location, data: bytes) -> None:  # noqa: ARG001
        begun.set()
        hanging.wait(60)

    monkeypatch.setattr(Location, "write_bytes", write)
    monkeypatch.setattr(status_writer, "END_SECONDS", 0.2)
    started = time.monotonic()
    with writer(Location.of(tmp_path)) as status:
        assert begun.wait(30)
        for step in range(1, 1001):
            status.progress(step, 1.0)
        told = time.monotonic() - started
    hanging.set()
    assert told < 5
    assert time.monotonic() - started < 10


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / STATUS_FILE).mkdir()
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status_writer, "SECONDS", 0.05)
        patch.setattr(status_writer, "END_SECONDS", 0.3)
        with writer(Location.of(tmp_path), say=said.append) as status:
            for step in range(1, 5):
                status.progress(step, 1.0)
                time.sleep(0.2)
    assert len(said) == 1
    assert said[0].startswith(f"warning: the run's status could not be written ({tmp_path / STATUS_FILE} cannot")


def test_nothing_is_written_to_a_run_that_another_command_has_taken(place: Location) -> None:
    old, new = claim(place), claim(place)
    with writer(place, may_write=lambda: check_owner(place, old)) as status:
        status.progress(3, 1.0)
    assert read_status(place) is None
    assert read_restarts(place) == []
    with pytest.raises(TakenOverError):
        check_owner(place, old)
    check_owner(place, new)


def test_half_a_line_at_the_end_is_left_out_and_overwritten(place: Location) -> None:
    line = Restart(step=0, time=now_utc(), workers=1, gpus=0, host="h").to_line()
    (place / RESTARTS_FILE).write_bytes(line + line[: len(line) // 2])
    assert [one.step for one in read_restarts(place)] == [0]
    with writer(place, first_step=5):
        pass
    assert [one.step for one in read_restarts(place)] == [0, 5]


@pytest.mark.parametrize("line", ["{}", "[]", '{"step": NaN}', '{"step": -1}', "\x00", '{"step": 1, "step": 2}'])
def test_a_damaged_line_is_named_and_left_alone(tmp_path: Path, line: str) -> None:
    good = Restart(step=0, time=now_utc(), workers=1, gpus=0, host="h").to_line().decode()
    (tmp_path / RESTARTS_FILE).write_text(good + line + "\n" + good)
    with pytest.raises(
        UserError, match=rf"{RESTARTS_FILE} is damaged in line 2 \((?!line).*\): mend or remove that line"
    ):
        read_restarts(Location.of(tmp_path))
    said: list[str] = []
    with writer(Location.of(tmp_path), say=said.append):
        pass
    assert (tmp_path / RESTARTS_FILE).read_text() == good + line + "\n" + good
    assert len(said) == 1
    assert "has no line for this attempt" in said[0]


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.99])
def test_a_status_of_which_a_part_is_missing(tmp_path: Path, kept: float) -> None:
    with writer(Location.of(tmp_path)):
        pass
    text = (tmp_path / STATUS_FILE).read_bytes().rstrip()
    (tmp_path / STATUS_FILE).write_bytes(text[: int(kept * len(text))])
    if kept == 1:
        assert read_status(Location.of(tmp_path)) is not None
        return
    with pytest.raises(UserError, match=rf"{STATUS_FILE} is damaged, or of another version \(.*\): remove it"):
        read_status(Location.of(tmp_path))


@pytest.mark.parametrize(
    "change",
    [{"state": "dreaming"}, {"step": "3"}, {"rate": 0.0}, {"time": "2026-01-01T00:00:00"}, {"more": 1}, {"pid": True}],
)
def test_a_status_with_a_wrong_value(tmp_path: Path, change: dict[str, object]) -> None:
    with writer(Location.of(tmp_path)):
        pass
    tree = json.loads((tmp_path / STATUS_FILE).read_bytes())
    (tmp_path / STATUS_FILE).write_text(json.dumps(tree | change))
    with pytest.raises(UserError, match=rf"is damaged, or of another version \({next(iter(change))}\)"):
        read_status(Location.of(tmp_path))


def status_of(run: Location, **changes: object) -> None:
    """Write a status of a process that is somewhere else."""
    with writer(run, steps=10) as one:
        one.progress(5, 2.0)
    found = read_status(run)
    assert found is not None
    elsewhere = dataclasses.replace(Owner.me(), machine="another", host="far", pid=17)
    far = dataclasses.replace(found, process=elsewhere.line().decode().strip(), host="far", pid=17, state="running")
    changed: Status = dataclasses.replace(far, **changes)  # type: ignore[arg-type]
    (run / STATUS_FILE).write_bytes(changed.to_json())


@pytest.mark.parametrize(
    ("changes", "age", "verdict", "text"),
    [
        ({}, 3, "running", "running (pid 17 on far), last seen 3 seconds ago"),
        (
            {},
            720,
            "silent",
            "no sign of life for 12 minutes (pid 17 on far): if its machine is gone, {}",
        ),
        ({}, SILENT_SECONDS - 60, "running", "running (pid 17 on far), last seen 4 minutes ago"),
        ({}, -30, "running", "running (pid 17 on far), last seen 0 seconds ago"),  # another clock
        ({"state": "stopped"}, 7200, "stopped", "stopped 2 hours ago at step 5 of 10; {}"),
        (
            {"state": "failed", "problem": "the disk is full."},
            120,
            "failed",
            "failed 2 minutes ago: the disk is full; {}",
        ),
        ({"state": "finished", "step": 10}, 90000, "finished", "finished 25 hours ago"),
        ({"state": "finished", "step": 10}, 90000 * 3, "finished", "finished 3 days 3 h ago"),
    ],
)
def test_a_run_of_another_machine(
    place: Location, changes: dict[str, object], age: float, verdict: str, text: str
) -> None:
    """It says how the run would go on, as it is: without a checkpoint it would not."""
    status_of(written(place), **changes)
    status = read_status(place)
    assert status is not None
    now = status.time + datetime.timedelta(seconds=age)
    standing = standing_of(place, now=now)
    again = "the same 'tecogan train' command starts over, as there is no checkpoint"
    assert (standing.verdict, standing.text, standing.steps) == (verdict, text.format(again), 10)
    assert standing.seconds_left == (2.5 if verdict == "running" else None)
    (place / "checkpoint_00000004" / "state.json").write_bytes(b"{}")
    goes_on = "run the same 'tecogan train' command to go on from its checkpoint"
    assert standing_of(place, now=now).text == text.format(goes_on)


def test_a_command_that_lives_starts_its_workers_again(place: Location) -> None:
    status_of(written(place), state="failed", problem="a worker was lost")
    assert standing_of(place).verdict == "failed"
    with WriterLock(place):
        standing = standing_of(place)
    assert standing.verdict == "starting"
    assert standing.text.startswith("starting again: the last attempt failed")


def test_a_sweep_s_trial_is_gone_on_with_by_the_sweep_s_command(place: Location) -> None:
    assert (standing.TRIALS_FOLDER, standing.SWEEP_FILE) == (TRIALS_FOLDER, SWEEP_FILE)
    trial = place / "trials" / "0003"
    status_of(written(trial), state="stopped")
    assert standing_of(trial).text.endswith("; the same 'tecogan train' command starts over, as there is no checkpoint")
    (place / "sweep.yaml").write_bytes(b"{}")
    assert standing_of(trial).text.endswith("; the same 'tecogan tune' command starts over, as there is no checkpoint")
    (trial / "checkpoint_00000004" / "state.json").write_bytes(b"{}")
    assert standing_of(trial).text.endswith("; run the same 'tecogan tune' command to go on from its checkpoint")


def test_a_run_without_a_status(place: Location) -> None:
    written(place)
    for step, verdict in ((0, "stopped"), (4, "stopped"), (10, "finished")):
        if step:
            (place / f"checkpoint_{step:08}" / "state.json").write_bytes(b"{}")
        standing = standing_of(place)
        assert (standing.verdict, standing.step) == (verdict, step)


def test_a_command_that_has_just_begun(place: Location) -> None:
    written(place)
    with WriterLock(place):
        standing = standing_of(place)
    assert (standing.verdict, standing.step) == ("starting", 0)


def test_a_finished_run_of_which_more_is_wanted(place: Location) -> None:
    with writer(place) as one:
        one.progress(10, 1.0)
    written(place, steps=20)
    (place / "checkpoint_00000010" / "state.json").write_bytes(b"{}")
    standing = standing_of(place)
    assert (standing.verdict, standing.step, standing.steps) == ("stopped", 10, 20)
    assert (
        standing.text == "stopped at step 10 of 20; run the same 'tecogan train' command to go on from its checkpoint"
    )
    with WriterLock(place):
        standing = standing_of(place)
    assert (standing.verdict, standing.text) == ("starting", "starting again: 20 steps are wanted now")


@pytest.mark.parametrize("content", [b'{"state": "runn', b"\xff\x00\x13", b""])
def test_a_damaged_status_is_told_and_the_rest_judged(place: Location, content: bytes) -> None:
    written(place)
    (place / "checkpoint_00000004" / "state.json").write_bytes(b"{}")
    (place / STATUS_FILE).write_bytes(content)
    with pytest.raises(UserError, match=STATUS_FILE):
        standing_of(place)
    notes: list[str] = []
    standing = standing_of(place, notes=notes)
    assert (standing.verdict, standing.step, standing.status) == ("unknown", 4, None)
    assert "if it is not running, run the same 'tecogan train' command to go on from its checkpoint" in standing.text
    assert len(notes) == 1
    assert f"{place / STATUS_FILE} is " in notes[0]
    assert "UTF-8:" not in notes[0]  # nobody is to save it as such
    (place / "checkpoint_00000010" / "state.json").write_bytes(b"{}")
    assert standing_of(place, notes=notes).verdict == "finished"
    with WriterLock(place):
        standing = standing_of(place, notes=notes)
    assert (standing.verdict, standing.is_alive) == ("starting", True)


def test_what_is_no_run(tmp_path: Path, server: S3Server) -> None:
    for what, sentence in (
        (tmp_path / "nothing", "does not exist: name a folder that 'tecogan train' writes"),
        (tmp_path, r"is not a run's folder \(no run.yaml\)"),
        (Path(__file__), "is not a folder: name one"),
    ):
        with pytest.raises(UserError, match=sentence):
            standing_of(Location.of(what))
    with pytest.raises(UserError, match="is a whole bucket: name a run's folder in it"):
        standing_of(Location.of(server.uri("").rstrip("/")))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (59.4, "59 seconds"),
        (60, "1 minute"),
        (720, "12 minutes"),
        (5400, "1.5 hours"),
        (86400 * 1.5, "36 hours"),
        (86400 * 2, "2 days"),
        (86400 * 3 + 4 * 3600 + 100, "3 days 4 h"),
        (86400 * 30, "30 days"),
    ],
)
def test_spans_of_time(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


def test_a_training_keeps_both(tmp_path: Path) -> None:
    config = make_config(["--tracking.save-every", "2", "--optimizer.learning-rate", "1e30"])
    said: list[str] = []
    with pytest.raises(UserError):
        run(config, tmp_path / "bad", say=said.append)
    found = read_status(Location.of(tmp_path / "bad"))
    assert found is not None
    assert found.state == "failed"
    assert found.problem
    assert found.warning is not None
    assert said[-1].removeprefix("warning: ").startswith(found.warning.text[:40])
    checkpoints: list[int] = []
    good = make_config(["--tracking.save-every", "2"])
    run(good, tmp_path / "good", checkpoint=checkpoints.append)
    found = read_status(Location.of(tmp_path / "good"))
    assert found is not None
    assert (found.state, found.step, found.steps) == ("finished", 6, 6)
    assert found.rate is not None
    assert checkpoints == [2, 4, 6]
    assert found.checkpoint is not None
    assert found.checkpoint.step == 6


TRAINS = """
import sys, time
from pathlib import Path
from tests.support.plain_runs import make_config, run
def log(step, metrics):
    print("step", step, flush=True)
    time.sleep(0.2)
run(make_config(["--steps", "1000", "--tracking.save-every", "5"]), Path(sys.argv[1]), say=lambda line: None, log=log)
"""


def test_a_killed_process_is_told_from_one_that_lives(tmp_path: Path) -> None:
    place = written(Location.of(tmp_path / "run"), steps=1000)
    process = subprocess.Popen([sys.executable, "-c", TRAINS, str(place)], stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: (status := read_status(place)) is not None and status.step > 0, "a step on record", 120)
        standing = standing_of(place)
        assert (standing.verdict, standing.text) == ("running", f"running (pid {process.pid} on {Owner.me().host})")
        assert standing.seconds_left is not None
        os.kill(process.pid, signal.SIGSTOP)
        # A stopped process gives no sign of life after a while, and not before.
        now = now_utc()
        assert standing_of(place, now=now).verdict == "running"
        later = standing_of(place, now=now + datetime.timedelta(seconds=SILENT_SECONDS + 60))
        assert later.verdict == "silent"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
    standing = standing_of(place)
    assert standing.verdict == "gone"
    assert "has been gone for at most " in standing.text
    assert standing.text.endswith("; run the same 'tecogan train' command to go on from its checkpoint")


def test_the_settings_of_a_run_are_read_for_its_steps(tmp_path: Path) -> None:
    place = written(Location.of(tmp_path / "run"), steps=77)
    assert standing_of(place).steps == 77
    assert to_tree(make_config(["--steps", "77"]))["steps"] == 77
