"""Which run a page is about, by its settings: the preset that it is a variant of, and how it is trained again."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tecogan_dist.config.leaves import leaves
from tecogan_dist.config.load import load, preset_names
from tecogan_dist.config.schema import Config

BESIDE = (
    *("cluster.", "tracking.", "initial_weights", "perceptual.weights", "steps", "seed"),
    *("data.train_scenes", "data.validation_scenes", "data.cache_dir", "data.decoded_cache", "data.cache_gigabytes"),
)
"""Settings that say little about which preset a run was begun with: they come last."""


@dataclass(frozen=True)
class Difference:
    """A setting by its dotted name, and its values as the command line takes them, one for each run."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Variant:
    """A config as a preset with differences, each with the run's value and the preset's."""

    preset: str
    differences: tuple[Difference, ...]


def network(config: Config) -> str:
    """What is trained: by whether there is a discriminator, as the config's own rule is."""
    return "TecoGAN" if config.loss.adversarial > 0 else "FRVSR"


def variant(config: Config) -> Variant:
    """The preset with the fewest differences; a run does not say which one it was begun with."""
    return min(
        (Variant(name, differences([config, preset])) for name, preset in _presets().items()),
        key=lambda found: (
            sum(not one.name.startswith(BESIDE) for one in found.differences),
            len(found.differences),
        ),
    )


def differences(configs: Sequence[Config]) -> tuple[Difference, ...]:
    """The settings that are not the same in all configs."""
    trees = [dict(leaves(config)) for config in configs]
    return tuple(
        Difference(name, tuple(shown(tree[name]) for tree in trees))
        for name in trees[0]
        if any(tree[name] != trees[0][name] for tree in trees)
    )


def command(config: Config, *, data: str, output: str, begun_from: str | None) -> str:
    """A command that begins this run, and goes on with it, where the places are the same."""
    begun_as = variant(config)
    words = ["tecogan", "train", "--config", begun_as.preset, "--data", data, "--output", output]
    if begun_from is not None:
        words += ["--resume", begun_from]
    values = dict(leaves(config))
    for one in begun_as.differences:
        words += [f"--{one.name.replace('_', '-')}", *_words(values[one.name])]
    return shlex.join(words)


def shown(value: Any) -> str:
    """A setting's value as the command line takes it, and a table shows it."""
    return " ".join(_words(value)) or "none"


def _words(value: Any) -> list[str]:
    if value is None or isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, Mapping):
        return [word for name, amount in value.items() for word in (str(name), f"{amount:g}")]
    if isinstance(value, tuple | list):
        return [word for one in value for word in _words(one)]
    return [repr(value) if isinstance(value, float) else str(value)]


@functools.cache
def _presets() -> dict[str, Config]:
    return {name: load(name) for name in preset_names()}
