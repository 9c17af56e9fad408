"""A training step written straightforwardly against ours, in turn on the same batch: time, peak memory, losses.

Straightforward is: contiguous memory format, VGG19 over all generated and all target frames of the mirrored sequence at
once, and a pass of the discriminator for each loss that needs one, the C library's memory as it comes. Ours is what
``train`` runs: channels_last, features of a target computed once, VGG19 in chunks, one pass of the discriminator for
generated triplets, memory that is kept. Each has a process of its own.

    python scripts/bench_step.py [--batch-size 1] [--sequence-length 10] [--blocks 16] [--repeats 3] [--device cpu]
        [--precision bf16] [--compile]

On a GPU a third form is ours with its passes captured as CUDA graphs, as ``train`` has them there by itself;
``--compile`` adds ours through torch.compile.

Seconds are those of a quiet machine's clock, or with --cpu-time of the process, where other work runs beside. On CPU
the peak is the growth of the resident set by the first step; on CUDA it is what torch allocated.

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
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Self
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tecogan_dist.base.storage import Location
from tecogan_dist.config.schema import Config, ModelConfig, TrackingConfig
from tecogan_dist.models import layers
from tecogan_dist.models.build import build_discriminator, build_upscaler
from tecogan_dist.models.vgg import FEATURES, Vgg19
from tecogan_dist.ops.images import to_unit
from tecogan_dist.runs.checkpoints import LossRecords
from tecogan_dist.runs.quantities import STEP_TIME
from tecogan_dist.tracking.tracker import Tracker
from tecogan_dist.training import losses
from tecogan_dist.training.clock import Clock, Phases
from tecogan_dist.training.device import keep_freed_memory, prepare_device
from tecogan_dist.training.engines.plain import PlainPair
from tecogan_dist.training.objective import Judgement, Objective, mirror
from tecogan_dist.training.recording import Probe
from tecogan_dist.training.step import TrainingStep
from tecogan_dist.weights.vgg import read_vgg


def straightforward_perceptual(
    sr_frames: Tensor, hr_frames: Tensor, vgg: Vgg19, *, chunk: int
) -> tuple[Tensor, Tensor]:
    """The perceptual loss as one writes it down."""
    assert chunk
    targets = mirror(hr_frames) if sr_frames.shape[1] > hr_frames.shape[1] else hr_frames
    ours, theirs = (straightforward_features(vgg, frames.flatten(0, 1)) for frames in (sr_frames, targets))
    distances = torch.stack([1 - (a * b).sum(1).mean() for a, b in zip(ours, theirs, strict=True)])
    return distances.sum(), distances.detach()


def straightforward_features(vgg: Vgg19, frames: Tensor) -> list[Tensor]:
    """VGG19's, each pixel of unit length."""
    x = (to_unit(frames) * vgg.levels - vgg.mean) / vgg.deviation
    features = []
    for name in vgg.names:
        if name.endswith("_1") and name != "conv1_1":
            x = F.max_pool2d(x, 2)
        x = F.relu(vgg.get_submodule(name)(x))
        if name in FEATURES:
            y = x.float()
            features.append(y * torch.rsqrt(y.square().sum(1, keepdim=True) + 1e-12))
    return features


def straightforward_judgement(
    self: Objective,
    discriminator: Callable[..., tuple[Tensor, list[Tensor]]],
    module: nn.Module,
    real: Tensor,
    fake: Tensor,
    *,
    fade_in: float,
    update_statistics: bool,
) -> Judgement:
    """The discriminator's and the generator's losses by a pass for each."""
    weights = self.config.loss
    real_score, real_features = discriminator(real, update_statistics=update_statistics)
    fake_score, _ = discriminator(fake.detach(), update_statistics=update_statistics)
    module.requires_grad_(False)
    judged_score, judged_features = module(fake)
    module.requires_grad_(True)
    adversarial = losses.adversarial(judged_score)
    distances = losses.feature_distances([f.detach() for f in real_features], judged_features)
    matched = sum(d / norm for d, norm in zip(distances, weights.feature_match_norms, strict=True))
    feature_match = weights.feature_match * torch.as_tensor(matched)
    own = losses.discrimination(real_score, fake_score)
    values = {"adversarial": adversarial, "feature_match": feature_match, "discriminator": own}
    values["balance"] = torch.log(real_score + losses.LOG_EPSILON).mean() + adversarial
    return Judgement(values, fade_in * (weights.adversarial * adversarial + feature_match), own)


Form = Literal["straightforward", "ours", "captured", "compiled"]
MODES: dict[Form, Literal["off", "on", "graph"]] = {"captured": "graph", "compiled": "on"}
"""``cluster.compile`` of a form, if it is not off."""


class Variant:
    """A step in one of the forms, with its own copy of the same networks."""

    def __init__(self, options: argparse.Namespace, form: Form, *, display_every: int = 10**9) -> None:
        torch.manual_seed(1)
        self.form = form
        self.device = torch.device(options.device, 0) if options.device == "cuda" else torch.device(options.device)
        # Damped: an untrained generator's outputs would grow from frame to frame, and the losses beyond comparison.
        config = Config(model=ModelConfig(blocks=options.blocks, output_init_scale=0.1))
        config = replace(
            config,
            batch_size=options.batch_size,
            data=replace(config.data, sequence_length=options.sequence_length),
            cluster=replace(config.cluster, precision=options.precision, compile=MODES.get(form, "off")),
            tracking=replace(config.tracking, display_every=display_every),
        )
        self.config = config
        if self.device.type == "cuda":
            prepare_device(self.device, config)
        upscaler = build_upscaler(config.model).to(self.device)
        discriminator = build_discriminator(config.discriminator).to(self.device)
        pair = PlainPair(upscaler, discriminator, config)
        with self._form():
            self.step = TrainingStep(config, pair, device=self.device, vgg=read_vgg("random", seed=1))
        side = 4 * config.data.crop_size + 8
        shape = (options.batch_size, options.sequence_length, side, side, 3)
        windows = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
        self.windows = windows.to(self.device)

    def run(self) -> dict[str, float]:
        """A step, and its losses."""
        with self._form():
            outcome = self.step(self.windows)
        assert not outcome.problem
        return {name: value.item() for name, value in outcome.losses.items()}

    @contextlib.contextmanager
    def _form(self) -> Iterator[None]:
        """While it is open, the step is as it is written in this way."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(patch.object(torch.cuda, "reset_peak_memory_stats"))  # the peak of all is wanted
            if self.form == "straightforward":
                stack.enter_context(patch.object(losses, "perceptual", straightforward_perceptual))
                stack.enter_context(patch.object(Objective, "_judgement", straightforward_judgement))
                stack.enter_context(patch.object(layers, "channels_last", Tensor.contiguous))
                stack.enter_context(patch.object(layers, "memory_format", lambda *_, **__: torch.contiguous_format))
            yield


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
    variant = Variant(options, "ours", display_every=1)
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


def serve(connection: Connection, options: argparse.Namespace, form: Form) -> None:
    """Runs in a process of its own: a step for each message, answered by its losses, seconds and MiB at the peak."""
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    variant = Variant(options, form)
    if form != "straightforward" and variant.device.type == "cpu":
        keep_freed_memory()
    before = peak_memory(variant.device)
    while connection.recv():
        started = clock()
        found = variant.run()
        connection.send((found, clock() - started, peak_memory(variant.device) - before))


def peak_memory(device: torch.device) -> float:
    """MiB of this process so far. Linux's getrusage would start from the parent's peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
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
    parser.add_argument("--compile", action="store_true", help="with cluster.compile on besides, as one more form")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of CPU time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.recording:
        measure_recording(options)
        return

    context = multiprocessing.get_context("spawn")
    forms: list[Form] = ["straightforward", "ours"]
    if options.device.startswith("cuda"):
        forms.append("captured")
    if options.compile:
        forms.append("compiled")
    sides: dict[Form, Connection] = {}
    for form in forms:
        sides[form], theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, options, form), daemon=True).start()
        theirs.close()  # so that the end of the process is the end of the connection
    steps: dict[Form, list[tuple[dict[str, float], float, float]]] = {form: [] for form in forms}
    for _ in range(1 + options.repeats):
        for name, side in sides.items():
            side.send(True)
            steps[name].append(side.recv())
    for side in sides.values():
        side.send(False)

    first = {form: found[0] for form, found in steps.items()}
    medians = {form: statistics.median(seconds for _, seconds, _ in found[1:]) for form, found in steps.items()}
    print(
        f"{options.device}, {options.threads} threads: batch {options.batch_size}, {options.sequence_length} frames "
        f"(mirrored: {2 * options.sequence_length - 1}), {options.blocks} blocks, median of {options.repeats}"
    )
    for form, (found, seconds, peak) in first.items():
        base, _, base_peak = first["straightforward"]
        difference = max(abs(found[name] - value) for name, value in base.items())
        print(
            f"  {form:16} first step {seconds:6.1f} s, then {medians[form]:6.2f} s   {peak:6.0f} MiB   "
            f"time ratio {medians['straightforward'] / medians[form]:.2f}   peak memory ratio {peak / base_peak:.2f}   "
            f"largest loss difference {difference:.1e}"
        )


if __name__ == "__main__":
    main()
