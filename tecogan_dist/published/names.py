"""What a word stands for where weights are wanted: a name of the catalogue, or a place.

A name is taken as a name wherever it stands; a file or folder here that is called so is meant by a path, ``./tecogan``.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any

from tecogan_dist.base.errors import UserError
from tecogan_dist.published.cache import Cache
from tecogan_dist.published.catalogue import KINDS, Entry, Kind, catalogue, find, is_name, names
from tecogan_dist.published.fetching import Say, obtain, say_to_stderr


def resolve(place: Any, *kinds: Kind, say: Say = say_to_stderr) -> Any:
    """``place``, or where it is on this machine if it is a name of one of these ``kinds``, fetched if need be.

    Raises :class:`UserError` for a name of another kind, and for one that cannot be had.
    """
    if not is_name(place):
        return place
    entry = find(place)
    if entry.kind not in kinds:
        wanted = " or ".join(KINDS[kind] for kind in kinds)
        raise UserError(
            f"{place} is published as {KINDS[entry.kind]}, and {wanted} are wanted here: {', '.join(names(*kinds))}, "
            f"or a path{f' (./{place})' if os.path.lexists(place) else ''}."
        )
    if os.path.lexists(place):
        say(f"{place} is taken as the name of {KINDS[entry.kind]} that are published; what is here is ./{place}")
    return str(located(entry, say=say))


def located(entry: Entry, *, say: Say = say_to_stderr) -> Path:
    """Where an entry is on this machine, fetched if need be. Raises :class:`UserError` if it cannot be had."""
    if entry.packaged:
        return packaged(entry)
    return obtain(entry, Cache.of_environment(), say=say).path


def packaged(entry: Entry) -> Path:
    """The file of the package. Raises :class:`UserError` if this installation lacks it."""
    file = package_folder() / entry.file
    if not file.is_file():
        raise UserError(f"{entry.name} ({entry.file}) is missing in this installation: install tecogan_dist again.")
    return file


def package_folder() -> Path:
    """The folder of this package, whose files are ordinary ones (it is never installed as an archive)."""
    return Path(str(resources.files("tecogan_dist.published")))


def if_cached(name: str) -> Path | None:
    """Where an entry is, if it is in the cache and whole; nothing is fetched."""
    try:
        there = Cache.of_environment().look(catalogue()[name])
    except UserError:
        return None
    return None if there is None else there.path
