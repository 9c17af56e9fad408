"""Zip archives of videos or of folders with frames, unpacked as if they were hostile.

No name in an archive becomes a name on disk, so none can lead outside the folder; links are not made; what is unpacked
is bounded by the disk's free space, whatever the archive says about itself.
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

from tecogan_dist.base.atomic import PARTIAL_SUFFIX, remove, replacing
from tecogan_dist.base.errors import UserError
from tecogan_dist.data.prepare.sources import printable
from tecogan_dist.video.formats import IMAGE_SUFFIXES, READABLE_SUFFIXES
from tecogan_dist.video.images import digits_of
from tecogan_dist.video.source import Damaged

MEMBERS = 2_000_000
"""Most members of an archive."""
FREE_SHARE = 0.9
"""Share of the disk's free space that an archive may take."""
CHUNK_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class ArchivedVideo:
    """A video, or a folder of frames, that was in an archive."""

    name: str
    """Its (printable) name in the archive; "" for the archive's top folder, and for a video that was in none."""
    path: Path


def unpack(archive: Path, folder: Path) -> list[ArchivedVideo]:
    """Every video and every folder of frames in the archive, sorted by name, as files below ``folder``.

    An old ``folder`` is replaced; the new one holds everything or does not exist. Raises :class:`Damaged` for a file
    that is damaged or not a zip archive, :class:`UserError` for an encrypted or hostile one and if it does not fit on
    the disk.
    """
    try:
        remove(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        # A fixed name, so that what a killed process leaves is found and removed.
        with replacing(folder, partial=folder.with_name(f".{folder.name}{PARTIAL_SUFFIX}")) as partial:
            partial.mkdir()
            with zipfile.ZipFile(archive) as opened:
                members = _wanted(archive, opened.infolist())
                needed, free = sum(member.file_size for member in members), shutil.disk_usage(partial).free
                if needed > FREE_SHARE * free:
                    raise UserError(
                        f"{archive} holds {needed / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f} GB free: make "
                        "room, or give another --downloads."
                    )
                videos = [
                    ArchivedVideo(name, folder / target.relative_to(partial))
                    for name, target in _extract(opened, _grouped(members), partial)
                ]
            if not videos:
                raise UserError(f"{archive} holds no videos and no PNG or JPG images.")
    # zipfile's NotImplementedError: a compression, or a version of the format, that it does not know.
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise Damaged(f"{archive} cannot be read as a zip archive ({printable(str(error))}).") from error
    except OSError as error:
        raise UserError(f"{archive} cannot be unpacked to {folder} ({error.strerror or error}).") from error
    return videos


def _wanted(archive: Path, members: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The images and videos. Raises :class:`UserError` if any member is of a kind that only an attack would hold."""
    if len(members) > MEMBERS:
        raise UserError(f"{archive} has {len(members)} members: at most {MEMBERS} are unpacked.")
    wanted = []
    for member in members:
        name = _path(member)
        if name.is_absolute() or ".." in name.parts or str(name)[1:2] == ":":
            raise UserError(f"{archive} holds a name that leads outside ({printable(member.filename)}): not used.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"{archive} holds a link ({printable(member.filename)}): not used.")
        hidden = any(folder.startswith(".") or folder == "__MACOSX" for folder in name.parts)
        if member.is_dir() or hidden or name.suffix.lower() not in (*IMAGE_SUFFIXES, *READABLE_SUFFIXES):
            continue
        if member.flag_bits & 1:
            raise UserError(f"{archive} is encrypted: unpack it yourself and give the folder.")
        wanted.append(member)
    return wanted


def _path(member: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(member.filename.replace("\\", "/"))


def _grouped(members: list[zipfile.ZipInfo]) -> dict[str, list[zipfile.ZipInfo]]:
    """Members by the name of their video: a video's own, an image's folder; images in the order of their digits."""
    groups = collections.defaultdict(list)
    for member in members:
        name = _path(member)
        is_image = name.suffix.lower() in IMAGE_SUFFIXES
        groups[("" if str(name.parent) == "." else str(name.parent)) if is_image else str(name)].append(member)
    for group in groups.values():
        group.sort(key=lambda member: digits_of(_path(member)))
    return dict(sorted(groups.items()))


def _extract(opened: zipfile.ZipFile, groups: dict[str, list[zipfile.ZipInfo]], folder: Path) -> list[tuple[str, Path]]:
    """Unpack each group of members into ``folder``; returns its printable name and the file or folder it became."""
    extracted = []
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
        extracted.append((printable(name), target))
    return extracted
