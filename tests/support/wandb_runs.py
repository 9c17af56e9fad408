"""What a run's tracker does with W&B, without the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tecogan_dist.base.storage import Location
from tecogan_dist.runs.facts import Facts
from tecogan_dist.runs.previews import PreviewFiles
from tecogan_dist.runs.records import metrics_line
from tecogan_dist.tracking.wandb_identity import identity_of
from tecogan_dist.tracking.wandb_records import WandbRecords
from tecogan_dist.tracking.wandb_variables import WandbVariables
from tests.support.plain_runs import make_config
from tests.support.wandb_files import WandbRun, read_wandb


class Attempt:
    """What the tracker does with W&B, in the folder ``run``."""

    def __init__(
        self, folder: Path, *settings: str, first_step: int = 0, facts: Facts = Facts(), **variables: str
    ) -> None:
        self.said: list[str] = []
        self.folder = folder / "run"
        self.folder.mkdir(exist_ok=True)
        output, config = Location.of(self.folder), make_config(list(settings))
        self.identity = variables.get("RUN_ID") or identity_of(output, config, first_step=first_step)
        self.records = WandbRecords(
            self.folder,
            output,
            config,
            project="test",
            identity=self.identity,
            variables=WandbVariables.of({f"WANDB_{name}": value for name, value in variables.items()}),
            facts=facts,
            environment={"command": facts.command, "versions": {"torch": "2"}},
            first_step=first_step,
            say=self.said.append,
        )
        self.step = first_step

    def log(self, last: int) -> None:
        """Steps up to ``last``, each with its half as a value, to W&B and to ``metrics.jsonl``."""
        for step in range(self.step + 1, last + 1):
            self.record(step, {"loss/content": step / 2})
        self.step = last

    def record(self, step: int, values: dict[str, float]) -> None:
        """Values of a step, to both."""
        with (self.folder / "metrics.jsonl").open("ab") as file:
            file.write(metrics_line(step, values))
        self.records.scalars(step, values)

    def finish(self, *, failed: bool = False) -> None:
        self.records.finish(failed=failed, reason="the disk is full" if failed else "")


def offline(folder: Path) -> list[WandbRun]:
    return [read_wandb(file) for file in sorted((folder / "run" / "wandb").glob("offline-run-*/*.wandb"))]


def steps(rows: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(row["_step"], row["loss/content"]) for row in rows if "loss/content" in row]


def halves(last: int) -> list[tuple[int, float]]:
    return [(step, step / 2) for step in range(1, last + 1)]


def wait_for(until: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def preview_files(folder: Path) -> PreviewFiles:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "profile.png")
    (folder / "video.mp4").write_bytes(b"not looked into by the client")
    return PreviewFiles(video=folder / "video.mp4", profile=folder / "profile.png", animation=b"")
