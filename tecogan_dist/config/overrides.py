"""Settings on the command line, by dotted names: tyro reads and explains them, errors are one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import tyro

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.load import RENAMED, from_tree
from tecogan_dist.config.schema import Config

WIDTH = 118
WORDS = {"true": "True", "false": "False", "none": "None"}
"""As YAML writes them, and as tyro reads them."""
SHOWN = {theirs: ours for ours, theirs in WORDS.items()}


def override(config: Config, arguments: list[str]) -> Config:
    """Apply dotted command-line overrides (``["--loss.adversarial", "0.005"]``) and check the result.

    Names may be written with hyphens or underscores. Raises :class:`UserError` for unknown names, which it answers with
    the nearest one, and for values of the wrong type.
    """
    check_names(arguments)
    kinds = dict(_types(config))
    options = [(name, [_word(value, kinds[name]) for value in values]) for name, values in _split_options(arguments)]
    arguments = [word for name, values in options for word in (f"--{name}", *values)]
    try:
        changed = _parse(config, arguments, silent=True)
    except SystemExit:
        for name, values in options:
            try:
                _parse(config, [f"--{name}", *values], silent=True)
            except SystemExit:
                raise UserError(
                    f"{_option(name)} cannot be {' '.join(values)!r}: 'tecogan train --help-all' says what it takes."
                ) from None
        raise
    return from_tree(dataclasses.asdict(changed), source="the command line")


def check_names(arguments: list[str], *, others: Sequence[str] = ()) -> None:
    """Raise :class:`UserError` for an option that is not a setting; it names the nearest setting, or of ``others``."""
    names = [_option(name) for name, _ in leaves(Config())]
    for name, _ in _split_options(arguments):
        if name in RENAMED:
            raise UserError(f"{_option(name)} is called {_option(RENAMED[name])} now.")
        if _option(name) not in names:
            nearest = difflib.get_close_matches(_option(name), [*names, *others], n=1, cutoff=0.0)[0]
            raise UserError(
                f"there is no setting {_option(name)}: did you mean {nearest}? 'tecogan train --help' lists all."
            )


def short_help(config: Config) -> str:
    """All settings by group with their values in ``config``."""
    groups: dict[str, list[str]] = {}
    for name, value in leaves(config):
        group = name.rpartition(".")[0] or "the run"
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else SHOWN.get(str(value), str(value))
        groups.setdefault(group, []).append(f"{_option(name)}\u00a0{shown}".replace(" ", "\u00a0"))
    lines = ["settings, with their values now (--help-all says what each means):"]
    for group, options in groups.items():
        text = textwrap.fill("  ".join(options), WIDTH - 4, break_on_hyphens=False, break_long_words=False)
        lines += [f"  {group}", textwrap.indent(text, "    ").replace("\u00a0", " ")]
    return "\n".join(lines)


def full_help(config: Config) -> str:
    """All settings with their meaning and their values in ``config``."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        _parse(config, ["--help"], silent=False)
    return text.getvalue()


def _parse(config: Config, arguments: list[str], *, silent: bool) -> Config:
    # tyro explains an error in a box of many lines, and not all of them heed its own console_outputs.
    with contextlib.redirect_stderr(io.StringIO() if silent else sys.stderr):
        return tyro.cli(tyro.conf.FlagConversionOff[Config], default=config, args=arguments, prog="tecogan train")


def _option(name: str) -> str:
    """A setting's name as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def _split_options(arguments: list[str]) -> list[tuple[str, list[str]]]:
    """(name, values) of ``--name value ...`` and ``--name=value``."""
    options: list[tuple[str, list[str]]] = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            options.append((name.replace("-", "_"), [value] if equals else []))
        elif options:
            options[-1][1].append(argument)
        else:
            raise UserError(f"{argument!r} belongs to no setting: write --name value.")
    return options


def _word(value: str, kind: Any) -> str:
    """A value as tyro reads it: true, false and none may be written as in YAML where a setting takes them."""
    kinds = typing.get_args(kind) or (kind,)
    if (bool in kinds and value in ("true", "false")) or (types.NoneType in kinds and value == "none"):
        return WORDS[value]
    return value


def _types(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every setting below a dataclass."""
    hints = typing.get_type_hints(type(node))
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _types(value, f"{prefix}{field.name}.")
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
