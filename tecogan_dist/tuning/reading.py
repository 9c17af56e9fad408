"""A space from its YAML file, read strictly: every mistake is one sentence that names the file and the key."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pydantic

from tecogan_dist.base.console import printable
from tecogan_dist.base.documents import parse_yaml, quoted, read_text, validated
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.spelling import nearest
from tecogan_dist.tuning.space import Distribution, Kind, Scheduler, Score, Searcher, Space

SHIPPED = Path(__file__).parents[2] / "tune_spaces"
RANGES: dict[str, tuple[str, ...]] = {
    "uniform": ("low", "high"),
    "loguniform": ("low", "high"),
    "quniform": ("low", "high", "step"),
    "randint": ("low", "high"),
}
"""The numbers of each range, as they are written."""
KINDS = get_args(Kind)
MOST_VALUES = 1000
"""Of all choices and grids together: they are kept with the sweep."""
MOST_STEPS = 1e9
"""Of a quniform, so that they can be counted exactly."""

_SPACE = pydantic.TypeAdapter(Space)
_NAMES = tuple(field.name for field in dataclasses.fields(Space))
_README = "tune_spaces/README.md lists all"


def read_space(file: str | Path) -> Space:
    """The space in a YAML file. Raises :class:`UserError` for anything but a well-formed one.

    Whether its settings exist and go together is for :func:`tecogan_dist.tuning.checks.check_space`.
    """
    return space_from_yaml(read_text(Path(file), missing=_missing(Path(file))), source=str(file))


def space_from_yaml(text: str, *, source: str) -> Space:
    """A space from YAML text; ``source`` names it in error messages. Raises :class:`UserError`."""
    tree = parse_yaml(text, source=source)
    if tree is not None and not isinstance(tree, dict):
        raise UserError(f"{source}: the top level must be keys with values, such as 'steps: 4000'; {_README}.")
    tree = dict(tree or {})
    _check_keys(tree, Space, source=source)
    settings = tree["settings"]
    if not isinstance(settings, dict):
        raise UserError(f"{source}: settings must be names with distributions, not {quoted(settings)}.")
    _refuse_booleans({key: value for key, value in tree.items() if key not in ("settings", "fixed")}, source=source)
    if isinstance(tree["score"], dict):
        _check_keys(tree["score"], Score, source=f"{source}: score")
    for key, union in (("scheduler", Scheduler), ("searcher", Searcher)):
        if key in tree:
            tree[key] = _of_kind(tree[key], union, source=f"{source}: {key}")
    tree["settings"] = {
        name: _distribution(value, where=f"{source}: settings: {name}") for name, value in settings.items()
    }
    number = sum(len(distribution.values) for distribution in tree["settings"].values())
    if number > MOST_VALUES:
        raise UserError(f"{source}: settings have {number} values, more than {MOST_VALUES}: list fewer.")
    return validated(_SPACE, tree, source=source, known=_README, names=_NAMES)


def shipped_spaces() -> list[Path]:
    """The files in ``tune_spaces/`` beside the package, sorted; none where only the package is installed."""
    return sorted(SHIPPED.glob("*.yaml"))


def _missing(file: Path) -> str:
    shipped = {path.stem: path for path in shipped_spaces()}
    near = nearest(file.stem, list(shipped))
    if near:
        path = shipped[near]
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return f"no space is at {file}: did you mean {shown}?"
    names = f", such as {', '.join(sorted(shipped))} of {SHIPPED}" if shipped else ""
    return f"no space is at {file}: give the path of a YAML file{names}."


def _check_keys(tree: dict[Any, Any], kind: type, *, source: str) -> None:
    """Raise :class:`UserError` for a key that ``kind``, a dataclass, does not have, or for one that it needs."""
    fields = dataclasses.fields(kind)
    names = [field.name for field in fields]
    for key in tree:
        if key not in names:
            near = nearest(str(key), names)
            suggestion = f"did you mean {near!r}? " if near else ""
            raise UserError(f"{source}: unknown key {quoted(key)}: {suggestion}{_README}.")
    if "settings" in names and not tree.get("settings"):
        raise UserError(
            f"{source} is an empty space: name what is searched under 'settings', such as "
            "'loss.pingpong: {loguniform: [0.05, 5.0]}'."
        )
    for field in fields:
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and field.name not in tree:
            raise UserError(f"{source}: {field.name} is missing: tune_spaces/README.md says what it is.")


def _refuse_booleans(node: Any, *, source: str, key: str = "") -> None:
    """No key here takes one, and to Python ``true`` is the number 1."""
    if isinstance(node, bool):
        raise UserError(f"{source}: {key} takes a number or a word, not {str(node).lower()}.")
    if isinstance(node, dict):
        for name, value in node.items():
            _refuse_booleans(value, source=source, key=f"{key}.{name}" if key else str(name))


def _of_kind(tree: Any, union: Any, *, source: str) -> Any:
    """The member of a union of dataclasses that ``tree["kind"]`` names, with messages about its own keys."""
    members = {get_args(get_type_hints(member)["kind"])[0]: member for member in get_args(get_args(union)[0])}
    known = f"kinds are {', '.join(members)}"
    if not isinstance(tree, dict) or "kind" not in tree:
        raise UserError(f"{source}: write its kind, such as {{kind: {list(members)[1]}}}: {known}.")
    kind = tree["kind"]
    if not isinstance(kind, str) or kind not in members:
        raise UserError(f"{source}: there is no kind {quoted(kind)}: {known}.")
    options = [field.name for field in dataclasses.fields(members[kind]) if field.name != "kind"]
    return validated(
        pydantic.TypeAdapter(members[kind]),
        tree,
        source=source,
        known=f"{kind} takes {', '.join(options) or 'no options'}",
    )


def _distribution(tree: Any, *, where: str) -> Distribution:
    """``{loguniform: [0.02, 2.0]}`` as a distribution. ``where`` begins the sentence of the :class:`UserError`."""
    known = f"kinds are {', '.join(KINDS)}"
    if not isinstance(tree, dict) or not tree:
        raise UserError(f"{where}: write a distribution, such as {{uniform: [0.0, 1.0]}}: {known}.")
    if len(tree) > 1:
        keys = printable(", ".join(map(str, tree)), limit=100)
        raise UserError(f"{where}: has several keys ({keys}): write one distribution; {known}.")
    [(kind, values)] = tree.items()
    if kind not in KINDS:
        raise UserError(f"{where}: {quoted(kind)} is not a distribution: {known}.")
    form = f"[{', '.join(RANGES.get(kind, ('a', 'b', '...')))}]"
    if not isinstance(values, list):
        raise UserError(f"{where}: {kind} takes {form}, not {quoted(values)}.")
    for value in values:
        if isinstance(value, str) and _holds_number(value):
            raise UserError(f"{where}: {quoted(value)} is text to YAML: write plain digits, without quotes.")
        if isinstance(value, str) and re.fullmatch(r"[-+]?\.?(inf|infinity|nan)", value.lower()):
            raise UserError(f"{where}: {value.lstrip('.')} is not a finite number: take it out.")
    problem = _range_problem(kind, values) if kind in RANGES else _list_problem(values)
    if problem:
        raise UserError(f"{where}: {kind} {problem}.")
    if kind in ("uniform", "loguniform", "quniform"):
        values = [float(value) for value in values]
    return Distribution(kind, tuple(values))


def _range_problem(kind: str, values: list[Any]) -> str | None:
    names = RANGES[kind]
    if len(values) != len(names):
        return f"takes {len(names)} numbers, [{', '.join(names)}], not {len(values)}"
    whole = kind == "randint"
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            return f"takes {'whole ' if whole else ''}numbers, not {quoted(value)}"
    low, high = values[:2]
    if low >= high:
        return f"takes a low end below the high one, not {low} and {high}"
    if kind == "loguniform" and low <= 0:
        return f"takes numbers above 0, whose logarithms there are, not {low}"
    if kind == "quniform":
        step = values[2]
        if step <= 0:
            return f"takes a step above 0, not {step}"
        if max(abs(low), abs(high)) > MOST_STEPS * step:
            return f"takes ends that are at most {MOST_STEPS:.0e} steps from 0, not so small a step as {step}"
        for end in (low, high):
            if not math.isclose(end / step, round(end / step)):  # Ray's own condition
                return f"takes ends that are multiples of the step {step}, not {end}"
    return None


def _list_problem(values: list[Any]) -> str | None:
    if not values:
        return "has no values: list at least one"
    seen: set[tuple[bool, Any]] = set()
    for value in values:
        if not isinstance(value, (bool, int, float, str)):
            return f"takes numbers, true, false and words, not {quoted(value)}"
        key = (isinstance(value, bool), value)
        if key in seen:
            return f"has {quoted(value)} twice: keep one"
        seen.add(key)
    return None


def _holds_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
