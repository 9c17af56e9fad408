"""What a run is made of before its first step: scenes, networks, weights, where it goes on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from tecogan_dist.config import Config
from tecogan_dist.data.clips import ClipStore, Scene
from tecogan_dist.data.stream import check_scenes
from tecogan_dist.data.windows import window_config
from tecogan_dist.degradation import is_centred
from tecogan_dist.errors import UserError
from tecogan_dist.models.discriminator import Discriminator
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.storage import Location
from tecogan_dist.training.ema import WeightAverage
from tecogan_dist.training.engines import DeepSpeedPair, EnginePair, PlainPair
from tecogan_dist.training.state import EMA_FILE, TrainingState, load_moments, newest_checkpoint, opened, read_state
from tecogan_dist.weights import WEIGHTS_FILE, load_initial, read_weights


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """A run as every worker gets it. Places mean the same on all machines."""

    config: Config
    data: Location
    """The clip store."""
    training_scenes: tuple[Scene, ...]
    validation_scenes: tuple[Scene, ...]
    """Empty: no validation."""
    output: Location
    resume_from: Location | None = None
    """Checkpoint of another run to go on from; what the run itself has kept comes first."""


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """A run ready for its next step, on one worker."""

    pair: EnginePair
    state: TrainingState
    average: WeightAverage | None
    sentence: str
    """Where the weights are from, for people."""


def select_scenes(store: Location, config: Config) -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    """Scenes for training and for validation. Raises :class:`UserError` if there are none or windows do not fit."""
    data = window_config(config)
    clips = ClipStore.open(store)
    validation = clips.select(*data.validation_scenes) if data.validation_scenes else ()
    training = clips.select(*data.train_scenes) if data.train_scenes else clips.scenes
    training = tuple(scene for scene in training if scene not in validation)
    check_scenes(training, data)
    if data.validation_scenes:
        check_scenes(validation, data)
    return training, validation


def build_networks(
    config: Config, *, initial_weights: str | None
) -> tuple[RecurrentUpscaler, Discriminator | None, str]:
    """The networks as a run begins with them, the same on all workers, and a sentence about their weights.

    Raises :class:`UserError` if ``initial_weights`` do not fit.
    """
    torch.manual_seed(config.seed)
    upscaler = build_upscaler(config)
    discriminator = None
    if config.loss.adversarial > 0:
        discriminator = Discriminator(
            in_channels=9 if config.discriminator.temporal_only else 27,
            global_batch_norm=config.discriminator.global_batch_norm,
        )
    sentence = "training starts from random weights"
    if initial_weights is not None:
        sentence = load_initial(initial_weights, upscaler, config.model, discriminator).rstrip(".")
    return upscaler, discriminator, sentence


def build_upscaler(config: Config) -> RecurrentUpscaler:
    """An untrained upscaler of a run's settings."""
    model = config.model
    return RecurrentUpscaler(
        blocks=model.blocks,
        channels=model.channels,
        flow_width=model.flow_width,
        output_init_scale=model.output_init_scale,
        scale=model.scale,
        centred=is_centred(config.data.degradation),
        checkpointing=config.cluster.activation_checkpointing,
    )


def begin(task: TrainingTask, device: torch.device) -> Beginning:
    """Networks, optimisers and state of the newest checkpoint, else of ``resume_from``, else of the first step.

    All workers call it. Raises :class:`UserError` for a checkpoint that is damaged or does not fit.
    """
    # One look for all: a listing that changed in between would send workers to different steps.
    origin = the_first_workers(newest_checkpoint(task.output) or task.resume_from, device)
    config = task.config
    upscaler, discriminator, sentence = build_networks(
        config, initial_weights=None if origin else config.initial_weights
    )
    if origin is None:
        pair = _build_pair(upscaler, discriminator, config, device)
        return Beginning(pair=pair, state=TrainingState(), average=_average(pair, config), sentence=sentence)
    checkpoint = read_state(origin)
    with opened(origin) as folder:
        weights = read_weights(folder / WEIGHTS_FILE)
        if discriminator is not None and weights.discriminator is None:
            raise UserError(
                f"{origin} has no discriminator to go on with: begin a new run from its weights with "
                f"--initial_weights {origin / WEIGHTS_FILE}."
            )
        _load(upscaler, weights.upscaler, origin)
        if discriminator is not None and weights.discriminator is not None:
            _load(discriminator, weights.discriminator, origin)
        pair = _build_pair(upscaler, discriminator, config, device)
        load_moments(folder, checkpoint, pair)
        average = _average(pair, config)
        if average is not None and (folder / EMA_FILE).exists():
            average.load(read_weights(folder / EMA_FILE).upscaler, updates=checkpoint.average_updates)
    sentence = f"going on after step {checkpoint.state.step} ({origin})"
    return Beginning(pair=pair, state=checkpoint.state, average=average, sentence=sentence)


def the_first_workers(value: Location | None, device: torch.device) -> Location | None:
    """What the first worker gives, on all."""
    if not dist.is_initialized():
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0, device=device)
    return shared[0]


def _build_pair(
    upscaler: RecurrentUpscaler, discriminator: Discriminator | None, config: Config, device: torch.device
) -> EnginePair:
    upscaler.to(device)
    if discriminator is not None:
        discriminator.to(device)
    if dist.is_initialized():
        return DeepSpeedPair(upscaler, discriminator, config, device)
    return PlainPair(upscaler, discriminator, config)


def _average(pair: EnginePair, config: Config) -> WeightAverage | None:
    decay = config.optimizer.ema_decay
    return WeightAverage(pair.upscaler_module, decay) if decay else None


def _load(module: nn.Module, state: dict[str, torch.Tensor], origin: Location) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"the networks of {origin} are not those of this config: use its run's settings, or begin a new run with "
            "--initial_weights."
        ) from error
