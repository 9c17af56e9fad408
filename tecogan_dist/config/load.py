"""Settings from presets, YAML files, run files and weights files; and the rules that types cannot express."""

from __future__ import annotations

import copy
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import pydantic

from tecogan_dist.base.documents import parse_yaml, quoted, read_text, validated
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.spelling import meant
from tecogan_dist.base.storage import Location
from tecogan_dist.config.leaves import leaves
from tecogan_dist.config.schema import Config, ModelConfig

RENAMED = {"tracking.validation_scenes": "tracking.validation_scene_count"}
"""Settings of earlier versions: understood in files that those wrote; whoever writes one is told the new name."""

SMALLEST_SEEN = 8
"""High-resolution pixels of a side that the discriminator sees at the least."""

_CONFIG_ADAPTER = pydantic.TypeAdapter(Config)
_MODEL_ADAPTER = pydantic.TypeAdapter(ModelConfig)
_KNOWN = "'tecogan train --help' lists all"
_NAMES = tuple(name for name, _ in leaves(Config()))
_MODEL_NAMES = tuple(name for name, _ in leaves(ModelConfig()))


def preset_names() -> list[str]:
    """Names of the shipped presets, sorted."""
    folder = resources.files("tecogan_dist.config") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load(preset_or_file: str) -> Config:
    """Read a preset by name or a YAML file by its path, local or on s3:// or gs://.

    Raises :class:`UserError` for anything but a valid config.
    """
    file: Traversable | Location
    if preset_or_file in preset_names():
        file = resources.files("tecogan_dist.config") / "presets" / f"{preset_or_file}.yaml"
    else:
        place = Location(preset_or_file)
        file = place.path if place.is_local else place
    missing = (
        f"no preset or file is named {quoted(preset_or_file)}{meant(preset_or_file, preset_names())} presets are "
        f"{', '.join(preset_names())}, anything else is the path of a YAML file."
    )
    return from_yaml(read_text(file, missing=missing), source=preset_or_file)


def from_yaml(text: str, *, source: str) -> Config:
    """A config from YAML text; ``source`` names it in error messages."""
    tree = parse_yaml(text, source=source)
    return from_tree({} if tree is None else tree, source=source)


def from_tree(tree: Any, *, source: str) -> Config:
    """A validated config from plain nested dictionaries. Raises :class:`UserError`."""
    if not isinstance(tree, dict):
        raise UserError(f"{source}: settings are keys with values, such as 'steps: 4000', not {quoted(tree)}.")
    for old, new in RENAMED.items():
        if _take(copy.deepcopy(tree), old) is not None:
            raise UserError(f"{source}: {old} is called {new} now: rename it.")
    config = validated(_CONFIG_ADAPTER, tree, source=source, known=_KNOWN, names=_NAMES)
    check(config)
    return config


def from_record(tree: Any, *, source: str) -> Config:
    """:func:`from_tree` for what a run has written, perhaps by an earlier version: renamed settings are understood."""
    tree = copy.deepcopy(tree)
    for old, new in RENAMED.items():
        value = _take(tree, old)
        if value is not None:
            section, _, name = new.rpartition(".")
            _section(tree, section)[name] = value
    return from_tree(tree, source=source)


def _take(tree: Any, name: str) -> Any:
    """The value of a dotted name, taken out of the tree; None if it is not there."""
    section, _, leaf = name.rpartition(".")
    node = _section(tree, section)
    return node.pop(leaf, None) if isinstance(node, dict) else None


def _section(tree: Any, name: str) -> Any:
    for key in name.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def model_from_tree(tree: Any, *, source: str) -> ModelConfig:
    """The model's settings alone, as weights files carry them."""
    return validated(_MODEL_ADAPTER, tree, source=source, known=_KNOWN, names=_MODEL_NAMES)


def to_tree(config: Config | ModelConfig) -> dict[str, Any]:
    """Plain nested dictionaries of strings, numbers and lists; ``from_tree`` is the way back."""
    adapter: pydantic.TypeAdapter[Any] = _CONFIG_ADAPTER if isinstance(config, Config) else _MODEL_ADAPTER
    return adapter.dump_python(config, mode="json")


def check(config: Config) -> None:
    """Rules that types cannot express. Raises :class:`UserError`."""
    problems = _cluster_problems(config)
    if config.data.sequence_length < (3 if config.loss.adversarial > 0 else 2):
        problems.append("data.sequence_length must be at least 2, and at least 3 with a discriminator")
    if config.data.crop_size < 8 or config.data.crop_size % 8:
        problems.append(f"data.crop_size must be a multiple of 8 for the flow network, not {config.data.crop_size}")
    if config.loss.adversarial == 0 and config.loss.feature_match > 0:
        problems.append("loss.feature_match needs the discriminator: set it to 0, or loss.adversarial above 0")
    seen = int(config.data.crop_size * config.model.scale * config.discriminator.temporal_crop)
    if config.loss.adversarial > 0 and seen < SMALLEST_SEEN:
        problems.append(
            f"discriminator.temporal_crop leaves {seen} pixels of a frame's side, and {SMALLEST_SEEN} are needed: "
            "raise it, or data.crop_size"
        )
    for name in ("train_scenes", "validation_scenes"):
        first, last = getattr(config.data, name) or (0, 0)
        if first > last:
            problems.append(f"data.{name} begins with {first} and ends with {last}: write the first scene first")
    if config.data.train_scenes and config.data.validation_scenes:
        (first, last), (held_first, held_last) = config.data.train_scenes, config.data.validation_scenes
        if first <= held_last and held_first <= last:
            problems.append("data.train_scenes and data.validation_scenes overlap: give them separate ranges")
    if problems:
        raise UserError("; ".join(problems) + ".")


def _cluster_problems(config: Config) -> list[str]:
    """What cannot be combined, with the reason."""
    cluster, problems = config.cluster, []
    smallest = cluster.workers if cluster.min_workers is None else cluster.min_workers
    if smallest > cluster.workers:
        problems.append(f"cluster.min_workers {smallest} is above cluster.workers {cluster.workers}: lower it")
    for workers in range(smallest, cluster.workers + 1):
        if config.batch_size % (workers * config.accumulation):
            shares = f"{workers} workers" + (
                f" with {config.accumulation} micro-batches each" if config.accumulation > 1 else ""
            )
            problems.append(
                f"batch_size {config.batch_size} cannot be divided among {shares}: change batch_size, cluster.workers, "
                "cluster.min_workers or accumulation"
            )
            break
    if cluster.compile == "on" and cluster.zero_stage == 3:
        problems.append(
            "cluster.compile on needs cluster.zero_stage 0, 1 or 2 (stage 3 brings weights in by hooks inside of what "
            "would be compiled)"
        )
    if cluster.compile == "graph" and cluster.zero_stage:
        problems.append(
            "cluster.compile graph needs cluster.zero_stage 0 (the other stages work within the backward pass)"
        )
    if config.optimizer.ema_decay and cluster.zero_stage == 3:
        problems.append(
            "optimizer.ema_decay needs cluster.zero_stage 0, 1 or 2 (stage 3 would gather all weights for every step)"
        )
    return problems
