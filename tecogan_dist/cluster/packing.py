"""What travels to a cluster with a job: this package, and small files that its arguments name."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import tecogan_dist

MOST_BYTES = 4 * 2**20
"""Of a file that travels. Whatever is larger belongs on storage: every node of the cluster fetches what travels."""
LEFT_OUT = (".md", ".pyc")
"""Endings of files in the package's folder that nothing runs."""
_NEVER = (1980, 1, 1, 0, 0, 0)
"""The time of every file: Ray knows a package by its bytes, and does not upload twice what has not changed."""


def pack(archive: Path, files: Sequence[Path]) -> int:
    """Write a .zip with this package and ``files``; its size in bytes.

    The package is the one that runs here, from a checkout or installed. Files are given by paths that are relative to
    the working directory and below it, and keep these.
    """
    folder = Path(tecogan_dist.__file__).parent
    sources = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in LEFT_OUT]
    members = {PurePosixPath(folder.name, *path.relative_to(folder).parts): path for path in sources}
    members |= {PurePosixPath(path.as_posix()): path for path in files}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, path in sorted(members.items()):
            entry = zipfile.ZipInfo(str(name), _NEVER)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, path.read_bytes())
    return archive.stat().st_size
