"""What a source holds: so that a film which was replaced by another under its name does not count as the one before.

A content is a text of two checksums, ``QUICK:FULL``: of what is known at a glance (names, sizes, times, both ends of
each file), and of every byte. Where the first is the same, the second is not computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from tecogan_dist.base.atomic import reported_local
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import open_regular
from tecogan_dist.video.images import image_files

END_BYTES = 2**16
CHUNK_BYTES = 2**20


def content_of(path: Path, low_path: Path | None = None) -> str:
    """The content of a video, an archive or a folder of frames, and of its low-resolution partner. Reads all of it.

    Raises :class:`UserError` for what cannot be read.
    """
    return f"{quick_content(path, low_path)}:{_full(path, low_path)}"


def quick_content(path: Path, low_path: Path | None = None) -> str:
    """The first part of a content: that of files which seem to be the same. Raises :class:`UserError`."""
    digest = hashlib.sha256()
    for file in _files(path, low_path):
        with _opened(file) as opened:
            status = os.fstat(opened.fileno())
            digest.update(f"{status.st_size} {status.st_mtime_ns} {file.name}\0".encode("utf-8", "surrogateescape"))
            digest.update(opened.read(END_BYTES))
            opened.seek(max(0, status.st_size - END_BYTES))
            digest.update(opened.read(END_BYTES))
    return digest.hexdigest()[:32]


def is_same(content: str, path: Path, low_path: Path | None = None, *, thorough: bool = False) -> bool:
    """Whether this is what was there when ``content`` was taken; ``thorough``: by every byte, whatever it seems to be.

    Raises :class:`UserError` for what cannot be read.
    """
    quick, _, full = content.partition(":")
    return (not thorough and quick_content(path, low_path) == quick) or _full(path, low_path) == full


def _full(path: Path, low_path: Path | None) -> str:
    digest = hashlib.sha256()
    for file in _files(path, low_path):
        with _opened(file) as opened:
            size = os.fstat(opened.fileno()).st_size
            digest.update(f"{size} {file.name}\0".encode("utf-8", "surrogateescape"))
            while chunk := opened.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _files(path: Path, low_path: Path | None) -> Iterator[Path]:
    for one in (path,) if low_path is None else (path, low_path):
        with reported_local(one, "read"):
            yield from image_files(one) if one.is_dir() else [one]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        with reported_local(path, "read"), open_regular(path) as file:
            yield file
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist any more: start again when nothing changes it.") from error
