"""A run that is killed and goes on is one curve: each step once in every record, with an undisturbed run's values."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.wandb_files import read_wandb

MEASURED_ANEW = ("time/", "throughput/", "memory/")
"""Groups of what differs between any two runs."""
STEPS, KILLED_AFTER = 9, 6
SETTINGS = ["--steps", str(STEPS), "--tracking.save_every", "4", "--tracking.wandb_project", "test"]

TRAIN = """
import os, signal, sys, time
from pathlib import Path

from tecogan_dist.base.storage import Location
from tecogan_dist.tracking.wandb_offline import recorded
from tecogan_dist.tracking.wandb_records import identity_of
from tests.support.plain_runs import make_config, run

folder, killed_after, *settings = sys.argv[1:]
output = Location.of(folder)


def log(step, values):
    if step != int(killed_after):
        return
    # The client has steps beyond the checkpoint of step 4 in its file, and the checkpoint is complete.
    deadline = time.monotonic() + 60
    saved = output / "checkpoint_00000004" / "state.json"
    while recorded(output, identity_of(output)).step < step - 1 or not saved.exists():
        if time.monotonic() > deadline:
            sys.exit("W&B's client has written nothing")
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)


run(make_config(settings), output, log=log)
"""


@pytest.mark.slow
def test_killed_and_resumed_is_one_curve(tmp_path: Path) -> None:
    environment = {**os.environ, "WANDB_MODE": "offline", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def train(folder: str, *, killed_after: int) -> int:
        words = [sys.executable, "-c", TRAIN, str(tmp_path / folder), str(killed_after), *SETTINGS]
        return subprocess.run(words, env=environment, timeout=120, check=False).returncode

    assert train("undisturbed", killed_after=-1) == 0
    assert train("killed", killed_after=KILLED_AFTER) == -signal.SIGKILL
    assert train("killed", killed_after=-1) == 0

    for rows_of in (metrics_rows, wandb_rows, tensorboard_rows):
        expected, found = rows_of(tmp_path / "undisturbed"), rows_of(tmp_path / "killed")
        assert [row["step"] for row in found] == [row["step"] for row in expected] == list(range(1, STEPS + 1))
        assert found == expected, rows_of.__name__
        assert {"loss/content", "raw/warp", "discriminator/balance"} <= found[0].keys()
    files = list((tmp_path / "killed" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2  # both attempts'
    assert max(row["_step"] for row in read_wandb(min(files)).rows) > 4  # rows that the second attempt came to again


def metrics_rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [_comparable(json.loads(line)) for line in lines]


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    rows = [row for file in files for row in read_wandb(file).rows]
    return [
        _comparable({"step": row["_step"], **{name: value for name, value in row.items() if not name.startswith("_")}})
        for row in rows
    ]


def tensorboard_rows(folder: Path) -> list[dict[str, Any]]:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    rows: dict[int, dict[str, Any]] = defaultdict(dict)
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            assert tag not in rows[event.step], f"{tag} of step {event.step} is there twice"
            rows[event.step][tag] = event.value
    return [_comparable({"step": step, **rows[step]}) for step in sorted(rows)]


def _comparable(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith(MEASURED_ANEW)}
