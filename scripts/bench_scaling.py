"""Training on 1 and 2 workers with one thread each: samples a second, the parts of a step, bytes communicated.

Workers are processes on gloo, each with its own stream of a real clip through an embedded Ray, which decodes beside
them. Networks and crops are the published ones, windows are shorter. Strong scaling shares a fixed global batch, weak
scaling gives every worker the same. What the machine itself takes from two processes shows in two trainings side by
side that know nothing of each other. All collectives of torch.distributed are wrapped: their time, in which a worker
also waits for a slower one, is taken out of the part of the step that they happen in, and their bytes are what a worker
of a ring sends. Then a model of what many GPUs would see, ``scaling_model.py``.

    python scripts/bench_scaling.py [--steps 5] [--batch-size 4] [--crop-size 32] [--sequence-length 4]
    python scripts/bench_scaling.py --control [--workers 4 8 16]

The second form measures what control costs as workers become more, ``bench_control.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import bench_control
import ray
import torch
import torch.distributed as dist
from sample_store import write_store
from scaling_model import print_model
from scaling_traffic import Traffic, count_anew, traffic, watch_collectives
from torch import Tensor

from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.connect import connected
from tecogan_dist.cluster.internals.ray_core import on_loopback
from tecogan_dist.config.schema import Config, DataConfig
from tecogan_dist.data.clips import ClipStore
from tecogan_dist.data.stream.stream import training_stream
from tecogan_dist.data.stream.windows import window_config
from tecogan_dist.training.begin import build_networks, build_pair
from tecogan_dist.training.device import prepare_device
from tecogan_dist.training.saving import CheckpointWriter, take_snapshot
from tecogan_dist.training.step import TrainingStep
from tecogan_dist.weights.vgg import read_vgg

CPU = torch.device("cpu")
STAGES: tuple[Literal[0, 1, 2, 3], ...] = 0, 1, 2, 3
"""The first, train's default, is measured for longer."""
PARTS = "data wait", "forward", "backward", "all-reduce", "optimiser"
WARM_UP, SHORT = 2, 2
PATIENCE = 1200.0
"""Seconds for a case, on a busy machine."""


@dataclass(frozen=True)
class Case:
    workers: int
    batch_size: int
    zero_stage: Literal[0, 1, 2, 3]
    steps: int
    apart: bool = False
    """The workers are as many trainings of one worker, each with its part of the batch."""

    @property
    def name(self) -> str:
        who = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        return (
            f"{f'{self.workers} side by side' if self.apart else who}, batch {self.batch_size}, ZeRO {self.zero_stage}"
        )


@dataclass(frozen=True)
class Measured:
    """A step of one worker, the median of several."""

    parts: dict[str, float]
    """Seconds of each of PARTS; "all-reduce" has all collectives, whatever part they happen in."""
    cpu: float
    """CPU seconds, without those of Ray's tasks."""
    traffic: Traffic
    checkpoint: tuple[float, float]
    """Seconds that training stands still for a checkpoint, and until it is complete."""
    gradient_bytes: tuple[int, int]
    """Of the upscaler and of the discriminator."""

    @property
    def step(self) -> float:
        return sum(self.parts.values())


def measure(case: Case, store: Path, options: argparse.Namespace, *, rank: int) -> Measured:
    """Run a case's steps as training does. All workers call it."""
    config = Config(
        batch_size=case.batch_size,
        data=DataConfig(crop_size=options.crop_size, sequence_length=options.sequence_length),
        cluster=replace(Config().cluster, workers=case.workers, zero_stage=case.zero_stage),
    )
    upscaler, discriminator, _ = build_networks(config, initial_weights=None)
    assert discriminator is not None
    upscaler_bytes, discriminator_bytes = (sum(p.nbytes for p in m.parameters()) for m in (upscaler, discriminator))
    pair = build_pair(upscaler, discriminator, config, CPU)
    training_step = TrainingStep(config, pair, device=CPU, vgg=read_vgg("random", seed=1))
    batches = training_stream(
        store, data=window_config(config), seed=1, batch_size=case.batch_size, rank=rank, world_size=case.workers,
        first_step=0, steps=10**6, scenes=ClipStore.open(store).scenes, decoders=1,
    )  # fmt: skip
    steps, cpu = [], []
    for _ in range(WARM_UP + case.steps):
        count_anew()
        started = time.process_time()
        steps.append(one_step(training_step, batches))
        cpu.append(time.process_time() - started)
    counted = count_anew()
    batches.close()
    begun = time.perf_counter()
    snapshot = take_snapshot(training_step.state, pair, None)
    with tempfile.TemporaryDirectory() as folder:
        writer = CheckpointWriter(Location.of(folder) / "run", config, say=print)
        if rank == 0:
            writer.save(snapshot)
        still = time.perf_counter() - begun
        writer.finish()
    return Measured(
        parts={part: statistics.median(parts[part] for parts in steps[WARM_UP:]) for part in PARTS},
        cpu=statistics.median(cpu[WARM_UP:]),
        traffic=counted,
        checkpoint=(still, time.perf_counter() - begun),
        gradient_bytes=(upscaler_bytes, discriminator_bytes),
    )


def one_step(training_step: TrainingStep, batches: Iterator[Tensor]) -> dict[str, float]:
    """Seconds of its parts: the step that trains, with a clock around each of its methods."""
    parts = dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def part(name: str) -> Iterator[None]:
        started, communicated = time.perf_counter(), traffic().seconds
        yield
        communicated = traffic().seconds - communicated
        parts[name] += time.perf_counter() - started - communicated
        parts["all-reduce"] += communicated

    def clocked(method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with part(name):
                return method(*args, **kwargs)

        return call

    with part("data wait"):
        windows = next(batches)
    pair = training_step.pair
    with contextlib.ExitStack() as stack:
        for holder, name, of in (
            (training_step, "frames", "forward"),
            (training_step, "forward", "forward"),
            (pair, "backward", "backward"),
            (pair, "update", "optimiser"),
        ):
            stack.enter_context(patch.object(holder, name, clocked(getattr(holder, name), of)))
        started, communicated, waited = time.perf_counter(), traffic().seconds, parts["data wait"]
        assert not training_step(windows).problem
        training_step.settle()
    # What is left is the losses' way to the other workers and back; it counts as the update's.
    communicated = traffic().seconds - communicated - parts["all-reduce"]
    parts["all-reduce"] += communicated
    parts["optimiser"] += time.perf_counter() - started + waited - sum(parts.values())
    return parts


def work(number: int, cases: list[Case], ports: list[int], shared: Shared) -> None:
    """One worker's process."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # names of torch's that DeepSpeed still uses
    apart = cases[0].apart
    rank, workers, port = (0, 1, ports[number]) if apart else (number, cases[0].workers, ports[0])
    prepare_device(CPU, Config())
    with on_loopback():  # where the embedded Ray listens
        ray.init(shared.address, log_to_driver=False, logging_level=logging.ERROR)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    watch_collectives()
    for case in cases:
        shared.begin.wait()
        own = replace(case, workers=1, batch_size=case.batch_size // case.workers) if apart else case
        of_all: list[Any] = [None] * workers
        dist.all_gather_object(of_all, measure(own, shared.store, shared.options, rank=rank))
        if rank == 0:
            shared.results.put((case, of_all))
    shared.results.close()
    shared.results.join_thread()
    dist.barrier()
    os._exit(0)  # gloo's threads may outlive the other worker and complain


@dataclass(frozen=True)
class Shared:
    """What workers' processes are given."""

    address: str
    """Of Ray."""
    store: Path
    options: argparse.Namespace
    begin: Any
    """A barrier, at which all meet before each case."""
    results: Any
    """A queue of cases and what was measured."""


def run(cases: list[Case], address: str, store: Path, options: argparse.Namespace) -> dict[Case, list[Measured]]:
    """The cases, all with the same number of workers, in processes of their own: what each worker measured."""
    processes = cases[0].workers
    ports = []
    for _ in range(processes):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    spawn = multiprocessing.get_context("spawn")
    shared = Shared(address, store, options, spawn.Barrier(processes), spawn.Queue())
    workers = [
        spawn.Process(target=work, args=(number, cases, ports, shared), daemon=True) for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    found: dict[Case, list[Measured]] = {case: [] for case in cases}
    for _ in range(sum(case.workers if case.apart else 1 for case in cases)):
        case, measured = shared.results.get(timeout=PATIENCE)
        found[case] += measured
    for worker in workers:
        worker.join(timeout=60)
    return found


def print_parts(found: dict[Case, list[Measured]]) -> None:
    steps = {case: statistics.mean(one.step for one in measured) for case, measured in found.items()}
    cpu = {case: sum(one.cpu for one in measured) for case, measured in found.items()}
    whole, half, beside, two, *_ = found
    print(f"\n{'':31}samples/s  step s" + "".join(f"{part:>11}" for part in PARTS) + "   CPU s of all")
    for case, measured in found.items():
        parts = (statistics.mean(one.parts[part] for one in measured) for part in PARTS)
        print(
            f"{case.name:31}{case.batch_size / steps[case]:9.2f}{steps[case]:8.2f}"
            + "".join(f"{part:11.3f}" for part in parts)
            + f"{cpu[case]:15.2f}"
        )
    print("efficiency of 2 workers         same batch  twice the batch")
    print(f"by wall time                {steps[whole] / steps[two] / 2:14.2f}{steps[half] / steps[two]:17.2f}")
    print(f"by CPU time                 {cpu[whole] / cpu[two]:14.2f}{2 * cpu[half] / cpu[two]:17.2f}")
    of_beside = steps[beside] / steps[two], cpu[beside] / cpu[two]
    print("of 2 trainings side by side: {:.2f} by wall time, {:.2f} by CPU time".format(*of_beside))
    still, complete = found[two][0].checkpoint
    print(f"checkpoint: 2 workers stand still for {still:.2f} s, it is complete after {complete:.2f} s")


def print_traffic(found: dict[Case, list[Measured]]) -> None:
    print("\nsent by each of 2 workers in a step, against a ring all-reduce of both networks' gradients:")
    for case, (measured, *_) in found.items():
        if case.workers > 1 and not case.apart:
            sent, calls = measured.traffic.sent, measured.traffic.calls
            ideal = 2 * (1 - 1 / case.workers) * sum(measured.gradient_bytes)
            kinds = ", ".join(f"{calls[name]} {name} {sent[name] / 1e6:.2f} MB" for name in sent if calls[name])
            print(f"ZeRO {case.zero_stage}: {sum(sent.values()) / ideal:.3f} of {ideal / 1e6:.2f} MB: {kinds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"steps": 5, "batch-size": 4, "crop-size": 32, "sequence-length": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--control", action="store_true", help="measure control instead, on more workers")
    parser.add_argument("--workers", type=int, nargs="+", default=bench_control.WORKERS, help="of --control")
    options = parser.parse_args()
    if options.control:
        bench_control.main(options.workers)
        return
    one = [Case(1, batch, STAGES[0], options.steps) for batch in (options.batch_size, options.batch_size // 2)]
    beside = [Case(2, options.batch_size, STAGES[0], options.steps, apart=True)]
    two = [Case(2, options.batch_size, stage, SHORT if i else options.steps) for i, stage in enumerate(STAGES)]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {vars(options)}")
    with tempfile.TemporaryDirectory() as folder, connected(None, cpus=6):
        port = ray.get_runtime_context().gcs_address.rpartition(":")[2]
        store, address = write_store(Path(folder)), f"127.0.0.1:{port}"
        found: dict[Case, list[Measured]] = {}
        for cases in one, beside, two:
            found |= run(cases, address, store, options)
    print_parts(found)
    print_traffic(found)
    print_model(found[two[0]][0].traffic, found[two[0]][0].gradient_bytes, workers=2)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
