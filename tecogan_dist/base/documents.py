"""YAML that users write, read strictly: every mistake is one sentence that names the file and the key."""

from __future__ import annotations

from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location

T = TypeVar("T")


def read_text(file: Path | Traversable | Location, *, missing: str) -> str:
    """The text of a UTF-8 file. ``missing`` is the sentence for one that does not exist. Raises :class:`UserError`."""
    try:
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise UserError(missing) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a YAML text file ({error}).") from error


def parse_yaml(text: str | bytes, *, source: object) -> Any:
    """Plain values from YAML. ``source`` names it in the sentence of the :class:`UserError`."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())}.") from error


def validated(adapter: pydantic.TypeAdapter[T], tree: Any, *, source: object, known: str) -> T:
    """A checked value from plain ones. ``known`` says where the names of all keys stand.

    Raises :class:`UserError` for unknown keys and wrong values, which names the first.
    """
    try:
        return adapter.validate_python(tree)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(name) for name in problem["loc"]) or "the top level"
        if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            raise UserError(f"{source}: unknown key {key!r}; {known}.") from error
        raise UserError(f"{source}: {key}: {problem['msg'].lower()}, not {problem['input']!r}.") from error
