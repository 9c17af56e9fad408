"""Trees of JSON and YAML with something hostile in them, and their text: what no writer of either would write."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any


class Raw(str):
    """Text that is written as it is."""


class Pairs(list[tuple[Any, Any]]):
    """A mapping whose keys may repeat, and need not be words."""


DEEP = 20_000
"""Levels of the deepest nesting."""
NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 3, 255, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30),
    *(Raw("1" * 5000), Raw("1e999"), Raw("-1e999"), Raw("NaN"), Raw("Infinity"), 0.5, 1e308, 1e-320, -0.0),
    *(Raw("010"), Raw("0x10"), Raw("1:30"), Raw("1_000"), Raw(".nan"), Raw(".inf"), Raw("1."), Raw("+1"), Raw("-")),
)
WORDS: tuple[Any, ...] = (
    *(
        "",
        " ",
        "x",
        "yes",
        "none",
        "null",
        "1",
        "nan",
        "-5",
        "a,b",
        "\0",
        "\x1b[31mred\x07",
        "a\nb",
        "\u202eabc",
        "\ufeff",
    ),
    *(Raw(r'"\ud800"'), "\U0001f600" * 10, "x" * 5000, "%s{0}%n", "../../outside", "/etc/passwd", "/dev/zero", "/"),
    *("s3://", "s3://bucket/name?x=1", "gs://b@d/x", "http://[::1", "file:///etc/passwd", "concat:a|b", "~root", "."),
)
OTHERS: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], [None], {"": None}, {"a": {"b": [1, 2, {"c": None}]}}, [1] * 50),
    *(Raw("[" * DEEP + "]" * DEEP), Raw('{"a":' * DEEP + "1" + "}" * DEEP), Raw("[" * DEEP), Raw("{"), Raw("]")),
)
SNIPPETS = (
    *("!!python/object/apply:os.system ['touch outside']", "!!python/name:os.system", "!!binary //8=", "!!set {a, b}"),
    *("!!timestamp 2020-01-01", "2020-01-01", "!!float x", "!!int ''", "!!omap [a: 1]", "!unknown 1", "!<tag:x> 1"),
    *("*unknown", "&a [*a]", "&a {b: *a}", "{<<: {a: 1}}", "{<<: 1}", "? [a, b]\n: c", "{? {a: 1} : 2}", "{null: 1}"),
    *("{1: 2, 1: 3}", "{.nan: 1}", "yes", "off", "~", "1:30", "010", "0o10", "0b1", "1_0", ".inf", "-.inf", "1e3"),
    *("|\n  text", ">-\n  text", '"\\x00"', '"\\uD800"', "'", "[", "}", "@a", "`a`", "%YAML 9.9", "--- a\n--- b", "\t"),
)
"""What YAML reads otherwise than it looks, refuses, or must never do."""


def bomb(levels: int = 9) -> str:
    """YAML of a few hundred bytes that stands for 9 ** ``levels`` values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def hostile(random: Random) -> Any:
    """A value that is seldom expected."""
    return random.choice(random.choice((NUMBERS, WORDS, OTHERS)))


def changed(tree: Any, random: Random) -> Any:
    """A copy of a tree of dictionaries, lists and scalars with one to three changes."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        tree = _changed_once(tree, random)
    return tree


def _changed_once(tree: Any, random: Random) -> Any:
    places = list(_places(tree))
    path = random.choice(places)
    return _at(tree, path, lambda node: _otherwise(node, random))


def _places(tree: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Every node, by the positions of the children that lead to it."""
    found = [path]
    for position, child in enumerate(_children(tree)):
        if len(path) < 12 and position < 200:
            found += _places(child, (*path, position))
    return found


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    if isinstance(node, Pairs):
        return [value for _, value in node]
    return list(node) if isinstance(node, list) else []


def _at(node: Any, path: tuple[int, ...], change: Any) -> Any:
    if not path:
        return change(node)
    if isinstance(node, list) and not isinstance(node, Pairs):
        return [_at(child, path[1:], change) if i == path[0] else child for i, child in enumerate(node)]
    pairs = list(node.items()) if isinstance(node, dict) else list(node)
    return Pairs((key, _at(child, path[1:], change) if i == path[0] else child) for i, (key, child) in enumerate(pairs))


def _otherwise(node: Any, random: Random) -> Any:
    if isinstance(node, str) and node[:1] in "{[" and random.random() < 0.7:
        try:  # JSON within JSON, as in the metadata of weights
            return text_of(changed(json.loads(node), random))
        except (ValueError, RecursionError):
            pass
    if isinstance(node, dict | Pairs) and len(node) and random.random() < 0.8:
        pairs = Pairs(node.items() if isinstance(node, dict) else node)
        position = random.randrange(len(pairs))
        key, value = pairs[position]
        match random.randrange(5):
            case 0:
                del pairs[position]
            case 1:
                pairs.append((key, hostile(random)))  # the same key twice
            case 2:
                pairs.append((hostile(random), value))
            case 3:
                pairs[position] = (hostile(random), value)
            case 4:
                pairs[position] = (key, hostile(random))
        return pairs
    if isinstance(node, list) and node and random.random() < 0.8:
        match random.randrange(4):
            case 0:
                return node[:-1]
            case 1:
                return node * random.choice((2, 100))
            case 2:
                return [*node, hostile(random)]
            case 3:
                return list(reversed(node))
    if isinstance(node, int | float) and not isinstance(node, bool) and random.random() < 0.5:
        return random.choice((node + 1, -node, str(node), float(node), [node], node * 10**9))
    return hostile(random)


def text_of(node: Any) -> str:
    """JSON, or what looks like it. YAML reads it too."""
    if isinstance(node, Raw):
        return str(node)
    if isinstance(node, dict):
        node = Pairs(node.items())
    if isinstance(node, Pairs):
        return "{" + ", ".join(f"{_key(key)}: {text_of(value)}" for key, value in node) + "}"
    if isinstance(node, list | tuple):
        return "[" + ", ".join(map(text_of, node)) + "]"
    if isinstance(node, float) and not math.isfinite(node):
        return "NaN"
    return json.dumps(node)


def _key(key: Any) -> str:
    return text_of(key) if isinstance(key, str) else json.dumps(text_of(key))
