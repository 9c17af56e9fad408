"""The system's locks of local files (flock): they end with the process, and other machines see them over NFS."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tecogan_dist.base.atomic import reported_local
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.owners import Owner

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system without locks answers; NFS without its lock service too."""
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
LINE_BYTES = 4096


class TakenError(Exception):
    """Another process holds it. The text names that process."""


class LocksUnknownError(Exception):
    """The file system knows no locks. The text is the system's."""


@contextlib.contextmanager
def held_file(path: Path, *, temporary: bool = False, of: Path | None = None) -> Iterator[bool]:
    """Hold the lock of this file in the block; it is made if need be, and with ``temporary`` removed at the end.

    Yields False where the file may not be made. A file that is not a lock of ours keeps its content. Never goes through
    a link and never waits. Raises :class:`TakenError`, :class:`LocksUnknownError`, and :class:`UserError` for a disk
    that fails, which names ``of`` instead of the lock, if that is given.
    """
    named = path if of is None else of
    with contextlib.ExitStack() as stack:
        while True:
            file = _opened(path, named)
            if file is None:
                yield False
                return
            stack.callback(os.close, file)
            with reported_local(named):
                _lock(file, path)
            # Its last owner may have removed it between our opening and locking it.
            if _is_still(file, path):
                break
            stack.pop_all().close()
        is_ours = False
        try:
            with reported_local(named):
                is_ours = _is_ours(file)
                if is_ours:
                    _sign(file)  # on a full disk this fails, and then it goes away too: we hold its lock
            yield True
        finally:
            if temporary and is_ours and _is_still(file, path):
                with contextlib.suppress(OSError):
                    os.unlink(path)


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of an existing folder itself in the block. Raises as :func:`held_file` does."""
    try:
        with reported_local(folder):
            file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise UserError(f"{folder} cannot be made there: check the permissions of {folder.parent}.") from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, file)
        with reported_local(folder):
            _lock(file, folder)
        yield


def _opened(path: Path, named: Path) -> int | None:
    """None where it may not be made."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        with reported_local(named):
            try:
                file = os.open(path, flags, 0o666)
            except OSError as error:
                if error.errno in NOT_WRITABLE:
                    return None
                if error.errno == errno.ELOOP:
                    raise UserError(f"{path} is a symbolic link where a lock is wanted: move it away.") from error
                raise
    except FileNotFoundError as error:
        raise UserError(f"{path.parent} is not there any more, or is not a folder on a disk: check it.") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise UserError(f"{path} is not a file, where a lock is wanted: move it away.")
    return file


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TakenError(_owner_of(path)) from error
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise LocksUnknownError(os.strerror(error.errno)) from error
        raise


def _owner_of(path: Path) -> str:
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            owner = Owner.parse(os.pread(file, LINE_BYTES, 0)) if stat.S_ISREG(os.fstat(file).st_mode) else None
        finally:
            os.close(file)
        if owner is not None:
            return str(owner)
    return "which one is not known"


def _is_still(file: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(file), os.lstat(path))
    return False


def _is_ours(file: int) -> bool:
    """Whether it has no content that is not ours."""
    before = os.pread(file, LINE_BYTES, 0)
    return not before or Owner.parse(before) is not None


def _sign(file: int) -> None:
    """Write this process into the file."""
    line = Owner.me(holds=True).line()
    os.ftruncate(file, 0)
    if os.pwrite(file, line, 0) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
