"""What all commands' options have in common: two examples first, either spelling, and errors of one sentence."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from tecogan_dist.base.errors import UserError


class CommandParser(argparse.ArgumentParser):
    """The options of ``tecogan <name>``. ``examples`` are complete command lines, shown before all else in the help."""

    def __init__(self, name: str, *, description: str, examples: Sequence[str], **settings: Any) -> None:
        super().__init__(
            prog=f"tecogan {name}", description=" ".join(description.split()), allow_abbrev=False, **settings
        )
        self._examples = examples

    def format_help(self) -> str:
        shown = "".join(f"  {example}\n" for example in self._examples)
        return f"examples:\n{shown}\n{super().format_help()}"

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """With options of either spelling; :meth:`parse_args` calls it too."""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([hyphenated(word) for word in words], namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Raises :class:`UserError` for what is not understood; a misspelled option is answered with the nearest."""
        # First of all: argparse would rather say that the option which was meant is missing.
        names = [option for action in self._actions for option in action.option_strings]
        words = list(sys.argv[1:] if args is None else args)
        for word in words[: words.index("--")] if "--" in words else words:
            name = hyphenated(word).partition("=")[0]
            if word.startswith("--") and name not in names:
                raise UserError(
                    f"there is no option {name}: did you mean {nearest(name, names)}? '{self.prog} --help' lists all."
                )
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: '{self.prog} --help' says what it takes.")


def hyphenated(word: str) -> str:
    """``--initial_weights`` as ``--initial-weights``: both spellings are accepted. Values stay as they are."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def nearest(word: str, names: Sequence[str]) -> str:
    """The name that is spelled most like a word."""
    return difflib.get_close_matches(word, names, n=1, cutoff=0.0)[0]


def whole_number(minimum: int) -> Any:
    """An option's type: whole numbers from ``minimum`` on."""

    def number(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, not {value}")
        return value

    number.__name__ = "whole number"  # argparse says "invalid whole number value"
    return number
