"""A run that is killed and goes on is one curve: each step once in every record, with an undisturbed run's values.

The same is true of what is measured on held-out scenes beside training, which comes when training has gone on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tecogan_dist.data.writing import ClipStoreWriter
from tecogan_dist.tracking.wandb_offline import LATE_STEP
from tests.support.store import add_scene
from tests.support.wandb_files import read_wandb

MEASURED_ANEW = ("time/", "throughput/", "memory/")
"""Groups of what differs between any two runs."""
STEPS, KILLED_AFTER = 9, 6
SETTINGS = ["--steps", str(STEPS), "--tracking.save_every", "4", "--tracking.wandb_project", "test"]
VALIDATED = [4, 8, 9]
Points = dict[tuple[str, int], float]
"""Values by name and training step."""

TRAIN = """
import os, signal, sys, time
from pathlib import Path

from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import ClipStore
from tecogan_dist.tracking.wandb_offline import recorded
from tecogan_dist.tracking.wandb_identity import identity_of
from tests.support.plain_runs import make_config, run

folder, store, killed_after, *settings = sys.argv[1:]
output, config = Location.of(folder), make_config(settings)


def log(step, values):
    if step != int(killed_after):
        return
    # The client has steps beyond the checkpoint of step 4 in its file, and the checkpoint is complete.
    deadline = time.monotonic() + 60
    saved = output / "checkpoint_00000004" / "state.json"
    while recorded(output, identity_of(output, config, first_step=0)).step < step - 1 or not saved.exists():
        if time.monotonic() > deadline:
            sys.exit("W&B's client has written nothing")
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)


run(config, output, log=log, held_out=ClipStore.open(Path(store)))
"""


@pytest.mark.slow
def test_killed_and_resumed_is_one_curve(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    with ClipStoreWriter(tmp_path / "store") as writer:
        coarse = random.integers(0, 256, (12, 14, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        add_scene(writer, 1, (coarse[:80, i : i + 96] for i in range(8)))
    environment = {**os.environ, "WANDB_MODE": "offline", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def train(folder: str, *, killed_after: int) -> int:
        words = [
            sys.executable,
            "-c",
            TRAIN,
            str(tmp_path / folder),
            str(tmp_path / "store"),
            str(killed_after),
            *SETTINGS,
        ]
        return subprocess.run(words, env=environment, timeout=120, check=False).returncode

    assert train("undisturbed", killed_after=-1) == 0
    assert train("killed", killed_after=KILLED_AFTER) == -signal.SIGKILL
    assert train("killed", killed_after=-1) == 0

    for points_of in (metrics_points, wandb_points, tensorboard_points):
        expected, found = points_of(tmp_path / "undisturbed"), points_of(tmp_path / "killed")
        assert found == expected, points_of.__name__
        for name in ("loss/content", "raw/warp", "discriminator/balance"):
            assert [step for other, step in sorted(found) if other == name] == list(range(1, STEPS + 1))
        assert [step for name, step in sorted(found) if name == "validation/official/tof"] == VALIDATED
    files = list((tmp_path / "killed" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2  # both attempts'
    assert max(row["_step"] for row in read_wandb(min(files)).rows) > 4  # rows that the second attempt came to again


def metrics_points(folder: Path) -> Points:
    points = Points()
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        step = values.pop("step")
        for name, value in values.items():
            _add(points, name, step, value)
    return points


def wandb_points(folder: Path) -> Points:
    points = Points()
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for row in read_wandb(file).rows:
            for name, value in row.items():
                axis = LATE_STEP if name.startswith("validation/") else "_step"
                if name != LATE_STEP and not name.startswith(("_", "previews/")):
                    _add(points, name, row[axis], value)
    return points


def tensorboard_points(folder: Path) -> Points:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    points = Points()
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            _add(points, tag, event.step, event.value)
    return points


def _add(points: Points, name: str, step: int, value: float) -> None:
    if not name.startswith(MEASURED_ANEW):
        assert (name, step) not in points, f"{name} of step {step} is there twice"
        points[name, step] = value
