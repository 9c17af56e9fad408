"""One real run of ``bench_control.py``: N workers of a tiny network, on an embedded Ray of its own."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import control_worker

from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.connect import connected
from tecogan_dist.config.schema import ClusterConfig, Config, DataConfig, LossConfig, ModelConfig, TrackingConfig
from tecogan_dist.runs.folder import NEVER, open_run_folder, write_run_file
from tecogan_dist.training.ray import launch
from tecogan_dist.training.ray.board import News, Progress
from tecogan_dist.training.ray.display import Display
from tecogan_dist.training.task import TrainingTask, read_networks, select_scenes

ASK_TO_STOP_AFTER, STEPS = 8, 400
"""Steps after which the run is asked to stop; it would end by itself long after."""
OUTPUT = "output.txt"
"""What the run prints, and what is printed of it when it fails."""
PATIENCE = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1200", "RAY_worker_register_timeout_seconds": "1200"}
"""Ray's own limits (60 s) are for machines with a core for each worker."""


@dataclass(frozen=True)
class Found:
    """What a run of so many workers cost. Times are seconds."""

    start: float
    """From the launch until the last worker has done its first step."""
    trained: float
    """From the launch until the first worker has done its last step."""
    workers: list[dict[str, Any]]
    """What each worker measured, as :func:`measured_worker` wrote it."""
    log_bytes: int
    """What Ray's processes wrote into their own log files."""


def tiny(workers: int) -> Config:
    """One window for each worker in a step. The discriminator has its one size, the published one."""
    return Config(
        steps=STEPS,
        batch_size=workers,
        model=ModelConfig(blocks=1, channels=8, flow_width=4),
        loss=LossConfig(perceptual=0),
        # A multiple of every batch: no clip is decoded by two workers.
        data=DataConfig(sequence_length=3, crop_size=16, scenes_in_mix=64),
        tracking=TrackingConfig(display_every=1, summary_every=4, save_every=4),
        cluster=ClusterConfig(workers=workers, device="cpu", bucket_megabytes=4),
    )


def run(workers: int, store: Path, folder: Path, answer: Any) -> None:
    """In a process of its own, with its files in ``folder``: what was found of the run into the queue ``answer``."""
    os.environ |= PATIENCE | {"RAY_TMPDIR": str(folder)}
    with (folder / OUTPUT).open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    output = Location.of(folder / "run").absolute()
    config, data = tiny(workers), Location.of(store).absolute()
    training_scenes, validation_scenes = select_scenes(data, config)
    task = TrainingTask(
        config=config,
        data=data,
        training_scenes=training_scenes,
        validation_scenes=validation_scenes,
        output=output,
    )
    with connected(None, cpus=2 * workers):
        write_run_file(open_run_folder(output, config=config, data=data, resume=NEVER), config=config, data=data)
        answer.put(_run(task))


def _run(task: TrainingTask) -> Found:
    display, asked = Display(task.config), False

    def show(news: list[News]) -> None:
        nonlocal asked
        display.show(news)
        if not asked and any(isinstance(item, Progress) and item.step >= ASK_TO_STOP_AFTER for item in news):
            asked = True
            launched.ask_to_stop()

    with (
        patch.object(launch, "train_worker", control_worker.measured_worker),
        patch.object(launch, "Board", control_worker.CountedBoard),
    ):
        started = time.time()
        launched = launch.Launch(task, networks=read_networks(task), use_gpu=False)
        launched.watch(show)
        launched.end()
    folder, workers = task.output.path.parent, task.config.cluster.workers
    found = [json.loads((folder / f"worker_{rank}.json").read_text()) for rank in range(workers)]
    logs = (folder / "ray" / "session_latest" / "logs").rglob("*")
    return Found(
        start=max(worker["marks"]["step"][0] for worker in found) - started,
        trained=found[0]["marks"]["trained"][0] - started,
        workers=found,
        log_bytes=sum(file.stat().st_size for file in logs if file.is_file() and not file.is_symlink()),
    )
