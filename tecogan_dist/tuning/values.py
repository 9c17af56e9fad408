"""What a distribution can give, and whether its setting takes that."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator
from typing import Any

from tecogan_dist.config.schema import Config
from tecogan_dist.tuning.reading import RANGES
from tecogan_dist.tuning.space import Distribution, Space


def type_problem(name: str, distribution: Distribution) -> str | None:
    """What a setting's type refuses between the ends of a range; and ``true`` as a number, which pydantic accepts."""
    kind, values, ranged = setting_type(name), distribution.values, distribution.kind in RANGES
    booleans = [isinstance(value, bool) for value in values]
    if typing.get_origin(kind) is tuple:
        return "has several numbers and cannot be searched: set it under fixed"
    if kind is bool and not all(booleans):
        return "is true or false: write {choice: [true, false]}"
    if kind is not bool and any(booleans):
        return f"cannot be {str(values[booleans.index(True)]).lower()}"
    if typing.get_origin(kind) is typing.Literal and ranged:
        return f"is one of {', '.join(map(str, typing.get_args(kind)))}: write a choice of them"
    whole = ranged and not any(value % 1 for value in values) and distribution.kind not in ("uniform", "loguniform")
    if kind is int and ranged and not whole:
        return "is a whole number: write randint, or quniform with whole numbers"
    return None


def setting_type(name: str) -> Any:
    """The type of a setting of one of the searched sections, without its bounds."""
    section, leaf = name.split(".")
    return typing.get_type_hints(type(getattr(Config(), section)))[leaf]


def ends(distribution: Distribution) -> tuple[Any, ...]:
    """The ends of a range, or all the values that there are."""
    if distribution.kind == "randint":
        return distribution.values[0], distribution.values[1] - 1
    return distribution.values[:2] if distribution.kind in RANGES else distribution.values


def can_give(distribution: Distribution, value: Any) -> bool:
    """Whether a value is one of a distribution's, but for the last digits that a logarithm or a step may cost."""
    if distribution.kind not in RANGES:
        return any(
            isinstance(value, bool) == isinstance(known, bool) and value == known for known in distribution.values
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = ends(distribution)
    margin = 1e-6 * max(abs(low), abs(high))
    return bool(low - margin <= value <= high + margin)


def corners(settings: dict[str, Distribution]) -> Iterator[dict[str, Any]]:
    """Values that trials can have: any two settings at any of their ends, the others at their first.

    Of many numbers the ends are the smallest, the largest and 0: rules between settings ask for nothing else.
    """
    found = {name: _extremes(ends(distribution)) for name, distribution in settings.items()}
    first = {name: values[0] for name, values in found.items()}
    for names in itertools.combinations(settings, min(2, len(settings))):
        for values in itertools.product(*(found[name] for name in names)):
            yield {**first, **dict(zip(names, values, strict=True))}


def _extremes(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(values) < 4 or not all(type(value) in (int, float) for value in values):
        return values
    kept = {values[0], min(values), max(values), 0}
    return tuple(value for value in values if value in kept)


def within(space: Space, values: dict[str, Any]) -> dict[str, Any]:
    """Values that PBT has multiplied, brought back into their ranges and onto their grids."""
    return {name: _within(space.settings[name], value) for name, value in values.items()}


def _within(ranges: Distribution, value: Any) -> Any:
    if ranges.kind == "choice":
        return value
    low, high, *step = ranges.values
    if ranges.kind == "randint":
        return min(max(value, low), high - 1)
    value = min(max(value, low), high)
    return min(low + round((value - low) / step[0]) * step[0], high) if step else value
