"""Training on a cluster that is a head alone at first: its autoscaler starts machines, one dies, all are given back."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tecogan_dist.base.storage import Location
from tecogan_dist.config import load as settings
from tecogan_dist.data.clips import Scene
from tecogan_dist.data.stream.decoding import decode_windows
from tecogan_dist.data.stream.windows import WindowConfig, decode_of, sample_at, scene_of_decode
from tecogan_dist.training.loop import train
from tecogan_dist.training.reporter import PlainReporter
from tecogan_dist.training.task import TrainingTask, select_scenes
from tests.support.autoscaling import AutoscaledCluster, autoscaled_cluster
from tests.support.paths import REPOSITORY
from tests.support.training_runs import (
    SAVE_EVERY,
    STEPS,
    TINY,
    Command,
    assert_near_run,
    curve,
    until,
    write_store,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BEGINS = r"^step (\d+) begins on 2 workers,"


@pytest.fixture(scope="module")
def cluster() -> Iterator[AutoscaledCluster]:
    with autoscaled_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "store")


def submit(cluster: AutoscaledCluster, name: str, *settings: str, store: Path, output: Path) -> Command:
    """``ray job submit`` for the tiny training."""
    config = output.with_name("tiny.yaml")
    config.write_text(TINY)
    words = [sys.executable, "-m", "tecogan_dist.train", "--config", str(config), "--data", str(store)]
    words += ["--output", str(output), *settings]
    return cluster.job("submit", "--submission-id", name, "--working-dir", str(REPOSITORY), "--", *words)


def test_machines_come_with_a_run_and_go_after_it(cluster: AutoscaledCluster, store: Path, tmp_path: Path) -> None:
    """Two machines are started for two workers. One is killed and replaced; the run ends as one in a single process."""
    assert not cluster.machines()
    output, straight = tmp_path / "run", tmp_path / "straight"
    # SPREAD may place both workers on one machine: then the other one may be killed, which is no loss.
    run = submit(cluster, "trained", "--cluster.placement", "STRICT_SPREAD", store=store, output=output)
    line = run.wait_for(
        "^1 machine with 0 CPUs and 0 GPUs cannot hold 2 workers of 1 CPU, plus one CPU per worker for data; "
        r"waiting 10 minutes for more machines, and then: no machine .* is up: add one or .*\(--cluster\.device cuda\)$"
    )
    line = run.wait_for(BEGINS, after=line)
    first = cluster.machines()
    assert len(first) == 2
    line = run.wait_for(r"^step 8/", after=line)
    killed = min(first)
    cluster.kill(killed)
    line = run.wait_for(r"^worker \d was lost: .*; all start again from the last checkpoint \(1 of 3", after=line)
    line = run.wait_for(BEGINS, after=line)
    assert SAVE_EVERY < int(run.lines[line - 1].split()[1]) < STEPS
    then = cluster.machines()
    assert len(then) == 2
    assert killed not in then
    assert run.finish() == 0, run.end
    assert run.all("Job 'trained' succeeded")
    assert [step["step"] for step in curve(output)] == list(range(1, STEPS + 1))
    until(lambda: not cluster.machines(), "the end of the idle machines")
    train_alone(store, straight)
    assert_near_run(output, straight)


def test_nothing_is_asked_for_after_a_run_that_never_began(
    cluster: AutoscaledCluster, store: Path, tmp_path: Path
) -> None:
    """Two workers of four would do, and the cluster may not grow to four. A machine for data starts, those with GPUs
    never do. The job is stopped: the machine goes, none comes."""
    until(lambda: not cluster.machines(), "the end of the machines of the test before, should it have failed")
    elastic = ("--cluster.workers", "4", "--cluster.min_workers", "2", "--batch_size", "12")
    run = submit(cluster, "stopped", "--cluster.device", "cuda", *elastic, store=store, output=tmp_path / "run")
    line = run.wait_for("^1 machine .* cannot hold 2 workers of 1 CPU and 1 GPU, plus one CPU per worker for data; ")
    run.wait_for("^now 2 machines with 2 CPUs and 0 GPUs, with room for 0 of 2 workers", after=line)
    stop = cluster.job("stop", "stopped")
    assert stop.finish() == 0, stop.end
    run.finish()
    until(lambda: not cluster.machines(), "the end of the idle machine")


def train_alone(store: Path, output: Path) -> None:
    """The tiny training in this process, without Ray and its stream."""
    config, place = settings.from_tree(yaml.safe_load(TINY), source="the test"), Location.of(store)
    scenes, _ = select_scenes(place, config)
    task = TrainingTask(
        config=config, data=place, training_scenes=scenes, validation_scenes=(), output=Location.of(output)
    )
    train(task, device=torch.device("cpu"), reporter=PlainReporter(), stream=decoded_here)


def decoded_here(
    store: Location,
    *,
    data: WindowConfig,
    seed: int,
    batch_size: int,
    rank: int,  # noqa: ARG001  # of one worker
    world_size: int,  # noqa: ARG001
    first_step: int,
    steps: int,
    scenes: Sequence[Scene],
) -> Iterator[torch.Tensor]:
    """The batches of the training stream, each sample decoded by itself."""
    for step in range(first_step, first_step + steps):
        windows = []
        for index in range(step * batch_size, (step + 1) * batch_size):
            scene = scene_of_decode(decode_of(index, data), seed=seed, scenes=scenes)
            sample = sample_at(index, seed=seed, scenes=scenes, data=data)
            windows.append(decode_windows(store, scene, [sample], data))
        yield torch.from_numpy(np.concatenate(windows))
