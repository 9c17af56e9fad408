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
from urllib.parse import urlsplit, urlunsplit

import pydantic

from tecogan_dist.base.documents import parse_yaml, read_text, validated
from tecogan_dist.base.errors import UserError

WEB_SCHEMES, STORAGE_SCHEMES = ("http", "https"), ("s3", "gs")
LIST_SUFFIXES = (".yaml", ".yml")
ORIGINAL_MINIMUM_SIZE = 400
"""Videos that are smaller in width or height are left out (dataPrepare.py of thunil/TecoGAN)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """An entry of a list: where its videos are, or those of a pair, and how they are cut."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")

    source: str | None = None
    """A path, a pattern of paths, or a URL (http, https, s3, gs)."""
    hr: str | None = None
    lr: str | None = None
    """High- and low-resolution frames of your own: local paths or patterns."""
    starts: tuple[int, ...] | None = None
    """First frame of each scene. They may overlap, and keep their numbers whatever becomes of the others."""
    cut: Literal["fixed", "detected", "whole"] | None = None
    """fixed: every ``scene_length`` frames and nowhere else. detected: where the picture changes; longer shots also
    every ``scene_length`` frames. whole: one scene. None: whole for a folder of frames, detected for a video."""
    scene_length: int = 120
    """Frames of a scene, at most; of a listed one exactly."""
    minimum_length: int | None = None
    """Fewest frames of a detected scene, or of a video that is shorter than a scene. None: 10 and 2."""
    minimum_size: int = ORIGINAL_MINIMUM_SIZE
    """Fewest pixels of height and width, before the downscale."""
    maximum_scenes: int | None = None
    """Most scenes of a source, spread evenly over it. None: 100 where their number is not known beforehand."""
    downscale: int = 1
    """Average this many by this many pixels; 2 hides the softness of compressed video."""
    encoding: Literal["lossy", "lossless", "original"] = "lossy"
    """original: a video file that is one scene as it is keeps its bytes; whatever has to be cut is lossy."""
    start_frame: int = 0
    end_frame: int | None = None
    """Frames of the video to use if no starts are given; the end is exclusive."""

    @property
    def address(self) -> str:
        """The path, pattern or URL; of a pair, that of the high-resolution frames."""
        address = self.hr if self.source is None else self.source
        assert address is not None
        return address

    @property
    def is_remote(self) -> bool:
        return is_remote(self.address)


SETTINGS = tuple(field.name for field in dataclasses.fields(Source) if field.name not in ("source", "hr", "lr"))
_ADAPTER = pydantic.TypeAdapter(Source)


def is_remote(address: str) -> bool:
    """Whether this is a URL. A scheme needs ``://``: a file may be named ``a:b.mp4``."""
    return "://" in address


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
    return [
        _local_to(folder, make(entry, name=f"{name}: entry {number}", **settings))
        for number, entry in enumerate(entries, 1)
    ]


def make(entry: Any, *, name: str, **settings: Any) -> Source:
    """A checked source from a mapping of its keys. ``name`` begins the sentence of the :class:`UserError`."""
    if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
        raise UserError(f"{name}: a source is a mapping such as 'source: films/*.mp4', not {entry!r}.")
    known = f"use {', '.join(('source', 'hr', 'lr', *SETTINGS))}"
    source = validated(_ADAPTER, {**settings, **entry}, source=name, known=known)
    problem = _problem(source)
    if problem:
        raise UserError(f"{name}: {problem}.")
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
        if is_remote(address) and source.hr is not None:
            return f"{printable(address)} cannot be used: the sides of a pair must be local paths"
        if is_remote(address) and address.partition("://")[0] not in (*WEB_SCHEMES, *STORAGE_SCHEMES):
            return f"{printable(address)} cannot be used: give a path or a URL of http, https, s3 or gs"
    for key in ("scene_length", "minimum_length", "minimum_size", "maximum_scenes", "downscale"):
        value = getattr(source, key)
        if value is not None and value < 1:
            return f"{key} must be at least 1, not {value}"
    if source.starts is not None:
        if source.cut is not None or source.start_frame or source.end_frame is not None:
            return "with 'starts' there is nothing to cut otherwise: leave out cut, start_frame and end_frame"
        if not source.starts or min(source.starts) < 0 or len(set(source.starts)) < len(source.starts):
            return "starts must be different positions from 0 on"
    if source.start_frame < 0:
        return f"start_frame must be at least 0, not {source.start_frame}"
    if source.end_frame is not None and source.end_frame <= source.start_frame:
        return f"end_frame must be above start_frame, not {source.end_frame}"
    if source.hr is not None and (source.downscale > 1 or source.encoding == "original"):
        return "pairs are kept as they are: leave out downscale, and use lossy or lossless encoding"
    return None


def _local_to(folder: Path, source: Source) -> Source:
    """A source whose local paths are relative to a folder, with paths from here."""

    def local(address: str | None) -> str | None:
        return address if address is None or is_remote(address) else str(folder / address)

    return dataclasses.replace(source, source=local(source.source), hr=local(source.hr), lr=local(source.lr))


def name_of(url: str) -> str:
    """A URL as the index records it: without a user's name and password."""
    parts = urlsplit(url)
    return printable(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))


def printable(text: str) -> str:
    """Text from elsewhere (file names, titles) for a terminal or a table, with unprintable characters escaped."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
