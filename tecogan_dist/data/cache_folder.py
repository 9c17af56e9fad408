"""Which folder is the cache's own: made by it or empty when it came, and marked. In no other anything is removed."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tecogan_dist.base.atomic import PARTIAL_SUFFIX, reported_local
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location, make_folder
from tecogan_dist.data.clips import INDEX_NAME

MARKER = ".tecogan_cache"
MARKER_TEXT = "This folder is a cache of tecogan_dist, which removes files here when it needs room.\n"
CLIPS, DECODED, LOCKS = "clips", "decoded", "locks"
SUBFOLDERS = (CLIPS, DECODED, LOCKS)
SET = "set data.cache_dir to a folder of your own"
_PARTIAL = rf"(\.[0-9a-f]{{8}}{re.escape(PARTIAL_SUFFIX)})+"
_SUFFIX = {CLIPS: r"\.[A-Za-z0-9]{1,8}", DECODED: r"\.npy"}
_ENTRY = {name: re.compile(rf"[0-9a-f]{{64}}{suffix}") for name, suffix in _SUFFIX.items()}
_INCOMPLETE = {name: re.compile(rf"\.+[0-9a-f]{{64}}{suffix}{_PARTIAL}") for name, suffix in _SUFFIX.items()}
_LOCK = re.compile(r"room|(clips|decoded)_[0-9a-f]{2}")


def cache_folder(wanted: str | None) -> Path:
    """The cache's own folder, with its sub-folders: ``wanted`` if it is new, empty or the cache's already.

    In a folder with other things it is a sub-folder of its own, ``tecogan_cache_UID``, and by default one of the
    system's folder for temporary files. Never goes through a link. Raises :class:`UserError` if that is not possible,
    for a clip store, and where another user could have put something in the default one.
    """
    own = f"tecogan_cache_{os.getuid()}"
    if wanted is None:
        folder = _made(Path(tempfile.gettempdir()) / own)
        _check_private(folder)
    else:
        check_wanted(wanted)
        folder = _made(Location.of(wanted).path)
        if not _is_own(folder):
            with reported_local(folder):
                if INDEX_NAME in os.listdir(folder):
                    raise UserError(f"{folder} is a clip store, which is not a place for a cache: {SET}.")
            folder = _made(folder / own)
    if not _is_own(folder):
        raise UserError(f"{folder} holds files of others, not a cache: move it away, or {SET}.")
    for name in SUBFOLDERS:
        _made(folder / name)
    return folder


def check_wanted(wanted: str | None) -> None:
    """Raise :class:`UserError` for a ``data.cache_dir`` that can be a folder on no machine."""
    if wanted is not None and not Location.of(wanted).is_local:
        raise UserError(f"data.cache_dir is {wanted}: give a folder on each machine's own disk.")


def entry_name(folder: str, sha256: str, suffix: str) -> str:
    """The name of an entry in CLIPS or DECODED. Raises :class:`UserError` for what is not a checksum."""
    name = f"{sha256}{suffix}"
    if not _ENTRY[folder].fullmatch(name):
        raise UserError(f"the clip store's index has a checksum or name that is none ({name[:100]!r}): make it again.")
    return name


def entries(folder: Path) -> Iterator[tuple[Path, os.stat_result, bool]]:
    """The files of the cache in its CLIPS or DECODED: path, status, whether it is incomplete. Others' are not there."""
    with os.scandir(folder) as listed:
        for entry in listed:
            is_incomplete = _INCOMPLETE[folder.name].fullmatch(entry.name) is not None
            if is_incomplete or _ENTRY[folder.name].fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield Path(entry.path), status, is_incomplete


def _made(folder: Path) -> Path:
    """The folder, made if need be, for this user only. Raises :class:`UserError` for a link and for a file."""
    try:
        make_folder(folder.parent)
        with reported_local(folder):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            mode = os.lstat(folder).st_mode
    except FileNotFoundError as error:
        raise UserError(f"{folder} cannot be made, or was removed just now: {SET}.") from error
    if stat.S_ISLNK(mode):
        raise UserError(f"{folder} is a symbolic link, through which no cache is kept: {SET}, not a link to it.")
    if not stat.S_ISDIR(mode):
        raise UserError(f"{folder} cannot be written (Not a directory): {SET}.")
    return folder


def _check_private(folder: Path) -> None:
    """Anybody can make a folder of that name below /tmp before we do."""
    status = os.lstat(folder)
    if status.st_uid != os.getuid():
        raise UserError(f"{folder} belongs to another user: {SET}.")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"{folder} can be written by others: remove it if it is yours, or {SET}.")


def _is_own(folder: Path) -> bool:
    """Whether it is marked, or may be: empty, or with nothing in it but what a version without marks kept."""
    with reported_local(folder):
        if os.lstat(folder).st_uid != os.getuid():
            return False
        names = set(os.listdir(folder))
        if MARKER in names:
            return stat.S_ISREG(os.lstat(folder / MARKER).st_mode)
        if not names <= set(SUBFOLDERS) or not all(_is_of_a_cache(folder / name) for name in names):
            return False
        with contextlib.suppress(FileExistsError):
            file = os.open(folder / MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(file, "w", encoding="ascii") as marker:
                marker.write(MARKER_TEXT)
    return True


def _is_of_a_cache(folder: Path) -> bool:
    """Whether everything in a sub-folder has a name that the cache gives."""
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        return False
    with os.scandir(folder) as listed:
        for entry in listed:
            if not entry.is_file(follow_symlinks=False):
                return False
            is_known = (
                _LOCK.fullmatch(entry.name)
                if folder.name == LOCKS
                else _ENTRY[folder.name].fullmatch(entry.name) or _INCOMPLETE[folder.name].fullmatch(entry.name)
            )
            if not is_known:
                return False
    return True
