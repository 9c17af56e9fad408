"""``tecogan status``: what is told of a run, from its folder alone, and how the command ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tecogan_dist.base.storage import Location, UnreachableError
from tecogan_dist.cli import main
from tecogan_dist.commands import status as command
from tecogan_dist.runs import status_writer
from tecogan_dist.runs.folder import RunFolder, write_run_file
from tecogan_dist.runs.records import METRICS_FILE, SCORES_FILE, metrics_line, scores_text
from tecogan_dist.runs.status import RESTARTS_FILE, STATUS_FILE
from tecogan_dist.runs.status_writer import StatusWriter
from tests.support.plain_runs import make_config, run
from tests.support.s3_server import S3Server
from tests.support.terminal import terminal
from tests.support.training_runs import until


def begun(place: Location, *overrides: str) -> Location:
    """A folder that holds a run."""
    config = make_config([*overrides] if "--steps" in overrides else ["--steps", "10"])
    write_run_file(RunFolder(path=place, checkpoint=None, resume_from=None), config=config, data=Location.of("/store"))
    return place


def writer(place: Location, **changes: object) -> StatusWriter:
    given: dict[str, Any] = {"first_step": 0, "steps": 10, "workers": 2, "gpus": 2, "device": "NVIDIA H100"}
    given |= {"metric": "psnr", "scores": {}, "say": print}
    return StatusWriter(place, **{**given, **changes})


def ended(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, dict[str, str]]:
    """The status of ``tecogan status``, and its lines by what they are about."""
    status: object = 0
    try:
        main(["status", *words])
    except SystemExit as end:
        status = end.code
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.count("\nnote: ") <= 1  # else one hides another here
    return status, dict(line.split(maxsplit=1) for line in shown.out.splitlines())


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, server: S3Server) -> Location:
    return Location.of(tmp_path / "run" if request.param == "local" else server.uri(f"{tmp_path.name}/run"))


def test_a_run_on_its_way(place: Location, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_writer, "SECONDS", 0.2)
    monkeypatch.setattr(status_writer, "REMOTE_SECONDS", 0.2)
    begun(place)
    with writer(place) as first:
        first.progress(2, 1.0)
    scores = {2: {"psnr": 30.0, "tof": 0.5}}
    with writer(place, first_step=2, scores=scores) as one:
        one.progress(5, 0.5)
        one.saved(4)
        one.measured(4, {"psnr": 29.5, "tof": 0.25})
        one.warned("step 5 is left out: a loss is not finite")
        (place / "checkpoint_00000004" / "state.json").write_bytes(b"{}")
        until(lambda: b"is left out" in (place / STATUS_FILE).read_bytes(), "it on record", 60)
        status, lines = ended(capsys, str(place))
    assert status == 0
    assert lines["state"] == f"running (pid {os.getpid()} on {os.uname().nodename})"
    assert lines["step"] == "5 of 10 (50%), 2 s/step, 0:10 left"
    assert lines["attempt"].startswith("began at step 2, ")
    assert lines["attempt"].endswith(" ago, on 2 workers, 2 GPUs (NVIDIA H100); attempt 2")
    assert lines["checkpoint"].startswith("step 4, ")
    assert lines["validation"] == "step 4: PSNR 29.5 (best 30 after step 2), tOF 0.25 (best so far)"
    assert lines["warning"].endswith("after step 5: step 5 is left out: a loss is not finite")


def test_a_whole_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(Location.of(tmp_path / "run"))
    run(make_config(["--steps", "10", "--tracking.save-every", "5"]), tmp_path / "run")
    capsys.readouterr()
    status, lines = ended(capsys, str(tmp_path / "run"))
    assert status == 0
    assert lines["state"].startswith("finished ")
    assert lines["step"] == "10 of 10 (100%)"
    assert lines["checkpoint"].startswith("step 10, ")
    status, _ = ended(capsys, str(tmp_path / "run"), "--watch")
    assert status == 0
    main(["status", str(tmp_path / "run"), "--json"])
    tree = json.loads(capsys.readouterr().out)
    assert (tree["verdict"], tree["step"], tree["status"]["state"]) == ("finished", 10, "finished")
    assert [one["step"] for one in tree["attempts"]] == [0]


def test_a_run_that_failed_or_was_stopped_ends_the_command_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed, stopped = begun(Location.of(tmp_path / "failed")), begun(Location.of(tmp_path / "stopped"))
    with pytest.raises(OSError, match="full"), writer(failed):
        raise OSError("the disk is full")
    with writer(stopped) as one:
        one.progress(3, 1.0)
    status, lines = ended(capsys, str(failed))
    assert status == 1
    assert lines["state"].endswith(
        " ago: OSError: the disk is full; the same 'tecogan train' command starts over, as there is no checkpoint"
    )
    status, lines = ended(capsys, str(stopped), "--watch")
    assert (status, lines["step"]) == (1, "3 of 10 (30%)")


def test_checkpoints_that_were_removed_are_not_still_to_come(
    place: Location, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(place)
    with writer(place) as one:
        one.progress(3, 1.0)
    assert ended(capsys, str(place))[1]["checkpoint"] == "none yet"
    with writer(place, first_step=3) as one:
        one.progress(5, 1.0)
        one.saved(4)
    assert ended(capsys, str(place))[1]["checkpoint"] == "none left (the last was of step 4)"
    (place / "checkpoint_00000002" / "state.json").write_bytes(b"{}")
    assert ended(capsys, str(place))[1]["checkpoint"] == "step 2"


def test_a_damaged_line_costs_a_note_and_no_pattern(place: Location, capsys: pytest.CaptureFixture[str]) -> None:
    begun(place)
    with writer(place) as one:
        one.progress(10, 1.0)
    waits = [metrics_line(step, {"time/step": 1.0, "time/data_wait": 0.5}) for step in range(20, 2000, 20)]
    lines = [*waits[:50], b'{"step": 2, "loss/content": 1e\n', *waits[50:]]
    (place / METRICS_FILE).write_bytes(b"".join(lines))
    status, found = ended(capsys, str(place))
    assert status == 0
    assert found["state"].startswith("finished")
    assert found["pattern"].startswith("waiting for data, steps ")
    assert found["note:"].startswith(f"line 51 of {METRICS_FILE} is left out: it is not valid JSON")
    (place / METRICS_FILE).write_bytes(b"".join(waits).replace(b"0.5}", b"NaN}", 2))  # as others write it
    _, found = ended(capsys, str(place))
    assert "pattern" in found
    assert "note:" not in found


@pytest.mark.parametrize("file", [STATUS_FILE, METRICS_FILE, SCORES_FILE, RESTARTS_FILE])
@pytest.mark.parametrize("content", [b'{"a', b"\xff\xfe\x00" * 100 + b"\n", None])
def test_a_file_that_cannot_be_read_costs_a_note(
    file: str, content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = begun(Location.of(tmp_path / "run"))
    with writer(place) as one:
        one.progress(10, 1.0)
    (place / METRICS_FILE).write_bytes(metrics_line(7, {"validation/official/psnr": 30.0}))
    (place / SCORES_FILE).write_bytes(scores_text({7: {"psnr": 30.0}}))
    assert "note:" not in ended(capsys, str(place))[1]
    (place / file).path.unlink()
    if content is None:
        (place / file).path.mkdir()
    else:
        (place / file).write_bytes(content)
    status, found = ended(capsys, str(place))
    assert status == 0
    assert found["validation"] == "step 7: PSNR 30 (best so far)"  # two files say so
    assert found["step"].startswith("7 of 10" if file == STATUS_FILE else "10 of 10")
    if content == b'{"a' and file in (METRICS_FILE, RESTARTS_FILE):
        assert "note:" not in found  # half a line, as a killed process leaves it
        return
    assert file in found["note:"]
    assert "save it as UTF-8" not in found["note:"]
    assert found["note:"].count(file) == 1
    assert "give another path" not in found["note:"]  # nobody gave this one
    assert content is not None or file == METRICS_FILE or found["note:"].endswith("is wanted: move it away.")
    main(["status", str(place), "--json"])
    assert len(json.loads(capsys.readouterr().out)["notes"]) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "does not exist: name a folder that 'tecogan train' writes."),
        (["empty"], "is not a run's folder (no run.yaml): name one that 'tecogan train' writes; 'tecogan list' shows"),
        (["file"], "is not a folder: name one"),
        (["run", "--every", "5"], "--every is about --watch: give both."),
        (["run", "--every", "0", "--watch"], "must be at least 1"),
        (["s3://nowhere"], "is a whole bucket: name a run's folder in it."),
        (["strange"], "run.yaml is damaged"),
    ],
)
def test_what_cannot_be_told_is_one_sentence(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name in ("run", "strange"):
        begun(Location.of(tmp_path / name))
    (tmp_path / "strange" / "run.yaml").write_text("config: [1, 2")
    with pytest.raises(SystemExit) as end:
        main(["status", *words])
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert shown.err.count("run.yaml") <= 1


def test_hostile_text_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = begun(Location.of(tmp_path / "run"))
    with writer(place, device="evil\x1b[2J", scores={1: {"p\x1b[2J": 1.0}}) as one:
        one.warned("bad\x1b[2J\r\nnews")
        one.fail(RuntimeError("worse\x1b[2J"))
    tree = json.loads((tmp_path / "run" / STATUS_FILE).read_bytes())
    for name in ("device", "problem", "host"):
        tree[name] = "evil\x1b[2J\n" + str(tree[name])
    (tmp_path / "run" / STATUS_FILE).write_text(json.dumps(tree))
    status, lines = ended(capsys, str(place))
    assert status == 1
    assert "\x1b" not in "".join(lines.values())
    assert "evil\\x1b[2J\\n" in lines["state"]


def test_a_watch_in_a_log_has_a_line_for_each_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_writer, "SECONDS", 0.2)
    place = begun(Location.of(tmp_path / "run"))

    def train() -> None:
        with writer(place) as one:
            one.progress(5, 2.0)
            time.sleep(4)
            one.warned("the disk is nearly full")
            time.sleep(3)
            one.progress(10, 2.0)

    thread = threading.Thread(target=train)
    thread.start()
    until(lambda: (tmp_path / "run" / STATUS_FILE).exists(), "a status", 30)
    with pytest.MonkeyPatch.context() as patch:
        original, calls = command.Viewer.look, [0]

        def look(self: command.Viewer) -> command.Overview:
            calls[0] += 1
            if calls[0] == 3:
                raise UnreachableError("s3://x cannot be read: no answer.")
            return original(self)

        patch.setattr(command.Viewer, "look", look)
        main(["status", str(place), "--watch", "--every", "1"])
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("running; step ")
    assert "warning: s3://x cannot be read: no answer." in lines
    assert sum("step 5/10" in line for line in lines) <= 2
    assert "warning: the disk is nearly full" in lines
    assert any(line.startswith("state       finished ") for line in lines)
    assert len(lines) == len(set(lines))


TRAINS = """
import sys, time
from pathlib import Path
from tests.support.plain_runs import make_config, run
def log(step, metrics):
    time.sleep(0.2)
run(make_config(["--steps", "1000", "--tracking.save-every", "5"]), Path(sys.argv[1]), say=lambda line: None, log=log)
"""


def test_a_terminal_watches_a_run_until_it_is_killed(tmp_path: Path) -> None:
    begun(Location.of(tmp_path / "run"), "--steps", "1000")
    training = subprocess.Popen([sys.executable, "-c", TRAINS, str(tmp_path / "run")])
    try:
        until(lambda: (tmp_path / "run" / STATUS_FILE).exists(), "a status", 120)
        words = [sys.executable, "-m", "tecogan_dist.status", str(tmp_path / "run"), "--watch", "--every", "1"]
        with terminal(words, columns=60, lines=20) as one:
            one.wait_for(f"running (pid {training.pid}")
            one.wait_for("checkpoint  step ")
            training.send_signal(signal.SIGKILL)
            assert one.finish(60) == 1
            lines = one.shown()
    finally:
        training.kill()
        training.wait(60)
    assert one.after == one.before
    assert not one.cursor_is_hidden
    assert lines[0].startswith("state       not running: its process")
    assert sum(line.startswith("state ") for line in lines) == 1


def test_ctrl_c_ends_the_watch_and_not_the_run(tmp_path: Path) -> None:
    place = begun(Location.of(tmp_path / "run"))
    with writer(place):
        until(lambda: (tmp_path / "run" / STATUS_FILE).exists(), "a status", 30)
        with terminal(
            [sys.executable, "-m", "tecogan_dist.status", str(place), "--watch"], columns=80, lines=20
        ) as one:
            one.wait_for("state       running")
            one.press(b"\x03")
            assert one.finish(60) == 130
            assert one.shown()[-1] == "interrupted: the run goes on as it did"
        assert not one.cursor_is_hidden
