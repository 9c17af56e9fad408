"""Spaces for tests: one that is right, and changes to it."""

from __future__ import annotations

from typing import Any

import yaml

from tecogan_dist.base.errors import UserError
from tecogan_dist.config import load as settings
from tecogan_dist.config.overrides import override
from tecogan_dist.tuning.reading import space_from_yaml
from tecogan_dist.tuning.space import Space

BASE = override(settings.load("tecogan"), ["--initial-weights", "fnet", "--cluster.workers", "2"])
SETTINGS = {"loss.pingpong": {"loguniform": [0.05, 5.0]}}
TREE: dict[str, Any] = {
    "settings": SETTINGS,
    "score": {"metrics": {"tof": "min"}},
    "trials": 8,
    "steps": 60,
    "measure_every": 15,
}
RANKS = {"metrics": {"tof": "min", "lpips": "min"}, "combine": "ranks"}
PARETO = {**RANKS, "combine": "pareto"}
TWO_GRIDS = {"loss.warp": {"grid": [0.5, 1.0, 2.0]}, "loss.pingpong": {"grid": [0.1, 0.5]}}


def space_of(**changes: Any) -> Space:
    """A space that is right but for ``changes``, by way of YAML; None takes a key out."""
    tree = {key: value for key, value in {**TREE, **changes}.items() if value is not None}
    return space_from_yaml(yaml.safe_dump(tree, sort_keys=False), source="mine.yaml")


def searching(**settings: Any) -> Space:
    """With these settings only; two underscores stand for a dot."""
    return space_of(settings={name.replace("__", "."): value for name, value in settings.items()})


def one_sentence(error: UserError) -> str:
    text = str(error)
    assert "mine.yaml" in text
    assert "\n" not in text
    assert text.endswith(".")
    assert not text.endswith("..")
    return text
