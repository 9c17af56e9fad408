"""Attempts of a run that follow each other are one W&B run and one curve; other runs are never taken for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tecogan_dist.base.storage import Location
from tecogan_dist.tracking.wandb_identity import identity_of, sweep_identity
from tecogan_dist.tracking.wandb_offline import recorded
from tests.support.plain_runs import make_config
from tests.support.wandb_runs import Attempt, halves, offline, preview_files, steps
from tests.support.wandb_server import KEY, wandb_server

OFFICIAL = "validation/official"
pytestmark = pytest.mark.usefixtures("wandb_home")


def test_attempts_online_are_one_curve(tmp_path: Path) -> None:
    with wandb_server() as server:
        for first_step, last in ((0, 6), (4, 9)):
            attempt = Attempt(tmp_path, first_step=first_step, BASE_URL=server.url, API_KEY=KEY, RUN_ID="r1")
            if first_step:
                attempt.records.scalars(4, {f"{OFFICIAL}/psnr": 20.0})  # before there is a new row
                attempt.records.preview(4, preview_files(tmp_path))
            attempt.log(last)
            attempt.finish()
        history = server.runs["r1"].history
    assert steps(history) == halves(9)
    assert [row["_step"] for row in history] == list(range(1, 10))
    assert [(row["validation/step"], row[f"{OFFICIAL}/psnr"]) for row in history if "validation/step" in row] == [
        (4, 20.0)
    ]


def test_what_was_recorded_offline_reaches_w_and_b_with_a_later_attempt(tmp_path: Path) -> None:
    with wandb_server() as server:
        server.refuses = True
        attempt = Attempt(tmp_path, BASE_URL=server.url, API_KEY=KEY, RUN_ID="r1")
        attempt.log(6)
        attempt.finish()
        server.refuses = False
        shutil.copy(tmp_path / "run" / "metrics.jsonl", tmp_path)
        attempt = Attempt(tmp_path, first_step=4, BASE_URL=server.url, API_KEY=KEY, RUN_ID="r1")
        attempt.log(9)
        attempt.finish()
        assert steps(server.runs["r1"].history) == halves(9)


def test_sync_sends_all_attempts_as_one_curve(tmp_path: Path) -> None:
    """By the command that the warning names."""
    for first_step, last in ((0, 6), (4, 9)):
        attempt = Attempt(tmp_path, first_step=first_step, MODE="offline", RUN_ID="r1")
        attempt.log(last)
        attempt.finish()
        time.sleep(1.1)  # the client names folders by the second
    assert len(offline(tmp_path)) == 2
    folders = sorted(map(str, (tmp_path / "run" / "wandb").glob("offline-run-*-r1")))
    with wandb_server() as server:
        environment = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        words = [str(Path(sys.executable).parent / "wandb"), "sync", *folders]
        done = subprocess.run(
            words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert steps(server.runs["r1"].history) == halves(9)


def test_what_is_measured_late_takes_no_step_of_a_later_attempt(tmp_path: Path) -> None:
    for first_step, last in ((0, 5), (5, 8)):
        attempt = Attempt(tmp_path, "--steps", "8", first_step=first_step, MODE="offline")
        attempt.log(last)
        for step in (last - 2, last - 1, last):  # at the end, when there is one open row
            attempt.record(step, {f"{OFFICIAL}/psnr": 20.0 + step})
        attempt.finish()
        time.sleep(1.1)  # the client names folders by the second
    first, second = (run.rows for run in offline(tmp_path))
    assert steps([*first, *second]) == halves(8)
    assert [row["_step"] for row in first] == list(range(1, 6))
    assert [row["_step"] for row in second] == list(range(6, 11))  # and two rows beyond the last step
    late = [(row["validation/step"], row[f"{OFFICIAL}/psnr"]) for row in [*first, *second] if "validation/step" in row]
    assert late == [(step, 20.0 + step) for step in range(3, 9)]


# Other runs.


def test_a_folder_is_one_run_and_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    output, config = Location.of(folder), make_config([])
    identity = identity_of(output, config, first_step=0)
    assert len(identity) == 16
    assert identity_of(output, config, first_step=0) == identity_of(output, config, first_step=20) == identity
    # A run that goes on may have other settings; one that begins again, and W&B has its first steps already, may not.
    longer = make_config(["--steps", "99"])
    assert identity_of(output, longer, first_step=20) == identity
    begun_again = identity_of(output, longer, first_step=0)
    assert begun_again == identity_of(output, longer, first_step=0) != identity
    shutil.copytree(folder, tmp_path / "copy")
    copied = identity_of(Location.of(tmp_path / "copy"), longer, first_step=20)
    shutil.rmtree(folder)  # begun anew, or the same path on another machine
    folder.mkdir()
    anew = identity_of(output, longer, first_step=0)
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    assert sweep_identity(Location.of(sweep)) == sweep_identity(Location.of(sweep))
    assert len({identity, begun_again, copied, anew, sweep_identity(Location.of(sweep))}) == 5


def test_half_a_record_is_left_out(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, MODE="offline", RUN_ID="r1")
    attempt.log(2000)  # more than a block of the file
    attempt.finish()
    place = Location.of(tmp_path / "run")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert recorded(place, "r1").step == 2000
    content = file.read_bytes()
    seen = []
    for share in (0.2, 0.5, 0.9):
        file.write_bytes(content[: int(share * len(content))])
        seen.append(recorded(place, "r1").step)
    assert 0 < seen[0] < seen[1] < seen[2] < 2000
    file.write_bytes(content[: len(content) // 2] + bytes(100) + content[len(content) // 2 :])
    assert recorded(place, "r1").step in (seen[1] - 1, seen[1], seen[1] + 1)
    file.write_bytes(b"\xff" * 1000)
    assert recorded(place, "r1").step == 0
