"""The beginning of a run on one worker: networks, optimisers and state, new or from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.schema import Config
from tecogan_dist.models.build import build_discriminator, build_upscaler
from tecogan_dist.models.discriminator import Discriminator
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.runs.checkpoints import (
    EMA_FILE,
    MOMENTS_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    StateFile,
    newest_checkpoint,
    opened,
    read_state,
)
from tecogan_dist.runs.find import read_weights
from tecogan_dist.training.engines.deepspeed import DeepSpeedPair
from tecogan_dist.training.engines.ema import WeightAverage
from tecogan_dist.training.engines.pair import EnginePair
from tecogan_dist.training.engines.plain import PlainPair
from tecogan_dist.training.step import TrainingStep
from tecogan_dist.training.task import TrainingTask
from tecogan_dist.weights.initial import check_arithmetic, load_initial
from tecogan_dist.weights.tensors import read_tensors
from tecogan_dist.weights.vgg import VggWeights

T = TypeVar("T")


def build_networks(
    config: Config, *, initial_weights: str | None
) -> tuple[RecurrentUpscaler, Discriminator | None, str]:
    """The networks as a run begins with them, the same on all workers, and a sentence about their weights.

    Raises :class:`UserError` if ``initial_weights`` do not fit.
    """
    torch.manual_seed(config.seed)
    upscaler = build_upscaler(
        config.model,
        degradation=config.data.degradation,
        activation_checkpointing=config.cluster.activation_checkpointing,
    )
    discriminator = build_discriminator(config.discriminator) if config.loss.adversarial > 0 else None
    sentence = "training starts from random weights"
    if initial_weights is not None:
        weights = read_weights(initial_weights)
        sentence = load_initial(weights, initial_weights, upscaler, config.model, discriminator)
    return upscaler, discriminator, sentence


def find_origin(task: TrainingTask, device: torch.device) -> tuple[Location | None, int]:
    """The newest checkpoint or ``resume_from``, which the run goes on from, if any, and the steps that are done there.

    All workers call it. Raises :class:`UserError` for a checkpoint that is damaged.
    """
    # One look for all: a listing that changed in between would send workers to different steps.
    origin = the_first_workers(newest_checkpoint(task.output) or task.resume_from, device)
    return origin, 0 if origin is None else read_state(origin).state.step


def begin(
    task: TrainingTask, device: torch.device, vgg: VggWeights | None, *, origin: Location | None
) -> tuple[TrainingStep, str]:
    """A step that goes on from the checkpoint ``origin``, or begins; and where it is, in words.

    All workers call it. Raises :class:`UserError` for a checkpoint that is damaged or does not fit.
    """
    config = task.config
    if origin is not None:
        return _resume(origin, config, device, vgg)
    upscaler, discriminator, sentence = build_networks(config, initial_weights=config.initial_weights)
    pair = build_pair(upscaler, discriminator, config, device)
    return TrainingStep(config, pair, device=device, vgg=vgg, average=_average(pair, config)), sentence


def check_origin(origin: Location, config: Config) -> None:
    """Raise :class:`UserError` for a checkpoint that a run cannot go on from: damaged, or of other networks."""
    upscaler, discriminator, _ = build_networks(config, initial_weights=None)
    with opened(origin) as folder:
        _load_networks(folder, origin, config, upscaler, discriminator)


def _load_networks(
    folder: Path,
    origin: Location,
    config: Config,
    upscaler: RecurrentUpscaler,
    discriminator: Discriminator | None,
) -> None:
    """Fill the networks, which ``config`` asked for, from an opened checkpoint."""
    files = read_state(origin).files
    for name in (WEIGHTS_FILE, MOMENTS_FILE):
        if name not in files:
            raise UserError(f"{origin} is damaged, its {STATE_FILE} knows no {name}: move it away.")
    weights = read_weights(folder / WEIGHTS_FILE)
    check_arithmetic(weights.model, origin, config.model)
    if discriminator is not None and weights.discriminator is None:
        raise UserError(
            f"{origin} has no discriminator to go on with: begin a new run from its weights with "
            f"--initial-weights {origin / WEIGHTS_FILE}."
        )
    _load(upscaler, weights.upscaler, origin)
    if discriminator is not None and weights.discriminator is not None:
        _load(discriminator, weights.discriminator, origin)


def _resume(origin: Location, config: Config, device: torch.device, vgg: VggWeights | None) -> tuple[TrainingStep, str]:
    upscaler, discriminator, _ = build_networks(config, initial_weights=None)
    checkpoint = read_state(origin)
    with opened(origin) as folder:
        _load_networks(folder, origin, config, upscaler, discriminator)
        pair = build_pair(upscaler, discriminator, config, device)
        _load_moments(folder, checkpoint, pair)
        average = _average(pair, config)
        if average is not None and (folder / EMA_FILE).exists():
            average.load(read_weights(folder / EMA_FILE).upscaler, updates=checkpoint.average_updates)
    step = TrainingStep(config, pair, device=device, vgg=vgg, state=checkpoint.state, average=average)
    return step, f"going on after step {checkpoint.state.step} ({origin})"


def the_first_workers(value: T, device: torch.device) -> T:
    """What the first worker gives, on all."""
    if not dist.is_initialized():
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0, device=device)
    return shared[0]


def build_pair(
    upscaler: RecurrentUpscaler, discriminator: Discriminator | None, config: Config, device: torch.device
) -> EnginePair:
    """On DeepSpeed where torch.distributed has a process group, else on plain optimisers."""
    upscaler.to(device)
    if discriminator is not None:
        discriminator.to(device)
    if dist.is_initialized():
        return DeepSpeedPair(upscaler, discriminator, config, device)
    return PlainPair(upscaler, discriminator, config)


def _average(pair: EnginePair, config: Config) -> WeightAverage | None:
    decay = config.optimizer.ema_decay
    return WeightAverage(pair.upscaler_module, decay) if decay else None


def _load(module: nn.Module, state: dict[str, Tensor], origin: Location) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"the networks of {origin} are not those of this config: use its run's settings, or begin a new run with "
            "--initial-weights."
        ) from error


def _load_moments(folder: Path, checkpoint: StateFile, pair: EnginePair) -> None:
    """Put an opened checkpoint's moments into a pair whose weights are the checkpoint's. All workers call it."""
    moments, _ = read_tensors(folder / MOMENTS_FILE)
    missing = {name for name in checkpoint.updates if checkpoint.updates[name]} - {
        name.split(".")[0] for name in moments
    }
    if missing:
        raise UserError(f"{folder} lacks the optimiser's moments of {', '.join(sorted(missing))}: resume from another.")
    pair.load_moments(moments, checkpoint.updates)
