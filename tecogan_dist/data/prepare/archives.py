"""Zip archives of videos or of folders with frames, unpacked as if they were hostile.

No name in an archive becomes a name on disk, so none can lead outside the folder; links and devices are not made; what
is unpacked is bounded, in all, by the disk's free space, and by the archive's own size, whatever it says about itself.
"""

from __future__ import annotations

import collections
import dataclasses
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from tecogan_dist.base import console
from tecogan_dist.base.atomic import PARTIAL_SUFFIX, remove, replacing
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import open_regular
from tecogan_dist.base.zips import check_bomb, check_count, check_member, check_packing, is_hidden, path_in
from tecogan_dist.data.prepare.limits import GIGABYTE, Limits
from tecogan_dist.data.prepare.sources import printable
from tecogan_dist.video.formats import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES, READABLE_SUFFIXES
from tecogan_dist.video.numbering import check_sequence, digits_of
from tecogan_dist.video.source import Damaged

FREE_SHARE = 0.9
"""Share of the disk's free space that an archive may take."""
CHUNK_BYTES = 2**20
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")


@dataclasses.dataclass(frozen=True)
class ArchivedVideo:
    """A video, or a folder of frames, that was in an archive."""

    name: str
    """Its (printable) name in the archive; "" for the archive's top folder, and for a video that was in none."""
    path: Path
    problem: str = ""
    """Why it cannot be used."""


def unpack(archive: Path, folder: Path, *, most_bytes: int = Limits().archive_bytes) -> list[ArchivedVideo]:
    """Every video and every folder of frames in the archive, sorted by name, as files below ``folder``.

    An old ``folder`` is replaced; the new one holds everything or does not exist. Raises :class:`Damaged` for a file
    that is damaged or not a zip archive, :class:`UserError` for an encrypted or hostile one, for one that has more than
    ``most_bytes``, and if it does not fit on the disk.
    """
    try:
        remove(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        # A fixed name, so that what a killed process leaves is found and removed.
        with replacing(folder, partial=folder.with_name(f".{folder.name}{PARTIAL_SUFFIX}")) as partial:
            partial.mkdir()
            with open_regular(archive, what="archive") as file, zipfile.ZipFile(file) as opened:
                members = _wanted(archive, opened.infolist())
                needed, free = sum(member.file_size for member in members), shutil.disk_usage(partial).free
                if needed > FREE_SHARE * free:
                    raise UserError(
                        f"{archive} holds {needed / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f} GB free: make "
                        "room, or give another --downloads."
                    )
                _check_sizes(archive, opened.infolist(), needed, most_bytes)
                videos = [
                    ArchivedVideo(name, folder / target.relative_to(partial), problem)
                    for name, target, problem in _extract(archive, opened, _grouped(members), partial)
                ]
            if not videos:
                raise UserError(f"{archive} holds no videos and no PNG or JPG images.")
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{archive} cannot be unpacked to {folder} ({error.strerror or error}).") from error
    except Exception as error:  # zipfile raises what it happens to run into in hostile bytes, of about 10 kinds
        why = console.printable(error, limit=100) or type(error).__name__
        raise Damaged(f"{archive} cannot be read as a zip archive ({why}).") from error
    return videos


def _wanted(archive: Path, members: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The images and videos. Raises :class:`UserError` if any member is of a kind that only an attack would hold."""
    check_count(archive, members)
    wanted = []
    for member in members:
        check_member(archive, member)
        name, shown = path_in(member), console.printable(member.filename, limit=100)
        if member.is_dir() or is_hidden(name):
            continue
        suffix = name.suffix.lower()
        if suffix in (*OTHER_IMAGE_SUFFIXES, *ARCHIVE_SUFFIXES):
            raise UserError(
                f"{archive} holds {shown}, and videos and PNG and JPG images are what is read of an archive: unpack it "
                "yourself and give what is in it."
            )
        if suffix not in (*IMAGE_SUFFIXES, *READABLE_SUFFIXES):
            continue
        check_packing(archive, member)
        wanted.append(member)
    names = collections.Counter(printable(str(path_in(member))) for member in wanted)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{archive} holds {console.printable(twice, limit=100)} twice: not used.")
    return wanted


def _check_sizes(archive: Path, members: list[zipfile.ZipInfo], needed: int, most_bytes: int) -> None:
    """Raise :class:`UserError` for a bomb."""
    if needed > most_bytes:
        raise UserError(
            f"{archive} holds {needed / GIGABYTE:.1f} GB: allow more with --max-archive-gigabytes, or unpack it "
            "yourself."
        )
    check_bomb(archive, members, needed, what="images and videos")


def _grouped(members: list[zipfile.ZipInfo]) -> dict[str, list[zipfile.ZipInfo]]:
    """Members by the name of their video: a video's own, an image's folder; images in the order of their digits."""
    groups = collections.defaultdict(list)
    for member in members:
        name = path_in(member)
        is_image = name.suffix.lower() in IMAGE_SUFFIXES
        groups[("" if str(name.parent) == "." else str(name.parent)) if is_image else str(name)].append(member)
    for group in groups.values():
        group.sort(key=lambda member: digits_of(path_in(member)))
    return dict(sorted(groups.items()))


def _extract(
    archive: Path, opened: zipfile.ZipFile, groups: dict[str, list[zipfile.ZipInfo]], folder: Path
) -> list[tuple[str, Path, str]]:
    """Unpack each group of members into ``folder``; returns its printable name, what it became, and its problem."""
    extracted = []
    beside = {str(path_in(members[0]).parent) for members in groups.values() if not _is_image(members[0])}
    for number, (name, members) in enumerate(groups.items()):
        suffixes = [path_in(member).suffix.lower() for member in members]
        problem = ""
        if _is_image(members[0]):
            problem = _problem_of_images(
                f"{archive}#{printable(name)}", [path_in(member) for member in members], beside
            )
            target = folder / f"{number:06d}"
            target.mkdir()
            files = [target / f"{index:08d}{suffix}" for index, suffix in enumerate(suffixes)]
        else:
            target = folder / f"{number:06d}{suffixes[0]}"
            files = [target]
        for member, file in zip(members, files, strict=True):
            # zipfile reads no more than the size that was added up, and checks it against the CRC.
            with opened.open(member) as source, open(file, "xb") as copy:
                shutil.copyfileobj(source, copy, CHUNK_BYTES)
        extracted.append((printable(name), target, problem))
    return extracted


def _is_image(member: zipfile.ZipInfo) -> bool:
    return path_in(member).suffix.lower() in IMAGE_SUFFIXES


def _problem_of_images(name: str, images: list[PurePosixPath], beside: set[str]) -> str:
    """What is wrong with the names of a folder's images, which they lose when they are unpacked."""
    try:
        check_sequence(images, folder=name)
    except UserError as error:
        return str(error)
    if str(images[0].parent) in beside:
        return f"{name} holds videos beside images: give each a folder of its own."
    return ""
