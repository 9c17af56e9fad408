"""What a zip archive of others may hold: no names that lead outside, no links, nothing encrypted, no bombs."""

from __future__ import annotations

import itertools
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError

MEMBERS = 2_000_000
"""Most members of an archive."""
MOST_RATIO, SMALL_BYTES = 200, 10**8
"""How many times its own size an archive of what is packed already can unpack to; from so many bytes on."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others unpack a few bytes to gigabytes of memory at once."""
NAME_CHARACTERS = 4096


def path_in(member: zipfile.ZipInfo) -> PurePosixPath:
    """The name of a member as a path."""
    return PurePosixPath(member.filename.replace("\\", "/"))


def is_hidden(name: PurePosixPath) -> bool:
    """Whether it is one of those that programs leave beside what was meant."""
    return any(folder.startswith(".") or folder == "__MACOSX" for folder in name.parts)


def check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    """Raise :class:`UserError` for a member of a kind that only an attack would hold."""
    name, shown = path_in(member), printable(member.filename, limit=100)
    if leads_outside(name):
        raise UserError(f"{archive} holds a name that leads outside ({shown}): not used.")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise UserError(f"{archive} holds a link ({shown}): not used.")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{archive} holds a device or the like ({shown}): not used.")


def leads_outside(name: PurePosixPath) -> bool:
    """Whether a name of an archive is none that a file below a folder could have."""
    return name.is_absolute() or ".." in name.parts or str(name)[1:2] == ":" or len(str(name)) > NAME_CHARACTERS


def check_packing(archive: Path, member: zipfile.ZipInfo) -> None:
    """Raise :class:`UserError` for a member that cannot be unpacked here."""
    if member.flag_bits & 1:
        raise UserError(f"{archive} is encrypted: unpack it yourself and give the folder.")
    if member.compress_type not in METHODS:
        raise UserError(f"{archive} is packed by a method that is not read here: pack it as an ordinary zip.")


def check_count(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Raise :class:`UserError` for more members than are looked at."""
    if len(members) > MEMBERS:
        raise UserError(f"{archive} has {len(members)} members: at most {MEMBERS} are unpacked.")


def check_bomb(archive: Path, members: Sequence[zipfile.ZipInfo], needed: int, *, what: str) -> None:
    """Raise :class:`UserError` for a bomb: members that overlap, or ``needed`` bytes, far more than it has itself.

    ``what`` it should hold, for the sentence: "images and videos".
    """
    size = archive.stat().st_size
    in_order = sorted(members, key=lambda member: member.header_offset)
    is_overlapping = any(
        before.header_offset + before.compress_size > after.header_offset
        for before, after in itertools.pairwise(in_order)
    )
    if is_overlapping or (needed > SMALL_BYTES and needed > MOST_RATIO * size):
        raise UserError(
            f"{archive} has {size / 1e6:.1f} MB and would become {needed / 1e6:.0f} MB, which {what} never do: "
            "not used."
        )
