"""Samples per second and the parts of a step for 1 and 2 workers of one thread each, bytes sent, and a model of more.

Workers are processes on gloo with DeepSpeed's engines and the objective that ``train`` runs, on prepared windows, so
that nothing but the step is measured (``train`` itself logs ``data_wait`` and ``checkpoint_wait`` of every step).
Strong: the global batch stays; weak: each worker's part stays. Time and bytes in collectives are taken by wrapping
torch.distributed's; a ring sends 2 (N - 1) / N of an all-reduced buffer from each worker.

    python scripts/bench_scaling.py [--steps 4] [--blocks 4] [--sequence-length 5] [--zero-stages 0 1 2 3]
"""

from __future__ import annotations

import argparse
import collections
import math
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tecogan_dist import config as settings
from tecogan_dist.config import Config
from tecogan_dist.training.engines import DeepSpeedPair
from tecogan_dist.training.ledger import average_over_workers
from tecogan_dist.training.objective import Objective, training_frames
from tecogan_dist.training.saving import take_snapshot
from tecogan_dist.training.state import TrainingState
from tecogan_dist.training.task import build_networks

CPU = torch.device("cpu")
PARTS = ("forward", "backward", "all-reduce", "optimiser", "checkpoint")
# Collectives and the position of the tensor that says how much is sent.
COLLECTIVES = {
    "all_reduce": 0,
    "broadcast": 0,
    "reduce": 0,
    "all_gather_into_tensor": 0,
    "reduce_scatter_tensor": 1,
}
# The model's assumptions. The step is README's "Speed": one H100, published settings, fp32, 4 windows.
STEP_SECONDS, WINDOWS_OF_STEP, BACKWARD_SHARE = 0.33, 4, 0.6
GPUS_OF_NODE = 8
NVLINK_BYTES, NETWORK_BYTES = 200e9, 20e9
"""Bytes a second and GPU that NCCL reaches inside a node, and on 200 Gbit/s a GPU between nodes."""
NVLINK_LATENCY, NETWORK_LATENCY = 15e-6, 30e-6
"""Seconds of a collective besides its bytes; between nodes for each doubling of nodes."""
WINDOWS_OF_CORE = 15.0
"""Windows a second that a core cuts from 720p clips at 8 windows a decode (bench_data.py)."""


class Meter:
    """Seconds, calls and bytes of collectives."""

    def __init__(self) -> None:
        self.seconds, self.calls, self.bytes = 0.0, 0, 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        originals = {name: getattr(dist, name) for name in COLLECTIVES}
        for name, original in originals.items():
            setattr(dist, name, self._wrapped(original, COLLECTIVES[name]))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(dist, name, original)

    def _wrapped(self, original: Callable[..., Any], position: int) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            values = [*arguments, *(value for value in named.values() if isinstance(value, Tensor))]
            sized = values[position] if position < len(values) else values[0]
            self.calls += 1
            self.bytes += sized.numel() * sized.element_size() if isinstance(sized, Tensor) else 0
            started = time.perf_counter()
            result = original(*arguments, **named)
            self.seconds += time.perf_counter() - started
            return result

        return call


def make_config(options: argparse.Namespace, *, workers: int, batch_size: int, zero_stage: int) -> Config:
    tree = {
        "batch_size": batch_size,
        "model": {"blocks": options.blocks},
        "loss": {"perceptual": 0},
        "data": {"sequence_length": options.sequence_length},
        "cluster": {"workers": workers, "zero_stage": zero_stage},
    }
    return settings.from_tree(tree, source="bench_scaling")


def work(rank: int, config: Config, steps: int, port: int, results: Any) -> None:
    """One worker: warm up with a step, then measure the others."""
    torch.set_num_threads(1)
    workers = config.cluster.workers
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    meter = Meter()
    side = 4 * config.data.crop_size + 8
    shape = (config.batch_size // workers, config.data.sequence_length, side, side, 3)
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    with meter.attached():  # before the engines are made: DeepSpeed keeps hold of some functions
        upscaler, discriminator, _ = build_networks(config, initial_weights=None)
        pair = DeepSpeedPair(upscaler, discriminator, config, CPU)
        objective = Objective(config, pair, CPU, vgg_weights=None)
        for step in range(steps + 1):
            windows = torch.randint(0, 256, shape, dtype=torch.uint8)
            meter.seconds = meter.calls = meter.bytes = 0
            dist.barrier()
            started, total = time.perf_counter(), 0.0
            for part in ("forward", "backward", "optimiser"):
                began, sent = time.perf_counter(), meter.seconds
                if part == "forward":
                    result = objective(*training_frames(windows, config), step=step)
                    average_over_workers(result.losses)
                elif part == "backward":
                    pair.backward(result, update_discriminator=True, last=True)
                else:
                    pair.update(learning_rate=1e-5, update_discriminator=True)
                if step:
                    seconds[part].append(time.perf_counter() - began - (meter.seconds - sent))
            total = time.perf_counter() - started
            if step:
                seconds["step"].append(total)
                seconds["all-reduce"].append(meter.seconds)
        calls, sent_bytes = meter.calls, meter.bytes
        began = time.perf_counter()
        take_snapshot(TrainingState(), pair, None)
        seconds["checkpoint"].append(time.perf_counter() - began)
    if rank == 0:
        gradients = sum(p.ds_numel if hasattr(p, "ds_numel") else p.numel() for p in pair.upscaler_module.parameters())
        assert pair.critic is not None
        gradients += sum(p.ds_numel if hasattr(p, "ds_numel") else p.numel() for p in pair.critic.parameters())
        medians = {part: statistics.median(values) for part, values in seconds.items()}
        results.put((medians, calls, sent_bytes, 4 * gradients))
    dist.barrier()
    os._exit(0)  # gloo's threads may outlive the other worker and complain


def measure(config: Config, steps: int) -> tuple[dict[str, float], int, int, int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    results: Any = spawn.SimpleQueue()
    workers = range(config.cluster.workers)
    group = [spawn.Process(target=work, args=(rank, config, steps, port, results)) for rank in workers]
    for process in group:
        process.start()
    try:
        for process in group:
            process.join(timeout=1200)
            assert process.exitcode == 0, "a worker failed, see above"
        measured: tuple[dict[str, float], int, int, int] = results.get()
        return measured
    finally:
        for process in group:
            process.kill()
            process.join()


def print_model(calls: int, gradient_bytes: int) -> None:
    """Weak scaling by a plain model: what is added to a GPU's step is what a ring sends and the calls' latencies."""
    print(
        f"\nmodel: {STEP_SECONDS} s a step of {WINDOWS_OF_STEP} windows a GPU (one H100, fp32, measured), "
        f"{gradient_bytes / 1e6:.1f} MB of gradients, {calls} collectives a step (measured), ring all-reduce, "
        f"{NVLINK_BYTES / 1e9:.0f} GB/s inside {GPUS_OF_NODE} GPUs, {NETWORK_BYTES / 1e9:.0f} GB/s between, latencies "
        f"{1e6 * NVLINK_LATENCY:.0f} us and {1e6 * NETWORK_LATENCY:.0f} us a doubling of nodes; overlap hides bytes "
        f"behind {BACKWARD_SHARE:.0%} of the step; no stragglers; {WINDOWS_OF_CORE:.0f} windows a second and core"
    )
    print(f"{'GPUs':>6}{'batch':>8}{'step (s)':>10}{'efficiency':>12}{'overlapped':>12}{'data cores':>12}")
    for gpus in (1, 8, 64, 512):
        nodes = math.ceil(gpus / GPUS_OF_NODE)
        sent = 2 * (gpus - 1) / gpus * gradient_bytes
        transfer = sent / (NVLINK_BYTES if nodes == 1 else NETWORK_BYTES)
        latency = 0.0 if gpus == 1 else calls * (NVLINK_LATENCY + NETWORK_LATENCY * math.log2(nodes))
        step = STEP_SECONDS + transfer + latency
        hidden = STEP_SECONDS + max(0.0, transfer - BACKWARD_SHARE * STEP_SECONDS) + latency
        cores = math.ceil(gpus * WINDOWS_OF_STEP / step / WINDOWS_OF_CORE)
        shares = f"{STEP_SECONDS / step:>12.1%}{STEP_SECONDS / hidden:>12.1%}"
        print(f"{gpus:>6}{gpus * WINDOWS_OF_STEP:>8}{step:>10.3f}{shares}{cores:>12}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"steps": 4, "blocks": 4, "sequence-length": 5, "batch-size": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--zero-stages", type=int, nargs="+", default=[0, 1, 2, 3])
    options = parser.parse_args()
    calls = gradient_bytes = 0
    head = "".join(f"{part:>12}" for part in ("step", *PARTS))
    print(f"{'':24}{'samples/s':>10}{'efficiency':>12}{head}{'calls':>7}{'MB sent':>9}{'ideal':>8}   (seconds)")
    for stage in options.zero_stages:
        alone = 0.0
        cases = [("1 worker", 1, options.batch_size), ("2, strong", 2, options.batch_size)]
        for name, workers, batch in [*cases, ("2, weak", 2, 2 * options.batch_size)]:
            config = make_config(options, workers=workers, batch_size=batch, zero_stage=stage)
            seconds, calls, sent, gradient_bytes = measure(config, options.steps)
            rate = batch / seconds["step"]
            alone = alone or rate
            ideal = 2 * (workers - 1) / workers * gradient_bytes
            # What a ring sends for buffers of so many bytes; a worker alone sends nothing.
            ring = 2 * (workers - 1) / workers * sent if stage == 0 else (workers - 1) / workers * sent
            print(
                f"ZeRO {stage}, {name:15} {rate:>10.2f}{rate / alone / workers:>12.0%}"
                + "".join(f"{seconds[part]:>12.3f}" for part in ("step", *PARTS))
                + f"{calls:>7}{ring / 1e6:>9.1f}{ideal / 1e6:>8.1f}",
                flush=True,
            )
    print_model(calls, gradient_bytes)


if __name__ == "__main__":
    main()
