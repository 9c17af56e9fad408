"""A training step written straightforwardly against ours, in turn on the same batch: time, peak memory, losses.

Straightforward is: contiguous memory format, VGG19 over all generated and all target frames of the mirrored sequence at
once. Ours is what ``train`` runs: channels_last, features of a target computed once, VGG19 in chunks.

    python scripts/bench_step.py [--batch-size 1] [--sequence-length 10] [--blocks 16] [--repeats 3] [--device cpu]

On CPU the peak is the growth of the resident set of a fresh process; on CUDA it is what torch allocated.

    python scripts/bench_step.py --recording [--batch-size 1] [--repeats 3]

times all that is done for records instead: norms, change of the weights, clocks, counted operations, sums and averages,
and writing them to metrics.jsonl and TensorBoard, as a share of a step with a record every 20 steps.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor

from tecogan_dist.base.storage import Location
from tecogan_dist.config.schema import Config, ModelConfig, TrackingConfig
from tecogan_dist.models import layers
from tecogan_dist.models.build import build_discriminator, build_upscaler
from tecogan_dist.models.vgg import Vgg19
from tecogan_dist.runs.checkpoints import LossRecords
from tecogan_dist.runs.quantities import STEP_TIME
from tecogan_dist.tracking.tracker import Tracker
from tecogan_dist.training import losses
from tecogan_dist.training.clock import Clock, Phases
from tecogan_dist.training.engines.plain import PlainPair
from tecogan_dist.training.objective import mirror
from tecogan_dist.training.recording import Probe
from tecogan_dist.training.step import TrainingStep
from tecogan_dist.weights.vgg import read_vgg


def straightforward_perceptual(
    sr_frames: Tensor, hr_frames: Tensor, vgg: Vgg19, *, chunk: int
) -> tuple[Tensor, Tensor]:
    """The perceptual loss as one writes it down."""
    assert chunk
    targets = mirror(hr_frames) if sr_frames.shape[1] > hr_frames.shape[1] else hr_frames
    ours, theirs = vgg(sr_frames.flatten(0, 1)), vgg(targets.flatten(0, 1))
    distances = torch.stack([1 - (a * b).sum(1).mean() for a, b in zip(ours, theirs, strict=True)])
    return distances.sum(), distances.detach()


class Variant:
    """One of the two ways, with its own copy of the same networks."""

    def __init__(self, options: argparse.Namespace, *, ours: bool, display_every: int = 10**9) -> None:
        torch.manual_seed(1)
        self.ours = ours
        self.device = torch.device(options.device)
        # Damped: an untrained generator's outputs would grow from frame to frame, and the losses beyond comparison.
        config = Config(model=ModelConfig(blocks=options.blocks, output_init_scale=0.1))
        config = replace(
            config,
            batch_size=options.batch_size,
            data=replace(config.data, sequence_length=options.sequence_length),
            cluster=replace(config.cluster, precision=options.precision),
            tracking=replace(config.tracking, display_every=display_every),
        )
        self.config = config
        upscaler = build_upscaler(config.model).to(self.device)
        discriminator = build_discriminator(config.discriminator).to(self.device)
        pair = PlainPair(upscaler, discriminator, config)
        self.step = TrainingStep(config, pair, device=self.device, vgg=read_vgg("random", seed=1))
        side = 4 * config.data.crop_size + 8
        shape = (options.batch_size, options.sequence_length, side, side, 3)
        windows = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
        self.windows = windows.to(self.device)

    def run(self) -> dict[str, float]:
        """A step, and its losses."""
        with contextlib.ExitStack() as stack:
            if not self.ours:
                stack.enter_context(patch.object(losses, "perceptual", straightforward_perceptual))
                stack.enter_context(patch.object(layers, "channels_last", Tensor.contiguous))
            outcome = self.step(self.windows)
        assert not outcome.problem
        return {name: value.item() for name, value in outcome.losses.items()}


class Stopwatch:
    """Seconds inside of some functions, which it wraps while it is open."""

    def __init__(self, *places: tuple[Any, str]) -> None:
        self.seconds: dict[str, float] = dict.fromkeys((name for _, name in places), 0.0)
        self._patches = [patch.object(owner, name, self._timed(name, getattr(owner, name))) for owner, name in places]

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds[name] += time.perf_counter() - started

        return timed

    def __enter__(self) -> Self:
        for each in self._patches:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._patches:
            each.stop()


def measure_recording(options: argparse.Namespace) -> None:
    """Print what records cost. Their work is timed by itself: a step's time varies by more than that."""
    every = TrackingConfig().display_every
    variant = Variant(options, ours=True, display_every=1)
    variant.run()
    in_each_step = Stopwatch((Phases, "begin"), (Phases, "end"), (Probe, "count"), (LossRecords, "with_step"))
    in_a_record = Stopwatch((Probe, "before_update"), (Probe, "after_update"), (Probe, "values"), (Tracker, "scalars"))
    with tempfile.TemporaryDirectory() as folder, in_each_step, in_a_record:
        output, clock = Location.of(Path(folder)), Clock()
        with Tracker(output, variant.config, first_step=0, say=print) as tracker:
            for batch in clock.timed(iter([variant.windows] * options.repeats), on_first=lambda _: None):
                step = variant.step
                step(batch, clock=clock)
                clock.count_step()
                record = step.take_record(clock)
                tracker.scalars(step.state.step, record)
    seconds = record[STEP_TIME]
    always, recorded = (sum(watch.seconds.values()) / options.repeats for watch in (in_each_step, in_a_record))
    print(
        f"a step of {seconds:.2f} s: {1e3 * always:.2f} ms in each, {1e3 * recorded:.1f} ms more in one with a record"
    )
    for name, total in (in_each_step.seconds | in_a_record.seconds).items():
        print(f"  {name:16} {1e3 * total / options.repeats:8.2f} ms")
    print(f"with a record every {every} steps: {(always + recorded / every) / seconds:.3%} of a step")


def peak_memory(options: argparse.Namespace, *, ours: bool) -> float:
    """MiB that a step adds at its peak; call it in a fresh process."""
    torch.set_num_threads(options.threads)
    variant = Variant(options, ours=ours)
    if variant.device.type == "cuda":
        before = float(torch.cuda.memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        variant.run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = peak_resident_set()
    variant.run()
    return peak_resident_set() - before


def peak_resident_set() -> float:
    """MiB. Linux's getrusage would start from the parent's peak."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    raise RuntimeError("/proc/self/status has no VmHWM: measure on Linux or on CUDA")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--sequence-length", type=int, default=10)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--recording", action="store_true", help="what records cost, instead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # Losses are compared to rounding; TF32 would hide that.
    torch.backends.cudnn.allow_tf32 = False

    if options.recording:
        measure_recording(options)
        return
    variants = {"straightforward": Variant(options, ours=False), "ours": Variant(options, ours=True)}
    first = {name: variant.run() for name, variant in variants.items()}
    difference = max(abs(first["ours"][key] - value) for key, value in first["straightforward"].items())
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.repeats):
        for name, variant in variants.items():
            started = time.perf_counter()
            variant.run()
            seconds[name].append(time.perf_counter() - started)
    del variants, variant

    context = multiprocessing.get_context("spawn")
    peaks = {}
    for name in seconds:
        with context.Pool(1) as pool:
            peaks[name] = pool.apply(peak_memory, (options,), {"ours": name == "ours"})

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"{options.device}, {options.threads} threads: batch {options.batch_size}, {options.sequence_length} frames "
        f"(mirrored: {2 * options.sequence_length - 1}), {options.blocks} blocks, median of {options.repeats}"
    )
    for name in medians:
        print(f"  {name:16} {medians[name]:7.2f} s   {peaks[name]:8.0f} MiB")
    print(
        f"time ratio {medians['straightforward'] / medians['ours']:.2f}   "
        f"peak memory ratio {peaks['ours'] / peaks['straightforward']:.2f}   largest loss difference {difference:.1e}"
    )


if __name__ == "__main__":
    main()
