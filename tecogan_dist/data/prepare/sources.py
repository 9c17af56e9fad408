"""What clips are made of: the sources of a YAML file, strict about every key, and how each is cut into scenes.

.. code-block:: yaml

    sources:
      - source: https://vimeo.com/121649159       # a page or file that yt-dlp takes, s3:// or gs://
        starts: [0, 310, 460]                     # the scenes' first frames
      - source: films/*.mkv                       # relative to the YAML file; ** for all folders below
        minimum_length: 48                        # no starts: cut where a cut is detected
      - source: vid4_HR.zip                       # folders of frames, videos, or both
      - {hr: sharp/*, lr: bicubic_X4/*}           # pairs of your own: folders of frames or videos of the same names
"""

from __future__ import annotations

import dataclasses
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import StrictInt, StrictStr

from tecogan_dist.base import console
from tecogan_dist.base.addresses import WEB_SCHEMES, checked_url, is_url, shown_url, without_secrets
from tecogan_dist.base.documents import parse_yaml, read_text, validated
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.invariants import present
from tecogan_dist.base.storage import Location
from tecogan_dist.data.index import MOST_FRAMES

STORAGE_SCHEMES = ("s3", "gs")
LIST_SUFFIXES = (".yaml", ".yml")
ORIGINAL_MINIMUM_SIZE = 400
"""Videos that are smaller in width or height are left out (dataPrepare.py of thunil/TecoGAN)."""
MOST_SOURCES, MOST_STARTS = 100_000, 100_000
"""Of a list, and of one of its entries."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """An entry of a list: where its videos are, or those of a pair, and how they are cut."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")

    source: StrictStr | None = None
    """A path, a pattern of paths, or a URL (http, https, s3, gs)."""
    hr: StrictStr | None = None
    lr: StrictStr | None = None
    """High- and low-resolution frames of your own: local paths or patterns."""
    starts: tuple[StrictInt, ...] | None = None
    """First frame of each scene. They may overlap, and keep their numbers whatever becomes of the others."""
    cut: Literal["fixed", "detected", "whole"] | None = None
    """fixed: every ``scene_length`` frames and nowhere else. detected: where the picture changes; longer shots also
    every ``scene_length`` frames. whole: one scene. None: whole for a folder of frames, detected for a video."""
    scene_length: StrictInt = 120
    """Frames of a scene, at most; of a listed one exactly."""
    minimum_length: StrictInt | None = None
    """Fewest frames of a detected scene, or of a video that is shorter than a scene. None: 10 and 2."""
    minimum_size: StrictInt = ORIGINAL_MINIMUM_SIZE
    """Fewest pixels of height and width, before the downscale."""
    maximum_scenes: StrictInt | None = None
    """Most scenes of a source, spread evenly over it. None: 100 where their number is not known beforehand."""
    downscale: StrictInt = 1
    """Average this many by this many pixels; 2 hides the softness of compressed video."""
    encoding: Literal["lossy", "lossless", "original"] = "lossy"
    """original: a video file that is one scene as it is keeps its bytes; whatever has to be cut is lossy."""
    start_frame: StrictInt = 0
    end_frame: StrictInt | None = None
    """Frames of the video to use if no starts are given; the end is exclusive."""

    @property
    def address(self) -> str:
        """The path, pattern or URL; of a pair, that of the high-resolution frames."""
        return present(self.hr if self.source is None else self.source, "a source has a path or pattern")

    @property
    def is_remote(self) -> bool:
        return is_remote(self.address)


SETTINGS = tuple(field.name for field in dataclasses.fields(Source) if field.name not in ("source", "hr", "lr"))
_ADAPTER = pydantic.TypeAdapter(Source)


def is_remote(address: str) -> bool:
    """Whether this is a URL. A scheme needs ``://``: a file may be named ``a:b.mp4``."""
    return is_url(address)


def list_names() -> list[str]:
    """Names of the shipped lists, sorted."""
    folder = resources.files("tecogan_dist.data.prepare") / "lists"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def is_list(argument: str) -> bool:
    """Whether an argument names a list: a shipped one, or a YAML file."""
    return not is_remote(argument) and (argument in list_names() or Path(argument).suffix.lower() in LIST_SUFFIXES)


def load(name_or_file: str, **settings: Any) -> list[Source]:
    """The sources of a shipped list or a YAML file; ``settings`` are for entries that do not have their own.

    Raises :class:`UserError` for anything but a valid list.
    """
    path, names = Path(name_or_file), list_names()
    file: Path | Traversable = path
    if name_or_file in names:
        file = resources.files("tecogan_dist.data.prepare") / "lists" / f"{name_or_file}.yaml"
    text = read_text(file, missing=f"{path} does not exist: give a YAML file or one of {', '.join(names)}.")
    return parse(text, name=name_or_file, folder=path.parent, **settings)


def parse(text: str, *, name: str, folder: Path, **settings: Any) -> list[Source]:
    """:func:`load` from text; ``name`` is for messages, relative paths are below ``folder``."""
    tree = parse_yaml(text, source=name)
    entries = tree.get("sources") if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or set(tree) != {"sources"} or not isinstance(entries, list) or not entries:
        raise UserError(
            f"{name} is not a list of sources: its only key is 'sources', with a list of at least one entry."
        )
    if len(entries) > MOST_SOURCES:
        raise UserError(f"{name} has {len(entries)} entries, and a list may have {MOST_SOURCES}: split it.")
    return [
        _local_to(folder, make(entry, name=f"{name}: entry {number}", **settings))
        for number, entry in enumerate(entries, 1)
    ]


def make(entry: Any, *, name: str, **settings: Any) -> Source:
    """A checked source from a mapping of its keys. ``name`` begins the sentence of the :class:`UserError`."""
    if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
        shown = shown_url(entry) if isinstance(entry, str) else f"a {type(entry).__name__}"
        raise UserError(f"{name}: a source is a mapping such as 'source: films/*.mp4', not {shown}.")
    known = f"use {', '.join(('source', 'hr', 'lr', *SETTINGS))}"
    try:
        source = validated(_ADAPTER, {**settings, **entry}, source=name, known=known)
    except UserError as error:  # what is quoted may be a URL
        raise UserError(without_secrets(str(error))) from error
    problem = _problem(source)
    if problem:
        raise UserError(f"{problem}." if problem.startswith(name) else f"{name}: {problem}.")
    return source


def _problem(source: Source) -> str | None:
    """Rules that types cannot express."""
    addresses = {"source": source.source, "hr": source.hr, "lr": source.lr}
    if {key for key, address in addresses.items() if address is not None} not in ({"source"}, {"hr", "lr"}):
        return "give either 'source', or 'hr' and 'lr'"
    for key, address in addresses.items():
        if address is None:
            continue
        if not address or "\0" in address:
            return f"{key} must be a path or a URL, not {address!r}"
        problem = _problem_of_address(address, is_pair=source.hr is not None)
        if problem:
            return problem
    for key in ("scene_length", "minimum_length", "minimum_size", "maximum_scenes", "downscale"):
        value = getattr(source, key)
        if value is not None and value < 1:
            return f"{key} must be at least 1, not {_number(value)}"
    for key in ("scene_length", "minimum_length", "minimum_size", "maximum_scenes", "downscale", "end_frame"):
        if (getattr(source, key) or 0) > MOST_FRAMES:
            return f"{key} must be at most {MOST_FRAMES}, not {_number(getattr(source, key))}"
    if source.starts is not None:
        if source.cut is not None or source.start_frame or source.end_frame is not None:
            return "with 'starts' there is nothing to cut otherwise: leave out cut, start_frame and end_frame"
        if not source.starts or min(source.starts) < 0 or len(set(source.starts)) < len(source.starts):
            return "starts must be different positions from 0 on"
        if max(source.starts) > MOST_FRAMES or len(source.starts) > MOST_STARTS:
            return f"starts must be {MOST_STARTS} positions at most, none above {MOST_FRAMES}"
    if source.start_frame < 0:
        return f"start_frame must be at least 0, not {_number(source.start_frame)}"
    if source.start_frame > MOST_FRAMES:
        return f"start_frame must be at most {MOST_FRAMES}, not {_number(source.start_frame)}"
    if source.end_frame is not None and source.end_frame <= source.start_frame:
        return f"end_frame must be above start_frame, not {_number(source.end_frame)}"
    if source.hr is not None and (source.downscale > 1 or source.encoding == "original"):
        return "pairs are kept as they are: leave out downscale, and use lossy or lossless encoding"
    return None


def _problem_of_address(address: str, *, is_pair: bool) -> str | None:
    if not is_remote(address):
        if Path(address).suffix.lower() in LIST_SUFFIXES:
            return (
                f"{console.printable(address)} is a list, and lists do not name others: give it to the command itself"
            )
        return None
    if is_pair:
        return f"{shown_url(address)} cannot be used: the sides of a pair must be local paths"
    scheme = address.partition("://")[0]
    if scheme.lower() not in (*WEB_SCHEMES, *STORAGE_SCHEMES):
        return f"{shown_url(address)} cannot be used: give a path or a URL of http, https, s3 or gs"
    try:
        if scheme in STORAGE_SCHEMES:
            Location.of(address)
        else:
            checked_url(address)
    except UserError as error:
        return without_secrets(str(error)).rstrip(".")
    return None


def _number(value: int) -> str:
    return str(value) if abs(value) < 10**30 else "a number of more than 30 digits"


def _local_to(folder: Path, source: Source) -> Source:
    """A source whose local paths are relative to a folder, with paths from here."""

    def local(address: str | None) -> str | None:
        return address if address is None or is_remote(address) else str(folder / address)

    return dataclasses.replace(source, source=local(source.source), hr=local(source.hr), lr=local(source.lr))


def name_of(url: str) -> str:
    """A URL as the index records it: without what is secret in it, so that a link that is signed anew is the same."""
    return printable(without_secrets(url))


def printable(text: str) -> str:
    """A name from elsewhere for the index, however long, with unprintable characters escaped."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
