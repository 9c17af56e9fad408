"""The catalogue: which published weights and scenes have a name, and where they are. ``catalogue.yaml`` is the data."""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, StrictBool, StrictInt, StrictStr
from pydantic.dataclasses import dataclass

from tecogan_dist.base.addresses import checked_url
from tecogan_dist.base.documents import parse_yaml, quoted, read_text, validated
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.spelling import meant

Kind = Literal["weights", "vgg", "lpips", "scenes"]
"""weights: an upscaler. vgg: the perceptual loss's network. lpips: LPIPS's trunk. scenes: folders of images."""
KINDS: dict[Kind, str] = {
    "weights": "weights of an upscaler",
    "vgg": "weights of VGG19",
    "lpips": "weights of LPIPS's network",
    "scenes": "test scenes",
}
FILE = "catalogue.yaml"
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_FILE = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
MOST_ENTRIES, MOST_ADDRESSES, NAME_CHARACTERS = 200, 10, 40
LARGEST = 5 * 10**9
"""Bytes of a file that the catalogue may name, and that is fetched where its size is not known."""
Sha256 = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[StrictStr, Field(max_length=200)]


@dataclass(frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid"))
class Entry:
    """What has a name."""

    kind: Kind
    about: Text
    """What it is, part of a line."""
    file: Text
    """Name of the file behind the addresses, as a browser saves it."""
    addresses: tuple[Text, ...]
    """The first that works is taken; all have the same content."""
    licence: Text
    trained_on: Text
    member: Text = ""
    """In an archive: the name of the checkpoint's files, up to their endings. Folders before it do not matter."""
    scenes: tuple[Text, ...] = ()
    """Names of the folders that an archive of scenes has to hold; empty: all that it holds."""
    blocks: Annotated[StrictInt, Field(ge=1, le=1000)] | None = None
    """Residual blocks that the weights have to have."""
    bytes: Annotated[StrictInt, Field(ge=1, le=LARGEST)] | None = None
    """Of the file; None: not known, as for the next."""
    sha256: Sha256 | None = None
    packaged: StrictBool = False
    """Whether it is a file of this package."""
    name: str = ""
    """Its key in the catalogue."""


_ADAPTER = pydantic.TypeAdapter(Entry)
_KEYS = tuple(name for name in Entry.__dataclass_fields__ if name != "name")


def parse(text: str | bytes, *, source: object) -> dict[str, Entry]:
    """The entries of a catalogue, by name. Raises :class:`UserError` for anything but a valid one."""
    tree = parse_yaml(text, source=source)
    if not isinstance(tree, dict) or not tree or len(tree) > MOST_ENTRIES:
        raise UserError(f"{source} is not a catalogue: it is a mapping of 1 to {MOST_ENTRIES} names.")
    return {name: _entry(name, value, source) for name, value in tree.items()}


def _entry(name: Any, value: Any, source: object) -> Entry:
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > NAME_CHARACTERS:
        raise UserError(f"{source}: {quoted(name)} cannot be a name: use small letters, digits and hyphens.")
    if not isinstance(value, dict) or "name" in value:
        raise UserError(f"{source}: {name} is not a mapping of {', '.join(_KEYS)}.")
    entry = validated(
        _ADAPTER, {**value, "name": name}, source=f"{source}: {name}", known=f"use {', '.join(_KEYS)}", names=_KEYS
    )
    for address in entry.addresses:
        checked_url(address)
    problem = _problem(entry)
    if problem:
        raise UserError(f"{source}: {name}: {problem}.")
    return entry


def _problem(entry: Entry) -> str | None:
    """Rules that types cannot express."""
    names = (entry.file, *filter(None, (entry.member,)), *entry.scenes)
    wrong = next((name for name in names if not _FILE.fullmatch(name)), None)
    if wrong is not None:
        return f"{quoted(wrong)} cannot be the name of a file"
    if len(entry.addresses) > MOST_ADDRESSES or len(set(entry.addresses)) < len(entry.addresses):
        return f"addresses are {MOST_ADDRESSES} different ones at most"
    if entry.packaged and (entry.addresses or entry.kind != "weights"):
        return "what is a part of this package has no addresses, and is weights"
    if entry.kind == "weights" and not entry.packaged and not entry.member:
        return "weights need a member, the name of their checkpoint in the archive"
    return None


@functools.cache
def catalogue() -> dict[str, Entry]:
    """The entries of the package's catalogue, by name, in its order."""
    return parse(_text(), source=FILE)


def _text() -> str:
    file = resources.files("tecogan_dist.published") / FILE
    return read_text(file, missing="the catalogue of published weights is missing: install tecogan_dist again.")


def names(*kinds: Kind) -> list[str]:
    """Names of the entries of these kinds, or of all, in the catalogue's order."""
    return [name for name, entry in catalogue().items() if not kinds or entry.kind in kinds]


def is_name(place: object, *kinds: Kind) -> bool:
    """Whether it is a word that the catalogue knows (of these kinds, or of any). Paths and addresses never are."""
    return isinstance(place, str) and place in names(*kinds)


def find(name: str) -> Entry:
    """The entry of a name. Raises :class:`UserError` for one that is not there."""
    entry = catalogue().get(name)
    if entry is None:
        raise UserError(
            f"there is nothing published called {quoted(name)}{meant(name, names())} 'tecogan fetch' knows "
            f"{', '.join(names())}."
        )
    return entry
