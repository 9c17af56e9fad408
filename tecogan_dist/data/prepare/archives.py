"""Zip archives of videos or of folders with frames, unpacked as if they were hostile.

No name in an archive becomes a name on disk, so none can lead outside the folder; links are not made; what is unpacked
is bounded by the disk's free space, whatever the archive says of itself.
"""

from __future__ import annotations

import collections
import dataclasses
import lzma
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tecogan_dist.base.errors import UserError
from tecogan_dist.data.prepare.sources import printable
from tecogan_dist.video.images import digits_of
from tecogan_dist.video.source import Damaged
from tecogan_dist.video.writer import IMAGE_SUFFIXES, READABLE_SUFFIXES

MEMBERS = 2_000_000
"""Most members of an archive."""
FREE_SHARE = 0.9
"""Part of the disk's free space that an archive may take."""
CHUNK_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Part:
    """A video, or a folder of frames, and its (printable) name in the archive; "" for its top."""

    name: str
    path: Path


def unpack(archive: Path, folder: Path) -> list[Part]:
    """Every video and every folder of frames in the archive, sorted by name, as files below ``folder``.

    ``folder`` is made anew and holds all or does not exist. Raises :class:`Damaged` for what is no zip archive or a
    damaged one, :class:`UserError` for an encrypted or hostile one and if it does not fit on the disk.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    for left_over in (partial, folder):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        with zipfile.ZipFile(archive) as opened:
            members = _wanted(archive, opened.infolist())
            needed, free = sum(member.file_size for member in members), shutil.disk_usage(partial).free
            if needed > FREE_SHARE * free:
                raise UserError(
                    f"{archive} holds {needed / 1e9:.1f} GB and {partial.parent} has {free / 1e9:.1f} GB free: make "
                    "room, or give another --downloads."
                )
            parts = [
                Part(name, folder / target.relative_to(partial))
                for name, target in _extract(opened, _grouped(members), partial)
            ]
        if not parts:
            raise UserError(f"{archive} holds no videos and no PNG or JPG images.")
        partial.rename(folder)
    # zipfile's NotImplementedError: a compression, or a version of the format, that it does not know.
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise Damaged(f"{archive} cannot be read as a zip archive ({printable(str(error))}).") from error
    except OSError as error:
        raise UserError(f"{archive} cannot be unpacked to {folder} ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return parts


def _wanted(archive: Path, members: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The images and videos. Raises :class:`UserError` if any member is of a kind that only an attack has."""
    if len(members) > MEMBERS:
        raise UserError(f"{archive} has {len(members)} members: at most {MEMBERS} are unpacked.")
    wanted = []
    for member in members:
        name = _path(member)
        if name.is_absolute() or ".." in name.parts or str(name)[1:2] == ":":
            raise UserError(f"{archive} holds a name that leads outside ({printable(member.filename)}): not used.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"{archive} holds a link ({printable(member.filename)}): not used.")
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
        if member.is_dir() or hidden or name.suffix.lower() not in (*IMAGE_SUFFIXES, *READABLE_SUFFIXES):
            continue
        if member.flag_bits & 1:
            raise UserError(f"{archive} is encrypted: unpack it yourself and give the folder.")
        wanted.append(member)
    return wanted


def _path(member: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(member.filename.replace("\\", "/"))


def _grouped(members: list[zipfile.ZipInfo]) -> dict[str, list[zipfile.ZipInfo]]:
    """Members by their part's name: a video's own, an image's folder; images in the order of their digits."""
    groups = collections.defaultdict(list)
    for member in members:
        name = _path(member)
        is_image = name.suffix.lower() in IMAGE_SUFFIXES
        groups[("" if str(name.parent) == "." else str(name.parent)) if is_image else str(name)].append(member)
    for group in groups.values():
        group.sort(key=lambda member: digits_of(_path(member)))
    return dict(sorted(groups.items()))


def _extract(opened: zipfile.ZipFile, groups: dict[str, list[zipfile.ZipInfo]], folder: Path) -> list[tuple[str, Path]]:
    parts = []
    for number, (name, members) in enumerate(groups.items()):
        suffixes = [_path(member).suffix.lower() for member in members]
        if suffixes[0] in IMAGE_SUFFIXES:
            target = folder / f"{number:06d}"
            target.mkdir()
            files = [target / f"{index:08d}{suffix}" for index, suffix in enumerate(suffixes)]
        else:
            target = folder / f"{number:06d}{suffixes[0]}"
            files = [target]
        for member, file in zip(members, files, strict=False):
            # zipfile reads no more than the size that was added up, and checks it against the CRC.
            with opened.open(member) as source, open(file, "xb") as copy:
                shutil.copyfileobj(source, copy, CHUNK_BYTES)
        parts.append((printable(name), target))
    return parts
