"""A short real training on all workers and the same on one: do the losses agree, and how fast is it?"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from fractions import Fraction

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.capacity import Demand, trainings_at_a_time
from tecogan_dist.config import load as settings
from tecogan_dist.config.schema import Config
from tecogan_dist.data.stream.windows import crop_side, window_config
from tecogan_dist.data.writing import ClipStoreWriter, write_clip
from tecogan_dist.diagnosis.decoding import made_frames
from tecogan_dist.diagnosis.findings import Finding, not_checked
from tecogan_dist.diagnosis.machines import in_words
from tecogan_dist.runs.folder import open_run_folder, write_run_file
from tecogan_dist.runs.quantities import RAW, SAMPLES
from tecogan_dist.runs.records import read_metrics
from tecogan_dist.training.ray.board import News
from tecogan_dist.training.ray.launch import Launch
from tecogan_dist.training.task import TrainingTask, read_networks, select_scenes

SUBJECT = "training"
STEPS, WARMING_UP = 20, 5
"""The first steps are not in the speed: memory is allocated, kernels are chosen."""
SCENES = 4
RUN_SECONDS = 1200.0
"""After which a run counts as hung. Ray, workers and their imports take the first minute."""
STOP_SECONDS = 60.0
"""That a run which is interrupted gets to end after its present step."""
TOLERANCES = {
    "content": 1e-3,
    "warp": 1e-3,
    "pingpong": 1e-3,
    "total": 1e-3,
    "adversarial": 1e-2,
    "discriminator": 1e-2,
}
"""Relative, of each step's losses: sums are taken in another order, which the discriminator's batch norm and kinks
magnify. Measured over 40 steps: 0.2% (tests/support/training_runs.py)."""
SMALL = """
steps: 20
batch_size: 2
model: {blocks: 2, channels: 16, flow_width: 8}
loss: {perceptual: 0}
data: {sequence_length: 3, crop_size: 16}
"""


class HungError(Exception):
    """A run that does not end."""


@dataclasses.dataclass(frozen=True)
class Speed:
    records: tuple[Mapping[str, float], ...]
    """By step."""

    @property
    def samples(self) -> float:
        """A second, after the first steps; the median."""
        return statistics.median(record[SAMPLES] for record in self.records[WARMING_UP:])


def trial_config(config: Config | None, *, workers: int, address: str | None = None) -> Config:
    """``config``, or a small network, as it is tried: in fp32, without weights that are not made here.

    Raises :class:`UserError` if it cannot be tried.
    """
    config = config or settings.from_yaml(SMALL, source="the trial's settings")
    share = workers * config.accumulation
    config = dataclasses.replace(
        config,
        steps=STEPS,
        batch_size=-(-config.batch_size // share) * share,
        initial_weights=None,
        loss=dataclasses.replace(config.loss, perceptual=0.0),
        data=dataclasses.replace(config.data, train_scenes=None, validation_scenes=None),
        cluster=dataclasses.replace(
            config.cluster,
            address=address,
            workers=workers,
            min_workers=None,
            precision="fp32",
            placement="SPREAD",
            max_failures=0,
            step_timeout=RUN_SECONDS / 2,
        ),
        tracking=dataclasses.replace(
            config.tracking, display_every=1, summary_every=10 * STEPS, save_every=10 * STEPS, wandb_project=None
        ),
    )
    settings.check(config)
    return config


def make_store(store: Location, config: Config) -> None:
    """A few scenes that windows fit into. Raises :class:`UserError` if they cannot be written."""
    data = window_config(config)
    if data.degradation == "pairs":
        raise UserError("data.degradation pairs needs clips of your own: give --data STORE.")
    side = -(-crop_side(data) * 3 // 2 // 16) * 16
    with ClipStoreWriter(store) as writer:
        for number in range(SCENES):
            frames = made_frames(data.sequence_length + 8, height=side, width=side, seed=number)
            scene = write_clip(
                store, number, frames, rate=Fraction(24), source="made by tecogan doctor", source_start=0, downscale=1
            )
            writer.enter(scene)


def examine_training(config: Config, *, store: Location, folder: Location, use_gpu: bool) -> list[Finding]:
    """Train on the connected Ray in folders below ``folder``, with all of the config's workers and with one."""
    workers = config.cluster.workers
    places = trainings_at_a_time(Demand(config), use_gpu=use_gpu)
    kind = "GPU" if use_gpu else "CPU"
    if places < 1:
        text = f"there is no room for {workers} workers, each with a {kind} and one CPU for its data"
        advice = "ask for fewer (--workers), or add machines"
        return [Finding(status="fail", subject=SUBJECT, text=text, advice=advice)]
    try:
        together = _train(config, store=store, output=folder / "together", use_gpu=use_gpu)
        if workers == 1:
            note = not_checked(SUBJECT, "whether several workers agree: there is one")
            return [Finding(status="ok", subject=SUBJECT, text=f"{STEPS} steps on one worker: {_rate(together)}"), note]
        one = dataclasses.replace(config, cluster=dataclasses.replace(config.cluster, workers=1))
        alone = _train(one, store=store, output=folder / "alone", use_gpu=use_gpu)
    except UserError as error:
        text, advice = f"{STEPS} steps fail ({in_words(error)})", "mend what stands above first, then look there"
        return [Finding(status="fail", subject=SUBJECT, text=text, advice=advice)]
    except HungError:
        text = f"{STEPS} steps on {workers} workers do not end in {RUN_SECONDS / 60:.0f} minutes"
        advice = "mend what stands above first; 'ray status' says what the cluster waits for"
        return [Finding(status="fail", subject=SUBJECT, text=text, advice=advice)]
    return [compare(together, alone, workers=workers, batch=config.batch_size)]


def compare(together: Speed, alone: Speed, *, workers: int, batch: int) -> Finding:
    """Whether each loss of each step agrees."""
    times = together.samples / alone.samples
    speed = f"{_rate(together)} together, {_rate(alone)} alone, {times:.2f} times (batch {batch})"
    figures = {
        "workers": workers,
        "batch": batch,
        "samples_per_second": together.samples,
        "samples_per_second_alone": alone.samples,
    }
    worst, where = 0.0, ""
    for step, (mine, theirs) in enumerate(zip(together.records, alone.records, strict=True), start=1):
        for name, tolerance in TOLERANCES.items():
            ours, other = mine.get(f"{RAW}/{name}"), theirs.get(f"{RAW}/{name}")
            if ours is None or other is None:
                continue
            difference = abs(ours - other) / max(abs(other), 1e-12)
            # Not "above": NaN has to count.
            if not difference <= tolerance:
                text = f"{workers} workers and one disagree in step {step}: {name} {ours:.6g} and {other:.6g}"
                advice = "do not train here yet: look for different versions, drivers, ECC errors; run --train again"
                return Finding(
                    status="fail", subject=SUBJECT, text=f"{text}; {speed}", advice=advice, figures=dict(figures)
                )
            if difference > worst:
                worst, where = difference, f" ({name}, step {step})"
    text = f"{STEPS} steps on {workers} workers and on one agree to {worst:.1e}{where}; {speed}"
    return Finding(status="ok", subject=SUBJECT, text=text, figures={**figures, "largest_difference": worst})


def _train(config: Config, *, store: Location, output: Location, use_gpu: bool) -> Speed:
    scenes, _ = select_scenes(store, config)
    folder = open_run_folder(output, config=config, data=store, resume="never")
    task = TrainingTask(config=config, data=store, training_scenes=scenes, validation_scenes=(), output=output)
    networks = read_networks(task)
    write_run_file(folder, config=config, data=store)
    launched = Launch(task, networks=networks, use_gpu=use_gpu)
    try:
        launched.watch(_for_seconds(RUN_SECONDS))
    except (KeyboardInterrupt, HungError):
        # It must not write any more when its folder is removed.
        launched.ask_to_stop()
        with contextlib.suppress(HungError, UserError):
            launched.watch(_for_seconds(STOP_SECONDS))
        raise
    launched.end()
    return Speed(tuple(read_metrics(output)))


def _for_seconds(seconds: float) -> Callable[[list[News]], None]:
    """To be called while a run goes on. What it says is in its records, too."""
    deadline = time.monotonic() + seconds

    def show(news: list[News]) -> None:  # noqa: ARG001
        if time.monotonic() > deadline:
            raise HungError

    return show


def _rate(speed: Speed) -> str:
    return f"{speed.samples:.3g} samples/s"
