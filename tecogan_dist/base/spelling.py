"""What a misspelled word was meant to be, said only if one is near."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

NEAR = 0.6
"""Share of letters that two words must have in common, in order: difflib's own ratio."""
LONGEST = 100
"""Letters of a word that are compared: comparing takes the square of that."""


def nearest(word: str, names: Sequence[str]) -> str | None:
    """The name that is spelled most like ``word``; None if none is near. Hyphens, underscores and case do not count."""
    plain = {_plain(name): name for name in reversed(names)}
    found = difflib.get_close_matches(_plain(word[:LONGEST]), list(plain), n=1, cutoff=NEAR)
    return plain[found[0]] if found else None


def meant(word: str, names: Sequence[str]) -> str:
    """``: did you mean NAME?``, or only the colon: for a sentence that goes on with where all names are listed."""
    name = nearest(word, names)
    return ":" if name is None else f": did you mean {name}?"


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
