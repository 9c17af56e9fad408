"""Whether a Matroska or WebM file is as long as it says: FFmpeg reads one that is cut off as if it were whole."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
"""The two elements that a file consists of: a header and the rest (RFC 8794, RFC 9559)."""


def is_cut_off(path: Path) -> bool:
    """Whether the file ends before its segment does; False where that does not say its size, as of a live recording."""
    with open(path, "rb") as file:
        size = _size(file, EBML)
        if size is None:
            return False
        file.seek(size, 1)
        size = _size(file, SEGMENT)
        return size is not None and file.tell() + size > path.stat().st_size


def _size(file: BinaryIO, name: bytes) -> int | None:
    """The size of the element that begins here, with the file at its content; None if it is another, or unknown."""
    if file.read(4) != name:
        return None
    first = (file.read(1) or b"\0")[0]
    if not first:
        return None
    length = 9 - first.bit_length()  # as many bytes as there are zeros before the first one, and one
    rest = file.read(length - 1)
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(bytes([first]) + rest, "big") & unknown
    return None if size == unknown or len(rest) < length - 1 else size
