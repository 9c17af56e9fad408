"""What all commands' options have in common: two examples first, either spelling, and errors of one sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.spelling import meant
from tecogan_dist.commands.values import (
    input_path,
    input_place,
    judged_elsewhere,
    number,
    output_path,
    output_place,
    whole_number,
)

__all__ = [
    "CommandParser",
    "hyphenated",
    "input_path",
    "input_place",
    "judged_elsewhere",
    "number",
    "output_path",
    "output_place",
    "whole_number",
]


class CommandParser(argparse.ArgumentParser):
    """The options of ``tecogan <name>``. ``examples`` are complete command lines, shown before all else in the help."""

    def __init__(self, name: str, *, description: str, examples: Sequence[str], **settings: Any) -> None:
        super().__init__(
            prog=f"tecogan {name}", description=" ".join(description.split()), allow_abbrev=False, **settings
        )
        self._examples = examples
        self.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version")

    def format_help(self) -> str:
        shown = "".join(f"  {example}\n" for example in self._examples)
        return f"examples:\n{shown}\n{super().format_help()}"

    def print_help(self, file: Any = None) -> None:
        """Raises ``OSError`` if it cannot be written, unlike argparse's own."""
        print(self.format_help(), end="", file=file)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """With options of either spelling; :meth:`parse_args` calls it too. Raises :class:`UserError` for mistakes."""
        words = [hyphenated(word) for word in (sys.argv[1:] if args is None else args)]
        options, others = super().parse_known_args(words, namespace)
        _refuse_empty(others)
        return options, others

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Raises :class:`UserError` for what is not understood; a misspelled option is answered with the nearest."""
        # First of all: argparse would rather say that the option which was meant is missing.
        names = [option for action in self._actions for option in action.option_strings]
        words = list(sys.argv[1:] if args is None else args)
        for word in words[: words.index("--")] if "--" in words else words:
            name = hyphenated(word).partition("=")[0]
            if word.startswith("--") and name not in names:
                raise UserError(
                    f"there is no option {printable(name)}{meant(name, names)} '{self.prog} --help' lists all."
                )
        return super().parse_args(args, namespace)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """As everybody's; a value of nothing, as an unset variable of a shell leaves it, is refused by its name."""
        return _filled(super().add_argument(*names, **settings))

    def group(self, title: str) -> Callable[..., argparse.Action]:
        """:meth:`add_argument` for options that the help shows under this title."""
        group = self.add_argument_group(title)
        return lambda *names, **settings: _filled(group.add_argument(*names, **settings))

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}: '{self.prog} --help' says what it takes.")


class _Version(argparse.Action):
    """Show the version and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_rest: Any) -> NoReturn:
        from importlib import metadata

        try:
            version = metadata.version("tecogan_dist")
        except metadata.PackageNotFoundError as error:
            raise UserError(
                "the version is not known, because tecogan_dist is not installed here: install it with pip."
            ) from error
        print(f"tecogan {version}")
        parser.exit()


def hyphenated(word: str) -> str:
    """``--initial_weights`` as ``--initial-weights``: both spellings are accepted. Values stay as they are."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def _filled(action: argparse.Action) -> argparse.Action:
    if action.nargs != 0:
        action.type = _given(action.type)
    return action


def _given(kind: Any) -> Any:
    """``kind``, the type of an option, for all but values of nothing."""

    def of(text: str) -> Any:
        if not text.strip():
            raise argparse.ArgumentTypeError("is empty, give a value")
        return kind(text) if kind else text

    of.__name__ = getattr(kind, "__name__", "text")
    return of


def _refuse_empty(words: Sequence[str]) -> None:
    """:func:`_given` for settings, which are not the parser's own. Raises :class:`UserError`."""
    name = ""
    for word in words:
        option, equals, value = word.partition("=")
        name = option if word.startswith("--") else name
        if not word.strip() or (word.startswith("--") and equals and not value.strip()):
            raise UserError(f"{printable(name) or 'one of the arguments'} is empty: give a value, or leave it out.")
