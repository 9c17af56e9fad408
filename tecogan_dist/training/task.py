"""A run as it is handed to workers: settings, scenes, places, and the weights of networks that are not trained."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.schema import Config
from tecogan_dist.data.clips import ClipStore, Scene, Scenes
from tecogan_dist.data.stream.fits import check_scenes
from tecogan_dist.data.stream.windows import window_config
from tecogan_dist.metrics.names import NEED_WEIGHTS
from tecogan_dist.metrics.protocol import BORDER, MULTIPLE, OFFICIAL
from tecogan_dist.runs.facts import Facts
from tecogan_dist.tracking.wandb_variables import WandbVariables
from tecogan_dist.training.profiled_steps import Profile

if TYPE_CHECKING:  # what needs torch is imported where it is used: a command selects scenes before it has torch
    from tecogan_dist.metrics.perceptual import Trunk
    from tecogan_dist.weights.vgg import VggWeights


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """A run as every worker gets it. Places mean the same on all machines."""

    config: Config
    data: Location
    """The clip store."""
    training_scenes: Sequence[Scene]
    validation_scenes: Sequence[Scene]
    """Empty: no validation."""
    output: Location
    resume_from: Location | None = None
    """Checkpoint of another run to go on from; what the run itself has kept comes first."""
    owner: str | None = None
    """The word of the command that trains (:mod:`tecogan_dist.runs.owner`): as long as the output has it, it is this
    task's. None: nobody else trains there."""
    searched: Mapping[str, Any] = field(default_factory=dict)
    """The settings that a sweep searches, with this trial's values; empty for a run that is no trial."""
    facts: Facts = Facts()
    """What the driver knows of the command; a worker on Ray adds the cluster."""
    wandb: WandbVariables | None = field(default=None, repr=False)
    """W&B's variables of the command, its key among them; None: those of the process that trains."""
    profile: Profile | None = None
    """Steps whose time is looked at; None: those of no step."""


def select_scenes(store: Location, config: Config) -> tuple[Scenes, Scenes]:
    """Scenes for training and for validation. Raises :class:`UserError` if there are none or windows do not fit."""
    data = window_config(config)
    clips = ClipStore.open(store)
    validation = clips.select(*data.validation_scenes) if data.validation_scenes else clips.scenes[:0]
    training = clips.select(*data.train_scenes) if data.train_scenes else clips.scenes
    training = training.without(validation.numbers())
    check_scenes(training, data)
    if data.validation_scenes:
        check_scenes(validation, data)
    return training, validation


def measured_scenes(task: TrainingTask) -> tuple[Scene, ...]:
    """The held-out scenes that are measured: the first that the official protocol can measure."""
    smallest = MULTIPLE + 2 * BORDER
    fit = (
        scene
        for scene in task.validation_scenes
        if scene.frames >= OFFICIAL.minimum_frames and min(scene.height, scene.width) >= smallest
    )
    return tuple(itertools.islice(fit, task.config.tracking.validation_scene_count))


@dataclass(frozen=True)
class Networks:
    """Weights of networks that are not trained, as plain values."""

    vgg: VggWeights | None = None
    """Needed when ``loss.perceptual`` is positive."""
    lpips: Trunk | None = None
    """None: LPIPS and tLP are not measured."""


def read_networks(task: TrainingTask) -> Networks:
    """What a run needs of them, read on this machine; VGG19 by its name is fetched. Raises :class:`UserError`.

    LPIPS's network is taken if it is at one of its places, and needed if the best checkpoint is chosen by it.
    """
    from tecogan_dist.metrics.perceptual import find_trunk
    from tecogan_dist.published.names import if_cached, resolve
    from tecogan_dist.weights.vgg import read_vgg

    config = task.config
    vgg = None
    if config.loss.perceptual > 0:
        vgg = read_vgg(resolve(config.perceptual.weights, "vgg"), seed=config.seed)
    if not measured_scenes(task):
        return Networks(vgg)
    try:
        return Networks(vgg, find_trunk(instead=if_cached("lpips-alex")))
    except UserError:
        if config.tracking.best in NEED_WEIGHTS:
            raise
        return Networks(vgg)
