"""Changes to a config on the command line, by dotted names: tyro draws the options, errors are one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import sys
from collections.abc import Iterator
from typing import Any

import tyro

from tecogan_dist.config import Config, from_tree
from tecogan_dist.errors import UserError


def override(config: Config, arguments: list[str], *, program: str = "train") -> Config:
    """Apply dotted command-line overrides (``["--loss.adversarial", "0.005"]``) and check the result.

    Raises :class:`UserError` for unknown names and for values of the wrong type. ``--help`` shows all settings with
    their values in ``config`` and ends the process.
    """
    wants_help = bool({"-h", "--help"} & set(arguments))
    names = list(_leaf_names(config))
    options = [] if wants_help else _split_options(arguments)
    for name, _ in options:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise UserError(f"there is no setting --{name}: did you mean --{nearest}? --help lists all.")
    try:
        changed = _parse(config, arguments, program, silent=not wants_help)
    except SystemExit:
        for name, values in options:
            try:
                _parse(config, [f"--{name}", *values], program, silent=True)
            except SystemExit:
                raise UserError(f"--{name} cannot be {' '.join(values)!r}: --help says what it takes.") from None
        raise
    return from_tree(dataclasses.asdict(changed), source="the command line")


def _parse(config: Config, arguments: list[str], program: str, *, silent: bool) -> Config:
    # tyro explains an error in a box of many lines, and not all of them heed its own console_outputs.
    with contextlib.redirect_stderr(io.StringIO() if silent else sys.stderr):
        return tyro.cli(
            tyro.conf.FlagConversionOff[Config], default=config, args=arguments, prog=program, use_underscores=True
        )


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


def _leaf_names(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings below a dataclass."""
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaf_names(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name
