"""What may be opened as a file: a regular one, and never what would block, like a FIFO, or never end, like a device."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from tecogan_dist.base.errors import UserError

NAME_BYTES, PATH_BYTES = 255, 4095
"""Linux's limits of one name and of a whole path, in bytes."""
SYSTEM_FOLDERS = ("/proc", "/sys")
"""Their files have no size, and reading some of them waits for ever."""
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
ADVICE = {
    errno.ENOENT: "check the name",
    errno.EEXIST: "something else is in its place, give another path",
    errno.ENOTDIR: "a part of the path is a file, check it",
    errno.EISDIR: "give a file",
    errno.ELOOP: "its symbolic links lead in a circle, mend them or give another path",
    errno.ENAMETOOLONG: f"give shorter names, {NAME_BYTES} bytes each at most",
    errno.EACCES: "check its permissions and its owner",
    errno.EPERM: "check its permissions and its owner",
    errno.EROFS: "give a place that can be written",
    errno.ENOSPC: "check the disk's space",
    errno.EDQUOT: "check your quota there",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files",
}


def check_name(name: str) -> None:
    """Raise :class:`UserError` for what cannot be a path: empty, with a NUL, or too long."""
    if not name:
        raise UserError("an empty name stands where a file or folder is wanted: give a path.")
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError as error:
        raise UserError(f"{name!r} cannot be a path, it is not proper text: give another one.") from error
    if b"\0" in encoded:
        raise UserError(f"{name!r} cannot be a path, it has a NUL character in it: give another one.")
    longest = max(len(part) for part in encoded.split(b"/"))
    if longest > NAME_BYTES or len(encoded) > PATH_BYTES:
        shown = name if len(name) <= 80 else f"{name[:40]}...{name[-20:]}"
        raise UserError(
            f"{shown} is too long for a path: a name may have {NAME_BYTES} bytes and a path {PATH_BYTES}, give a "
            "shorter one."
        )


def check_regular(path: Path, *, what: str = "file") -> None:
    """Raise :class:`UserError` unless ``path`` is a regular file that can be opened. Opens nothing, waits for nothing.

    ``what`` names it in the sentence, as in "weights file".
    """
    check_name(str(path))
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        link = "it is a symbolic link to what is not there" if path.is_symlink() else "check the name"
        raise UserError(f"the {what} {path} does not exist: {link}.") from error
    except OSError as error:
        raise UserError(f"the {what} {path} cannot be read ({os.strerror(error.errno or 0)}): {advice(error)}.") from (
            error
        )
    _check_kind(path, status.st_mode, what)


def open_regular(path: Path, *, what: str = "file") -> BufferedReader:
    """The opened file, for reading bytes. Never waits for a FIFO's writer or a device.

    Raises :class:`UserError` for what is not a regular file, and ``OSError`` for what cannot be opened; a missing file
    is a ``FileNotFoundError``.
    """
    check_name(str(path))
    _check_kind(path, os.stat(path).st_mode, what)  # to open some devices does something
    # Without O_NONBLOCK, opening a FIFO waits until somebody writes to it; a regular file does not mind.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _check_kind(path, os.fstat(file).st_mode, what)
    except BaseException:
        os.close(file)
        raise
    return os.fdopen(file, "rb")


def advice(error: OSError) -> str:
    """What to do about a local failure, for the end of a sentence."""
    return ADVICE.get(error.errno or 0, "check the disk's space and permissions")


def _check_kind(path: Path, mode: int, what: str) -> None:
    for is_kind, kind in KINDS:
        if is_kind(mode):
            raise UserError(f"{path} is {kind} where an ordinary {what} is wanted: give another path.")
    real = os.path.realpath(path)
    if any(real.startswith(f"{folder}/") for folder in SYSTEM_FOLDERS):
        raise UserError(
            f"{path} is one of the system's own files where an ordinary {what} is wanted: give another path."
        )
