"""The training loop of one worker, from the stream to checkpoints and records.

:func:`train` is the whole of it. It runs in a Ray Train worker (:func:`train_worker`), in a plain process and in a Tune
trial; what differs between them is behind :class:`Reporter`.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from tecogan_dist.config import Config, DataConfig, learning_rate_at
from tecogan_dist.data.clips import ClipStore, Scene, open_clip
from tecogan_dist.data.stream import check_scenes, find_user_error, training_stream
from tecogan_dist.data.windows import cut_windows, needed_frames, sample_spec
from tecogan_dist.models.discriminator import Discriminator
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops import windows_to_frames
from tecogan_dist.training.engines import DeepSpeedPair, EnginePair, PlainPair
from tecogan_dist.training.ledger import Clock, Ledger
from tecogan_dist.training.objective import Objective, animations_of, prepare_device, to_device
from tecogan_dist.training.reporter import Reporter
from tecogan_dist.training.state import TrainingState, checkpoint_name, load_checkpoint, save_checkpoint
from tecogan_dist.training.tracking import Tracker
from tecogan_dist.vgg_weights import VggWeights
from tecogan_dist.weights import load_initial

Stream = Callable[..., Iterator[Tensor]]
"""Called as :func:`training_stream` is; yields this worker's windows of each step."""


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """A run as every worker gets it. Paths are absolute and mean the same on all machines."""

    config: Config
    data: Path
    """The clip store."""
    training_scenes: tuple[Scene, ...]
    validation_scenes: tuple[Scene, ...]
    """Empty: no validation."""
    output: Path
    resume_from: Path | None = None
    """Checkpoint of another run to go on from; what the run itself has kept comes first."""


def train(
    task: TrainingTask,
    *,
    device: torch.device,
    reporter: Reporter,
    vgg_weights: VggWeights | None = None,
    stream: Stream = training_stream,
) -> TrainingState:
    """Train to ``config.steps`` and return where the run is then; the last step always leaves a checkpoint.

    With a process group of torch.distributed this is one of its workers, on DeepSpeed; without one it is alone, on
    plain torch optimisers. ``vgg_weights`` are needed when ``loss.perceptual`` is positive. Raises :class:`UserError`
    when a loss is no longer finite.
    """
    config, every = task.config, task.config.tracking
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    prepare_device(device, config)
    with reporter.last_checkpoint() as kept:
        origin = kept or task.resume_from
        pair, beginning = _build_pair(config, device, initial_weights=None if origin else config.initial_weights)
        state = TrainingState() if origin is None else load_checkpoint(origin, pair=pair, workers=workers)
    tracker = Tracker(task.output, config, first_step=state.step) if rank == 0 else None
    first_step, attempt = state.step, _same_everywhere(int(time.time()), device)
    objective = Objective(config, pair, device, vgg_weights)
    ledger, clock = Ledger(state.balance_average), Clock()
    windows = stream(
        task.data,
        data=config.data,
        seed=config.seed,
        batch_size=config.batch_size,
        rank=rank,
        world_size=workers,
        first_step=first_step,
        steps=config.steps - first_step,
        scenes=task.training_scenes,
    )
    if tracker:
        reporter.say(beginning if origin is None else f"going on after step {state.step} ({origin})")

    for batch in clock.waiting(to_device(windows, device)):
        if tracker and state.step == first_step:
            reporter.say(f"step {state.step + 1} begins, the first windows took {clock.first_wait:.0f} s")
        lr_frames, hr_frames = windows_to_frames(batch)
        result = objective(lr_frames, hr_frames, step=state.step)
        ledger.settle()  # the step before: its balance decides, and the GPU is not waited for
        has_discriminator = result.discriminator_loss is not None
        update = has_discriminator and ledger.balance_average < config.discriminator.balance_threshold
        ledger.record(state.step, result.losses)
        learning_rate = learning_rate_at(config.optimizer, state.step)
        pair.apply(result, learning_rate=learning_rate, update_discriminator=update)
        clock.count_step()
        state = replace(
            state,
            step=state.step + 1,
            discriminator_updates=state.discriminator_updates + update,
            discriminator_skips=state.discriminator_skips + (has_discriminator and not update),
        )
        last = state.step == config.steps

        if last or state.step % every.display_every == 0:
            ledger.settle()
            metrics = ledger.for_display.take() | clock.take(config.batch_size)
            metrics |= {"learning_rate": learning_rate, "overflows": pair.overflows()}
            if has_discriminator:
                metrics |= {
                    "balance_average": ledger.balance_average,
                    "discriminator_updates": state.discriminator_updates,
                    "discriminator_skips": state.discriminator_skips,
                }
            if tracker:
                tracker.metrics(state.step, metrics)
                reporter.log(state.step, metrics)
        if last or state.step % every.summary_every == 0:
            ledger.settle()
            scalars = ledger.for_summary.take() | {"learning_rate": learning_rate}
            if task.validation_scenes:
                number = state.step // every.summary_every
                held_out = validation_windows(task, number=number, rank=rank, workers=workers)
                scalars |= objective.validate(held_out, step=state.step)
            if tracker:
                tracker.summary(state.step, scalars, animations_of(lr_frames, hr_frames, result))
        if last or state.step % every.save_every == 0:
            ledger.settle()
            state = replace(state, balance_average=ledger.balance_average)
            write = partial(save_checkpoint, state=state, pair=pair, config=config, rank=rank, workers=workers)
            reporter.checkpoint(checkpoint_name(state.step, attempt=attempt, workers=workers), write)
    if tracker:
        tracker.close()
    return state


def select_scenes(store: Path, data: DataConfig) -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    """Scenes for training and for validation. Raises :class:`UserError` if there are none or windows do not fit."""
    clips = ClipStore.open(store)
    validation = clips.select(*data.validation_scenes) if data.validation_scenes else ()
    training = clips.select(*data.train_scenes) if data.train_scenes else clips.scenes
    training = tuple(scene for scene in training if scene not in validation)
    check_scenes(training, data)
    if data.validation_scenes:
        check_scenes(validation, data)
    return training, validation


def validation_windows(task: TrainingTask, *, number: int, rank: int, workers: int) -> Tensor:
    """This worker's windows (N, T, H, W, 3) uint8 of the validation with this number, decoded here and now."""
    config, windows = task.config, []
    count = config.batch_size // workers
    first = number * config.batch_size + rank * count
    for index in range(first, first + count):
        spec = sample_spec(index, seed=config.seed, scenes=task.validation_scenes, data=config.data)
        frames = open_clip(task.data, spec.scene).frames_at(needed_frames([spec], config.data.sequence_length))
        windows.append(torch.from_numpy(cut_windows(frames, [spec], config.data)))
    return torch.cat(windows)


def build_networks(
    config: Config, *, initial_weights: str | None
) -> tuple[RecurrentUpscaler, Discriminator | None, str]:
    """The networks as a run begins with them, the same on all workers, and a sentence about their weights.

    Raises :class:`UserError` if ``initial_weights`` do not fit.
    """
    torch.manual_seed(config.seed)
    model = config.model
    upscaler = RecurrentUpscaler(
        blocks=model.blocks,
        channels=model.channels,
        flow_width=model.flow_width,
        output_init_scale=model.output_init_scale,
    )
    discriminator = None
    if config.loss.adversarial > 0:
        discriminator = Discriminator(
            in_channels=9 if config.discriminator.temporal_only else 27,
            global_batch_norm=config.discriminator.global_batch_norm,
        )
    sentence = "training starts from random weights"
    if initial_weights is not None:
        sentence = load_initial(initial_weights, upscaler, model, discriminator).rstrip(".")
    return upscaler, discriminator, sentence


def _build_pair(config: Config, device: torch.device, *, initial_weights: str | None) -> tuple[EnginePair, str]:
    upscaler, discriminator, sentence = build_networks(config, initial_weights=initial_weights)
    upscaler.to(device)
    if discriminator is not None:
        discriminator.to(device)
    if dist.is_initialized():
        return DeepSpeedPair(upscaler, discriminator, config, device), sentence
    return PlainPair(upscaler, discriminator, config), sentence


def _same_everywhere(value: int, device: torch.device) -> int:
    """The first worker's value."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(value, device=device)
    dist.broadcast(shared, src=0)
    return int(shared.item())


def train_worker(
    task: TrainingTask, *, vgg_weights: ray.ObjectRef | None, board: Any, stream: Stream = training_stream
) -> None:
    """:func:`train` inside a Ray Train worker. ``board`` is the driver's actor for messages."""
    try:
        train(
            task,
            device=ray.train.torch.get_device(),
            reporter=RayReporter(board),
            vgg_weights=None if vgg_weights is None else ray.get(vgg_weights),
            stream=stream,
        )
    except torch.cuda.OutOfMemoryError as error:
        _give_up(
            board,
            f"the GPU's memory is too small ({str(error).split('. ')[0]}): lower batch_size, data.crop_size or "
            "data.sequence_length, or use more workers or cluster.precision bf16.",
        )
        raise
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is not None:
            _give_up(board, str(user_error))
        raise


def _give_up(board: Any, sentence: str) -> None:
    # The controller looks there before it starts another attempt.
    ray.get(board.give_up.remote(sentence))


class RayReporter:
    """For a Ray Train worker: checkpoints to the run's storage, everything else to the driver's board."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def say(self, line: str) -> None:
        self._board.say.remote(line)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._board.log.remote(step, metrics)

    def checkpoint(self, name: str, write: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="tecogan_") as folder:
            write(Path(folder))
            # Its metrics would only be kept with checkpoints; ours are in metrics.jsonl.
            ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder), checkpoint_dir_name=name)

    @contextlib.contextmanager
    def last_checkpoint(self) -> Iterator[Path | None]:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)
