"""YAML and JSON of others, and our own that may be damaged: a value or one sentence, in bounded time and memory."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pydantic
import yaml

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import open_regular
from tecogan_dist.base.spelling import meant
from tecogan_dist.base.storage import Location
from tecogan_dist.base.strict_yaml import DEPTH, INTEGERS, Dumper, Loader

YAML_BYTES = 200_000
"""More than any file of settings has; PyYAML reads that many in two seconds."""
JSON_BYTES = 64 * 2**20
QUOTED, NAMED = 80, 300
"""Characters of a value, and of a name, that a sentence shows."""
T = TypeVar("T")


def read_text(file: Path | Traversable | Location, *, missing: str, limit: int = YAML_BYTES) -> str:
    """The text of a UTF-8 file of at most ``limit`` bytes. ``missing`` is the sentence for one that does not exist.

    Raises :class:`UserError`.
    """
    return _decoded(_bytes_of(file, missing=missing, limit=limit), source=file)


def parse_yaml(text: str | bytes, *, source: object) -> Any:
    """Plain values from one YAML document; None from an empty one. ``source`` names it.

    Raises :class:`UserError` for what is not YAML, or is more than :mod:`tecogan_dist.base.strict_yaml` takes: repeated
    keys, tags, anchors, more than ``YAML_BYTES`` bytes, nesting, numbers beyond 64 bits.
    """
    text = _decoded(text, source=source, limit=YAML_BYTES)
    try:
        return yaml.load(text, Loader)  # derived from the safe one
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{_name(source)} is not valid YAML ({printable(problem, limit=NAMED)}{place}).") from error
    except (yaml.YAMLError, RecursionError) as error:
        problem = getattr(error, "reason", "") or type(error).__name__
        raise UserError(f"{_name(source)} is not valid YAML ({printable(problem, limit=NAMED)}).") from error


def dump_yaml(tree: Any) -> str:
    """YAML of plain values, in the order that they have, which :func:`parse_yaml` reads as they are."""
    text: str = yaml.dump(tree, Dumper=Dumper, sort_keys=False)
    return text


def parse_json(text: str | bytes, *, source: object) -> Any:
    """Plain values from JSON as RFC 8259 has it. ``source`` names it.

    Raises :class:`UserError` for what is not JSON (``NaN`` and ``Infinity`` are not), for repeated keys, numbers beyond
    64 bits, more than ``JSON_BYTES`` bytes, and nesting.
    """
    text = _decoded(text, source=source, limit=JSON_BYTES)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_section,
            parse_int=_integer,
            parse_float=_decimal,
            parse_constant=_constant,
        )
        _check_values(value)
    except (ValueError, RecursionError) as error:
        problem = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise UserError(f"{_name(source)} is not valid JSON ({printable(problem, limit=NAMED)}).") from error
    return value


def read_json(place: Path | Location, *, missing: str | None = None, limit: int = JSON_BYTES) -> Any:
    """:func:`parse_json` of a file. Raises :class:`UserError`; ``missing`` is the sentence if there is no such file."""
    missing = f"{place} does not exist: check the name." if missing is None else missing
    return parse_json(_bytes_of(place, missing=missing, limit=limit), source=place)


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """JSON of plain values; a number that is not finite, for which JSON has no word, is ``null``."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def validated(
    adapter: pydantic.TypeAdapter[T], tree: Any, *, source: object, known: str, names: Sequence[str] = ()
) -> T:
    """A checked value from plain ones. ``known`` says where the names of all keys stand, ``names`` are their own.

    Raises :class:`UserError` for unknown keys and wrong values, which names the first.
    """
    try:
        return adapter.validate_python(tree)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(name) for name in problem["loc"])
        if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            raise UserError(f"{_name(source)}: unknown key {quoted(key)}{meant(key, names)} {known}.") from error
        said = printable(problem["msg"], limit=NAMED)
        said = said[:1].lower() + said[1:]
        where = printable(key, limit=QUOTED) or "the top level"
        raise UserError(f"{_name(source)}: {where}: {said}, not {quoted(problem['input'])}.") from error


def quoted(value: object) -> str:
    """A value from outside as a sentence shows it: on one line, in YAML's words, and not longer than a line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a section" if value else "an empty section"
    if isinstance(value, (list, tuple)) and len(value) > 6:
        return f"a list of {len(value)}"
    try:
        shown = _REPR.repr(value)
    except Exception:  # whatever it is, it can be refused
        shown = f"a {type(value).__name__}"
    return printable(shown, limit=QUOTED)


def _bytes_of(file: Path | Traversable | Location, *, missing: str, limit: int) -> bytes:
    try:
        if isinstance(file, Location):
            return file.read_bytes(limit=limit)
        if not isinstance(file, Path):
            return file.read_bytes()  # one of this package's own
        with open_regular(file) as opened:
            data = opened.read(limit + 1)
    except FileNotFoundError as error:
        raise UserError(missing) from error
    except OSError as error:
        raise UserError(f"{_name(file)} cannot be read ({error.strerror}): check its permissions.") from error
    if len(data) > limit:
        raise UserError(f"{_name(file)} has more than {limit} bytes: that is not what is wanted here.")
    return data


def _decoded(text: str | bytes, *, source: object, limit: int | None = None) -> str:
    if limit is not None and len(text) > limit:
        raise UserError(f"{_name(source)} has more than {limit} bytes: that is not what is wanted here.")
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")  # some editors put a mark before the first character
    except UnicodeDecodeError as error:
        raise UserError(f"{_name(source)} is not UTF-8 text (byte {error.start + 1}): save it as UTF-8.") from error


def _name(source: object) -> str:
    return printable(source, limit=NAMED)


def _section(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is there twice")
    return values


def _integer(digits: str) -> int:
    # Digits first: to make a number of thousands of them takes long.
    value = int(digits) if len(digits) <= 20 else None
    if value is None or value not in INTEGERS:
        raise ValueError("a number is too large for 64 bits")
    return value


def _decimal(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _check_values(value: Any) -> None:
    """Raise ``ValueError`` for nesting, and for texts that are not proper Unicode."""
    level, depth = [value], 0
    while level:
        if depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} deep")
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                below.extend(node)
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
            elif isinstance(node, str) and not node.isascii():
                _check_text(node)
        level, depth = below, depth + 1


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("a text has half a character in it") from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = QUOTED
