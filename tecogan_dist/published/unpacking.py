"""What is wanted of an archive, unpacked as if it were hostile: no name in it leads anywhere, and it stays bounded."""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import open_regular
from tecogan_dist.base.memory import in_words
from tecogan_dist.base.transfers import NoSpace
from tecogan_dist.base.zips import (
    check_bomb,
    check_count,
    check_member,
    check_packing,
    is_hidden,
    leads_outside,
    path_in,
)

MOST_BYTES = 10 * 10**9
"""Of all that is unpacked from one archive."""
FREE_SHARE = 0.9
"""Share of the disk's free space that it may take."""
CHUNK_BYTES = 2**20
HEADER_BYTES = 2**20
"""Of a tar archive before, between and after the members: what is not the content of one."""
TAR_MEMBERS = 10_000
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}", re.ASCII)
_TAR_SUFFIXES = (".tar.gz", ".tgz")


def unpack_checkpoint(archive: Path, folder: Path, *, name: str, member: str) -> Path:
    """The files of a checkpoint, ``member`` and what begins with it and a dot, below ``folder``; returns its prefix.

    ``name`` is what the archive is called, which tells its kind. Raises :class:`UserError` for an archive that is
    damaged, hostile, or has no such files.
    """
    with _reported(archive):
        unpack = _from_tar if name.lower().endswith(_TAR_SUFFIXES) else _from_zip
        found = list(unpack(archive, folder, member))
    if not found:
        raise UserError(f"{archive} holds no checkpoint {member}.")
    return folder / member


def unpack_scenes(archive: Path, folder: Path, *, wanted: tuple[str, ...]) -> list[str]:
    """Every folder of images of a zip archive, by its own name, below ``folder``; returns their names, sorted.

    Frames keep their names. Raises :class:`UserError` for an archive that is damaged or hostile, that holds no images,
    two folders of one name, or not those that are ``wanted``.
    """
    with _reported(archive), open_regular(archive, what="archive") as file, zipfile.ZipFile(file) as opened:
        _check(archive, opened, folder)
        origins: dict[str, PurePosixPath] = {}
        for member in opened.infolist():
            path = path_in(member)
            if member.is_dir() or is_hidden(path) or path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            scene = path.parent.name
            if not _NAME.fullmatch(scene) or not _NAME.fullmatch(path.name):
                shown = printable(member.filename, limit=100)
                raise UserError(f"{archive} holds an image that is not in a folder with a plain name ({shown}).")
            if origins.setdefault(scene, path.parent) != path.parent:
                raise UserError(f"{archive} holds two folders {scene}.")
            (folder / scene).mkdir(exist_ok=True)
            _copy(opened, member, folder / scene / path.name)
    missing = [scene for scene in wanted if scene not in origins]
    if missing or not origins:
        raise UserError(f"{archive} holds no images of {', '.join(missing) or 'scenes'}.")
    return sorted(origins)


def _from_zip(archive: Path, folder: Path, member: str) -> Iterator[Path]:
    with open_regular(archive, what="archive") as file, zipfile.ZipFile(file) as opened:
        _check(archive, opened, folder)
        for info in opened.infolist():
            path = path_in(info)
            if not info.is_dir() and not is_hidden(path) and _is_part(path.name, member):
                _copy(opened, info, folder / path.name)
                yield folder / path.name


def _check(archive: Path, opened: zipfile.ZipFile, folder: Path) -> None:
    members = opened.infolist()
    check_count(archive, members)
    for member in members:
        check_member(archive, member)
        if not member.is_dir():
            check_packing(archive, member)
    needed = sum(member.file_size for member in members)
    _check_room(archive, folder, needed)
    check_bomb(archive, members, needed, what="weights and images")


def _check_room(archive: Path, folder: Path, needed: int) -> None:
    if needed > MOST_BYTES:
        raise UserError(f"{archive} would become {needed / 1e9:.1f} GB: not used.")
    free = shutil.disk_usage(folder).free
    if needed > FREE_SHARE * free:
        raise NoSpace(
            f"the disk of {folder} has {in_words(free)} free, and what was fetched becomes {in_words(needed)}: make "
            "room and run it again; what was fetched is kept."
        )


def _copy(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    # zipfile reads no more than the size that was added up, and checks it against the CRC.
    with opened.open(member) as source, open(target, "xb") as copy:
        shutil.copyfileobj(source, copy, CHUNK_BYTES)


def _is_part(name: str, member: str) -> bool:
    is_named = name == member or name.startswith(f"{member}.")
    return is_named and _NAME.fullmatch(name) is not None


def _from_tar(archive: Path, folder: Path, member: str) -> Iterator[Path]:
    with open_regular(archive, what="archive") as file, gzip.GzipFile(fileobj=file) as unpacked:
        bounded = _Bounded(cast(BinaryIO, unpacked))
        # A stream: nothing is sought, and every byte passes the bound.
        with tarfile.open(fileobj=cast(Any, bounded), mode="r|") as opened:
            needed = 0
            for number, info in enumerate(opened, 1):
                needed += info.size
                shown = printable(info.name, limit=100)
                if number > TAR_MEMBERS:
                    raise UserError(f"{archive} has more than {TAR_MEMBERS} members: not used.")
                path = PurePosixPath(info.name.replace("\\", "/"))
                if leads_outside(path):
                    raise UserError(f"{archive} holds a name that leads outside ({shown}): not used.")
                if not info.isdir() and (not info.isreg() or info.issparse()):
                    raise UserError(f"{archive} holds a link, a device or the like ({shown}): not used.")
                _check_room(archive, folder, needed)
                check_bomb(archive, [], needed, what="weights")
                bounded.allow(info.size)
                if info.isreg() and not is_hidden(path) and _is_part(path.name, member):
                    source = opened.extractfile(info)
                    if source is not None:
                        with source, open(folder / path.name, "xb") as copy:
                            shutil.copyfileobj(source, copy, CHUNK_BYTES)
                        yield folder / path.name


class _Bounded:
    """An unpacked stream that gives no more than was allowed: a header of gigabytes would be read into memory."""

    def __init__(self, inner: BinaryIO) -> None:
        self._inner, self._left = inner, HEADER_BYTES

    def allow(self, size: int) -> None:
        """The content of a member, its padding, and the header after it."""
        self._left += size + HEADER_BYTES

    def read(self, size: int) -> bytes:
        data = self._inner.read(min(size, max(0, self._left) + 1))
        self._left -= len(data)
        if self._left < 0:
            raise UserError("the archive has more in it than its members: not used.")
        return data


class _reported:
    """What fails while an archive is read, as a :class:`UserError`."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None or isinstance(error, UserError) or not isinstance(error, Exception):
            return
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"{self._archive} cannot be unpacked ({error.strerror}).") from error
        # zipfile and tarfile raise what they happen to run into in hostile bytes, of about 10 kinds.
        why = printable(error, limit=100) or type(error).__name__
        raise UserError(f"{self._archive} is damaged or not an archive ({why}).") from error
