"""Settings on the command line, by dotted names: tyro reads and explains them, errors are one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
import textwrap
import typing
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Any

import tyro

from tecogan_dist.base.console import printable
from tecogan_dist.base.documents import parse_yaml, quoted
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.spelling import meant
from tecogan_dist.config.leaves import leaves, types
from tecogan_dist.config.load import RENAMED, from_tree
from tecogan_dist.config.schema import Config

WIDTH = 118
WORDS = {"true": "True", "false": "False", "none": "None"}
"""As YAML writes them, and as tyro reads them."""
BOOLEANS = ("true", "false", "True", "False")
"""As YAML writes them, and as Python does."""
SHOWN = {theirs: ours for ours, theirs in WORDS.items()}


def override(config: Config, arguments: list[str]) -> Config:
    """Apply dotted command-line overrides (``["--loss.adversarial", "0.005"]``) and check the result.

    Names may be written with hyphens or underscores. Raises :class:`UserError` for unknown names, which it answers with
    the nearest one, and for values of the wrong type.
    """
    check_names(arguments)
    kinds = dict(types(config))
    given = _split_options(arguments)
    for name, values in given:
        if sum(name == other for other, _ in given) > 1:
            raise UserError(f"{_option(name)} is given twice: leave one of them out.")
        _check_values(values, kinds[name], option=_option(name))
    options = [(name, [_word(value, kinds[name]) for value in values]) for name, values in given]
    arguments = [word for name, values in options for word in (f"--{name}", *values)]
    try:
        changed = _parse(config, arguments, silent=True)
    except SystemExit:
        for name, values in options:
            try:
                _parse(config, [f"--{name}", *values], silent=True)
            except SystemExit:
                shown = quoted(" ".join(SHOWN.get(value, value) for value in values))
                raise UserError(
                    f"{_option(name)} cannot be {shown}: 'tecogan train --help-all' says what it takes."
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
            near = meant(_option(name), [*names, *others])
            raise UserError(f"there is no setting {printable(_option(name))}{near} 'tecogan train --help' lists all.")


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
            raise UserError(f"{quoted(argument)} belongs to no setting: write --name value.")
    return options


def _check_values(values: list[str], kind: Any, *, option: str) -> None:
    """Raise :class:`UserError` for what tyro would take though YAML does not, or refuse without a reason."""
    is_section = typing.get_origin(kind) is dict
    if not values and not is_section:
        raise UserError(f"{option} has no value: write one after it.")
    names = values[::2] if is_section else []
    if len(set(names)) < len(names):
        raise UserError(f"{option} has the same name twice: leave one of them out.")
    for value in values:
        _check_value(value, kind, option=option)


def _check_value(value: str, kind: Any, *, option: str) -> None:
    kinds = set(_parts(kind))
    problem = "" if value else "an empty value is not one"
    choices = [str(choice) for choice in typing.get_args(kind)] if typing.get_origin(kind) is typing.Literal else []
    if choices and value not in choices:
        problem = f"write {', '.join(choices[:-1])} or {choices[-1]}"
    if kind is bool and value not in BOOLEANS:
        problem = "write true or false"
    if kinds & {int, float} and str not in kinds and not (value.isascii() and value == value.strip()):
        problem = "write the number in plain digits"
    if kinds & {int, float} and str not in kinds and (not value.isascii() or value != value.strip()):
        problem = "write the number in plain digits"  # Python takes blanks around it and digits of any script
    if kinds & {int, float} and str not in kinds and re.fullmatch(r"[-+]?[0-9._eE+-]+", value):
        try:
            found = parse_yaml(value, source=option)
        except UserError as error:
            raise UserError(f"{option} cannot be {quoted(value)}: a number is too large.") from error
        if isinstance(found, str):
            problem = "write the number in plain digits"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        problem = "it is not proper text"
    if problem:
        raise UserError(f"{option} cannot be {quoted(value)}: {problem}.")


def _parts(kind: Any) -> Iterator[Any]:
    """The types that one is made of: those of a union, of a tuple's elements, of a dictionary's keys and values."""
    inner = typing.get_args(kind)
    if not inner or typing.get_origin(kind) is typing.Literal:
        yield kind
    for part in inner if typing.get_origin(kind) is not typing.Literal else ():
        yield from _parts(part)


def _word(value: str, kind: Any) -> str:
    """A value as tyro reads it: true, false and none may be written as in YAML where a setting takes them."""
    kinds = typing.get_args(kind) or (kind,)
    if (bool in kinds and value in ("true", "false")) or (NoneType in kinds and value == "none"):
        return WORDS[value]
    return value
