"""Checksums of a segment's files, by which a later command knows that they are as they were."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tecogan_dist.base.atomic import reported_local, sync, sync_folder

CHUNK_BYTES = 2**20


def _files_of(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def synced_digest(path: Path) -> tuple[str, int]:
    """:func:`digest_of` of what is on the disk, not on its way there."""
    with reported_local(path):
        for file in _files_of(path):
            sync(file)
        if path.is_dir():
            sync_folder(path)
    return digest_of(path)


def digest_of(path: Path) -> tuple[str, int]:
    """Checksum and bytes of a file, or of all files of a folder with their names."""
    digest, size = hashlib.sha256(), 0
    for file in _files_of(path):
        digest.update(f"{file.name}\0".encode("utf-8", "surrogateescape"))
        with open(file, "rb") as opened:
            while chunk := opened.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    return digest.hexdigest(), size
