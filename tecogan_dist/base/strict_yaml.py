"""YAML as a person reads it, not as YAML 1.1 does: no ``yes`` that is true, no 010 that is 8, no 1:30 that is 90.

Scalars are those of YAML 1.2's core schema without its octal and hexadecimal numbers; what looks like a number in
another way stays a text, which whoever wants a number then refuses. There are no tags, no anchors and no repeated keys.
"""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import yaml

DEPTH = 40
"""Lists and sections within each other."""
NODES = 20_000
"""Keys, values, lists and sections of a document."""
INTEGERS = range(-(2**63), 2**63)
BOOL, INT, FLOAT, NULL, TEXT = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null", "str"))
PLAIN = (
    (BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)"), "tTfF"),
    (INT, re.compile(r"[-+]?(0|[1-9][0-9]*)"), "-+0123456789"),
    (FLOAT, re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), "-+.0123456789"),
    (NULL, re.compile(r"(~|null|Null|NULL|)"), ["~", "n", "N", ""]),
)
"""Tag, form and first characters of scalars without quotes; the first that fits is taken."""


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the rules above. What breaks them is a ``yaml.MarkedYAMLError``."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}  # type: ignore[misc]  # as PyYAML has it

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _problem("anchors and aliases are not taken, write the value itself", event.start_mark)
        if getattr(event, "tag", None) not in (None, "!"):
            raise _problem("tags are not taken, write a plain value", event.start_mark)
        if self._depth >= DEPTH:
            raise _problem(f"it is nested more than {DEPTH} deep", event.start_mark)
        self._depth += 1
        self._nodes += 1
        if self._nodes > NODES:
            raise _problem(f"it has more than {NODES} keys and values", event.start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _problem(text: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=mark)


def _mapping(loader: Loader, node: Any) -> Any:
    values: dict[Any, Any] = {}
    yield values
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise _problem("a key is a list or a section", key_node.start_mark)
        key = loader.construct_object(key_node, deep=True)
        if key in values:
            raise _problem(f"the key {key_node.value[:40]!r} is there twice", key_node.start_mark)
        values[key] = loader.construct_object(value_node, deep=True)


def _sequence(loader: Loader, node: Any) -> Any:
    values: list[Any] = []
    yield values
    values.extend(loader.construct_object(item, deep=True) for item in node.value)


def _text(_loader: Loader, node: Any) -> str:
    if any("\ud800" <= character <= "\udfff" for character in node.value):
        raise _problem("a text has half a character in it", node.start_mark)
    return str(node.value)


def _integer(_loader: Loader, node: Any) -> int:
    # Digits first: to make a number of thousands of them takes long.
    value = int(node.value) if len(node.value) <= 20 else None
    if value is None or value not in INTEGERS:
        raise _problem("a number is too large for 64 bits", node.start_mark)
    return value


def _decimal(_loader: Loader, node: Any) -> float:
    value = float(node.value)
    if not math.isfinite(value):
        raise _problem("a number is too large", node.start_mark)
    return value


Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
Loader.add_constructor("tag:yaml.org,2002:seq", _sequence)
Loader.add_constructor(TEXT, _text)
Loader.add_constructor(BOOL, lambda _loader, node: node.value.lower() == "true")
Loader.add_constructor(NULL, lambda _loader, _node: None)
Loader.add_constructor(INT, _integer)
Loader.add_constructor(FLOAT, _decimal)
for _tag, _form, _first in PLAIN:
    Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_form.pattern})$"), list(_first))


class Dumper(yaml.SafeDumper):
    """Writes what :class:`Loader` and readers of YAML 1.1 read as it was: texts get quotes where either needs them."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


Dumper.add_implicit_resolver(FLOAT, re.compile(rf"^(?:{PLAIN[2][1].pattern})$"), list(PLAIN[2][2]))
