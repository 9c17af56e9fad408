"""Upscaling written straightforwardly against ours, in turn in one run: the network alone, and a whole video.

Straightforward is: the network's layers one after the other in the contiguous memory format, as one writes them down.
Ours is what ``upscale`` runs: :class:`tecogan_dist.upscaling.recurrence.Recurrence`, and for a whole video
:mod:`tecogan_dist.upscaling.job`, from a file to a file.

    python scripts/bench_upscale.py [--sizes 144x180 134x320] [--blocks 10 16] [--threads 1] [--frames 12]

The convolution peak is the best rate at which this machine ran a large channels_last convolution during the run; the
fraction says how much of it the network's arithmetic (its own count, not ours) would need at that rate. Weights are
random, which does not matter for the time. ``--clock cpu`` counts the time of this process alone, where other programs
use the machine too; it is right for one thread.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.progress import Progress
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops.images import pad_symmetric, space_to_depth, to_signed, to_unit
from tecogan_dist.ops.resampling import resize_bicubic, resize_bilinear, warp
from tecogan_dist.upscaling.beginning import begin
from tecogan_dist.upscaling.devices import check_precision
from tecogan_dist.upscaling.images import to_image
from tecogan_dist.upscaling.job import Here
from tecogan_dist.upscaling.recurrence import Precision, Recurrence
from tecogan_dist.upscaling.request import Request, open_request
from tecogan_dist.upscaling.source import SourceOptions
from tecogan_dist.video.writer import FrameWriter

CPU = torch.device("cpu")
PEAK_SHAPES = ((64, 256), (64, 144), (128, 128))
"""Channels and side of the convolutions whose best rate is the peak: one of the network's own, and larger ones."""


class Straightforward:
    """The recurrence as one writes it down."""

    def __init__(self, model: RecurrentUpscaler) -> None:
        self._model = model
        self._previous: tuple[Tensor, Tensor] | None = None

    @torch.inference_mode()
    def step(self, frame: Tensor) -> Tensor:
        """The result (3, H, W), 0..1, of a frame (h, w, 3)."""
        lr_frame = frame.permute(2, 0, 1).unsqueeze(0).contiguous() / 255
        n, c, h, w = lr_frame.shape
        if self._previous is None:
            past = lr_frame.new_zeros(n, c * 16, h, w)
        else:
            previous_lr, previous_sr = self._previous
            flow = self._model.flow(previous_lr, lr_frame)
            flow = pad_symmetric(flow, h - flow.shape[-2], w - flow.shape[-1])
            past = space_to_depth(to_unit(warp(previous_sr, resize_bilinear(flow * 4, 4))), 4).contiguous()
        sr_frame = self._generate(lr_frame, past)
        self._previous = (lr_frame, sr_frame)
        return to_unit(sr_frame[0])

    def _generate(self, lr_frame: Tensor, past: Tensor) -> Tensor:
        layers = self._model.generator
        x = F.relu(layers.input(torch.cat([lr_frame, past], dim=1)))
        for block in layers.blocks:
            x = x + block.conv2(F.relu(block.conv1(x)))  # type: ignore[operator]  # a ModuleList has no types
        assert layers.up2 is not None
        x = F.relu(layers.up2(F.relu(layers.up1(x))))
        return to_signed(layers.output(x) + resize_bicubic(lr_frame, 4))


class Ours:
    """The same by the package."""

    def __init__(self, model: RecurrentUpscaler, size: tuple[int, int], *, precision: Precision = "fp32") -> None:
        self._recurrence = Recurrence(model, size=size, device=CPU, precision=precision)

    @torch.inference_mode()
    def step(self, frame: Tensor) -> Tensor:
        """The result (3, H, W), 0..1, of a frame (h, w, 3)."""
        return self._recurrence.step(frame).sr_frame


def upscaler(blocks: int) -> RecurrentUpscaler:
    """Damped: an untrained generator's outputs grow from frame to frame, and look like nothing that is encoded."""
    torch.manual_seed(1)
    return build_upscaler(ModelConfig(blocks=blocks, output_init_scale=0.02)).eval()


def film(height: int, width: int, frames: int) -> Tensor:
    """(T, h, w, 3) uint8: soft shapes that move by a pixel or two a frame, with some noise."""
    generator = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    shown = []
    for t in range(frames):
        periods = enumerate((7, 11, 17))
        waves = [np.sin((x - 1.5 * t) / period + channel) + np.cos((y + t) / period) for channel, period in periods]
        noise = generator.normal(0, 2, (height, width, 3))
        shown.append((np.stack(waves, axis=-1) * 50 + 128 + noise).clip(0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(shown))


def multiplications(blocks: int, height: int, width: int) -> float:
    """Of a step's convolutions, twice (a multiplication and an addition): floating point operations."""
    c, f = 64, 32
    generator = 9 * (51 * c + 2 * blocks * c * c + c * c + 4 * c * c + 16 * c * 3)
    levels = ((6, f, 1), (f, 2 * f, 4), (2 * f, 4 * f, 16), (4 * f, 8 * f, 64), (8 * f, 4 * f, 16), (4 * f, 2 * f, 4))
    flow = sum(9 * (before * after + after * after) / smaller for before, after, smaller in levels)
    flow += 9 * (2 * f * f + f * 2)
    return 2.0 * (generator + flow) * height * width


def convolution_peak(clock: Callable[[], float]) -> float:
    """Operations a second."""
    best = 0.0
    for channels, side in PEAK_SHAPES:
        x = torch.rand(1, channels, side, side).contiguous(memory_format=torch.channels_last)
        weight = torch.rand(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)
        for _ in range(8):
            began = clock()
            F.conv2d(x, weight, padding=1)
            best = max(best, 2 * 9 * channels**2 * side**2 / (clock() - began))
    return best


def network_alone(options: argparse.Namespace, blocks: int, size: tuple[int, int], clock: Callable[[], float]) -> str:
    """A row of the first table: all ways in turn, frame by frame."""
    model = upscaler(blocks)
    frames = film(*size, options.frames + 1)
    ways: list[Straightforward | Ours] = [Straightforward(model), Ours(model, size)]
    if has_bf16():
        ways.append(Ours(model, size, precision="bf16"))
    seconds: list[list[float]] = [[] for _ in ways]
    largest = 0.0
    for frame in frames:
        results = []
        for way, spent in zip(ways, seconds, strict=True):
            began = clock()
            results.append(way.step(frame))
            to_image(results[-1])
            spent.append(clock() - began)
        largest = max(largest, float((results[0] - results[1]).abs().max()))
    straightforward, ours, *half = (statistics.median(spent[1:]) for spent in seconds)  # the first frame has no past
    peak = convolution_peak(clock)
    fraction = multiplications(blocks, *size) / ours / peak
    return (
        f"| {size[0]}x{size[1]} | {blocks} | {1000 * straightforward:.0f} ms / {1000 * ours:.0f} ms = "
        f"{straightforward / ours:.2f} | {peak / 1e9:.0f} GFLOP/s | {fraction:.2f} | {largest:.0e} | "
        + (f"{1000 * half[0]:.0f} ms, {ours / half[0]:.2f} times as fast |" if half else "this CPU has none |")
    )


def has_bf16() -> bool:
    """Whether ``upscale`` would take --precision bf16 on this CPU."""
    try:
        check_precision(CPU, "bf16")
    except UserError:
        return False
    return True


def whole_video(options: argparse.Namespace, blocks: int, size: tuple[int, int], folder: Path) -> str:
    """A row of the second table: the network over frames in memory, and a job from a file to a file, in turn."""
    model = upscaler(blocks).to(memory_format=torch.channels_last)
    frames = film(*size, options.video_frames)
    source = folder / f"{size[0]}x{size[1]}.mp4"
    with FrameWriter(source, rate=Fraction(25)) as writer:
        for frame in frames:
            writer.write(frame.numpy())
    alone, job = [], []
    for repeat in range(options.repeats):
        ours = Ours(model, size)
        began = time.perf_counter()
        for frame in [*reversed(frames[1 : model.warm_up + 1]), *frames]:  # what the job runs, too
            to_image(ours.step(frame))
        alone.append(time.perf_counter() - began)
        output = folder / f"{size[0]}x{size[1]}_{blocks}_{repeat}.mp4"
        began = time.perf_counter()
        upscale(model, source, output, threads=options.threads)
        job.append(time.perf_counter() - began)
    network, everything = statistics.median(alone), statistics.median(job)
    return (
        f"| {size[0]}x{size[1]} | {blocks} | {network:.1f} s | {everything:.1f} s | {everything / network:.2f} | "
        f"{len(frames) / everything:.2f} |"
    )


def upscale(model: RecurrentUpscaler, source: Path, output: Path, *, threads: int) -> None:
    """What the command does, in this process."""
    request = Request(source=SourceOptions(path=source), output=output, threads=threads)
    opened = open_request(request)
    job = begin(request, model, opened=opened)
    with Progress(job.frames) as progress:
        job.run(Here(model=model), progress=progress)


def main() -> None:
    """Print the two tables, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sizes", nargs="+", default=["144x180", "134x320"], metavar="HxW", help="of the low-resolution frames")
    add("--blocks", nargs="+", type=int, default=[10, 16], metavar="N", help="residual blocks of the networks")
    add("--threads", type=int, default=1, help="of the network (default 1)")
    add("--frames", type=int, default=12, help="that are timed of the network alone (default 12)")
    add("--video-frames", type=int, default=40, help="of the whole video (default 40; 0: leave it out)")
    add("--repeats", type=int, default=3, help="of the whole video (default 3)")
    add("--clock", choices=["wall", "cpu"], default="wall", help="for the network alone (default wall)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    sizes = [(int(height), int(width)) for height, width in (size.split("x") for size in options.sizes)]
    cases = list(itertools.product(sizes, options.blocks))
    print("| size | blocks | straightforward / ours | convolution peak | ours, of the peak | difference | bf16 |")
    print("|---|---|---|---|---|---|---|")
    for size, blocks in cases:
        print(network_alone(options, blocks, size, clock), flush=True)
    if options.video_frames:
        print("\n| size | blocks | network alone | whole video | ratio | frames/s |")
        print("|---|---|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            for size, blocks in cases:
                print(whole_video(options, blocks, size, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
