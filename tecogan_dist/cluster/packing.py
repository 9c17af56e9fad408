"""What travels to a cluster with a job: this package, and small files that its arguments name."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import tecogan_dist
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import advice, open_regular

MOST_BYTES = 4 * 2**20
"""Of a file that travels. Whatever is larger belongs on storage: every node of the cluster fetches what travels."""
TAKEN = (".py", ".yaml", ".html", ".safetensors")
"""Endings of what the package is made of. Whatever else lies in its folder, as .env, stays here."""
_NEVER = (1980, 1, 1, 0, 0, 0)
"""The time of every file: Ray knows a package by its bytes, and does not upload twice what has not changed."""


def pack(archive: Path, files: Sequence[Path]) -> int:
    """Write a .zip with this package and ``files``; its size in bytes.

    The package is the one that runs here, from a checkout or installed. Files are given by paths that are relative to
    the working directory and below it, and keep these. Raises :class:`UserError` for one that is not an ordinary file,
    grew meanwhile, or is a link to a place outside of the working directory.
    """
    folder = Path(tecogan_dist.__file__).parent
    sources = [path for path in folder.rglob("*") if path.suffix in TAKEN and path.is_file()]
    members = {PurePosixPath(folder.name, *path.relative_to(folder).parts): path.read_bytes() for path in sources}
    members |= {PurePosixPath(path.as_posix()): _content(path) for path in files}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in sorted(members.items()):
            entry = zipfile.ZipInfo(str(name), _NEVER)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, content)
    return archive.stat().st_size


def _content(path: Path) -> bytes:
    if not path.resolve().is_relative_to(Path.cwd().resolve()):
        raise UserError(
            f"{path} is a link to {path.resolve()}, which is outside of the working directory, and does not travel: "
            "copy the file."
        )
    try:
        with open_regular(path) as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {advice(error)}.") from error
    if len(content) > MOST_BYTES:
        raise UserError(f"{path} has more than {MOST_BYTES / 2**20:.0f} MB and does not travel with a job: shorten it.")
    return content
