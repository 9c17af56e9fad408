"""What a space asks to be trained: how many trainings, with which configs, measured by what."""

from __future__ import annotations

import math
from typing import Any

from tecogan_dist.base.invariants import present
from tecogan_dist.config.leaves import leaves
from tecogan_dist.config.load import from_tree, to_tree
from tecogan_dist.config.schema import Config
from tecogan_dist.metrics.names import METRICS
from tecogan_dist.tuning.space import Fifo, Grid, Optuna, Pb2, Pbt, Space
from tecogan_dist.tuning.values import ends, setting_type

ALL_CHECKPOINTS = 1_000_000


def trial_config(base: Config, space: Space, values: dict[str, Any]) -> Config:
    """The config of a trial with these searched ``values``; with none, of the preset that a sweep compares with.

    ``base`` is what the command was given. Raises :class:`UserError` for values that do not go.
    """
    return from_tree(trial_tree(base, space, values), source="a trial's settings")


def full_config(base: Config, space: Space, values: dict[str, Any]) -> Config:
    """What trains a trial's ``values`` at full length: ``base`` with the space's fixed settings and these.

    Steps, workers, validations and checkpoints are those of ``base``. Raises :class:`UserError`.
    """
    return from_tree(_changed(base, {**space.fixed, **values}), source="the settings at full length")


def number_of_trials(space: Space) -> int:
    """How many trials a checked space's search has: as many as its grid, or ``trials``."""
    if isinstance(space.searcher, Grid):
        return math.prod(len(distribution.values) for distribution in space.settings.values())
    return present(space.trials, "a checked space without a grid says its trials")


def compared_trainings(space: Space) -> int:
    """How many trainings follow the search: the preset's, and the repeats."""
    return 1 + (0 if space.repeat is None else space.repeat.seeds * (space.repeat.top + 1))


def needed_metrics(space: Space) -> tuple[str, ...]:
    """All that has to be measured for the score, its limits, the scheduler and the searcher, in evaluate's order."""
    wanted: set[str | None] = {*space.score.metrics, *space.score.limits}
    if not isinstance(space.scheduler, Fifo):
        wanted.add(space.scheduler.metric)
    if isinstance(space.searcher, Optuna):
        wanted.add(space.searcher.metric)
    return tuple(name for name in METRICS if name in wanted)


def largest_perceptual(base: Config, space: Space) -> float:
    """The largest weight of the perceptual loss in a trial or the preset: with one above 0, VGG19 is needed."""
    searched = space.settings.get("loss.perceptual")
    preset = trial_config(base, space, {}).loss.perceptual
    return preset if searched is None else max(preset, *ends(searched))


def preset_values(base: Config, space: Space) -> dict[str, Any]:
    """The searched settings as the preset has them."""
    settings = dict(leaves(trial_config(base, space, {})))
    return {name: settings[name] for name in space.settings}


def trial_tree(base: Config, space: Space, values: dict[str, Any]) -> dict[str, Any]:
    """The tree of :func:`trial_config`, unchecked."""
    # A trial that goes on from another's weights may come for any that were measured. Else the newest may be from a
    # stop, the one before it not be measured yet, and the third what was measured last.
    keep = ALL_CHECKPOINTS if isinstance(space.scheduler, (Pbt, Pb2)) else 3
    own: dict[str, Any] = {
        "steps": space.steps,
        "cluster.address": None,
        "cluster.workers": space.trial.workers,
        "cluster.min_workers": None,
        "cluster.cpus_per_worker": space.trial.cpus_per_worker,
        "cluster.resources_per_worker": space.trial.resources_per_worker,
        "tracking.validate_every": space.measure_every,
        "tracking.save_every": space.measure_every,
        "tracking.keep_checkpoints": keep,
        "tracking.best": next(iter(space.score.metrics)),
    }
    if space.trial.gpus_per_worker == 0:
        own["cluster.device"] = "cpu"
    drawn = {name: _as_taken(name, value) for name, value in values.items()}
    return _changed(base, {**space.fixed, **drawn, **own})


def _as_taken(name: str, value: Any) -> Any:
    """A value as its setting takes it: quniform gives whole numbers as 2.0."""
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole and setting_type(name) is int else value


def _changed(base: Config, changes: dict[str, Any]) -> dict[str, Any]:
    """A config's tree with settings, by dotted names, changed."""
    tree = to_tree(base)
    for name, value in changes.items():
        section, _, leaf = name.rpartition(".")
        (tree[section] if section else tree)[leaf] = value
    return tree
