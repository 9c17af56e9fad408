"""A training step written straightforwardly against ours, in turn on the same batch: time, peak memory, losses.

Straightforward is: contiguous memory format, VGG19 over all generated and all target frames of the mirrored sequence at
once. Ours is what ``train`` runs: channels_last, features of a target computed once, VGG19 in chunks.

    python scripts/bench_step.py [--batch-size 1] [--sequence-length 10] [--blocks 16] [--repeats 3] [--device cpu]

On CPU the peak is the growth of the resident set of a fresh process; on CUDA it is what torch allocated.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from tecogan_dist.config.schema import Config, ModelConfig
from tecogan_dist.models import layers
from tecogan_dist.models.build import build_discriminator, build_upscaler
from tecogan_dist.models.vgg import Vgg19
from tecogan_dist.training import losses
from tecogan_dist.training.engines.plain import PlainPair
from tecogan_dist.training.objective import mirror
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

    def __init__(self, options: argparse.Namespace, *, ours: bool) -> None:
        torch.manual_seed(1)
        self.ours = ours
        self.device = torch.device(options.device)
        # Damped: an untrained generator's outputs would grow from frame to frame, and the losses beyond comparison.
        config = Config(model=ModelConfig(blocks=options.blocks, output_init_scale=0.1))
        config = replace(config, data=replace(config.data, sequence_length=options.sequence_length))
        upscaler = build_upscaler(config.model).to(self.device)
        discriminator = build_discriminator(config.discriminator).to(self.device)
        pair = PlainPair(upscaler, discriminator, config)
        self._step = TrainingStep(config, pair, device=self.device, vgg=read_vgg("random", seed=1))
        side = 4 * config.data.crop_size + 8
        shape = (options.batch_size, options.sequence_length, side, side, 3)
        windows = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
        self._windows = windows.to(self.device)

    def run(self) -> dict[str, float]:
        """A step, and its losses."""
        with contextlib.ExitStack() as stack:
            if not self.ours:
                stack.enter_context(patch.object(losses, "perceptual", straightforward_perceptual))
                stack.enter_context(patch.object(layers, "channels_last", Tensor.contiguous))
            outcome = self._step(self._windows)
        assert not outcome.problem
        return {name: value.item() for name, value in outcome.losses.items()}


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
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # Losses are compared to rounding; TF32 would hide that.
    torch.backends.cudnn.allow_tf32 = False

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
