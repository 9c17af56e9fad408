"""All settings by their dotted names, as the command line and messages write them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any


def types(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every setting below a dataclass."""
    hints = typing.get_type_hints(type(node))
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from types(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name]


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every setting below a dataclass."""
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value
