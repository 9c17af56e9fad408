"""A file or folder that appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import NAME_BYTES, advice

PARTIAL_SUFFIX = ".partial"


@contextlib.contextmanager
def replacing(target: Path, *, partial: Path | None = None) -> Iterator[Path]:
    """A hidden neighbour of ``target``, to be made in the block; it takes that name at the end, or goes on a failure.

    It may become a file, which replaces one of that name, or a folder, which replaces an empty one. Its own name is new
    each time; ``partial`` gives it a fixed one, so that a killed process's is found, and removed, by the next. The
    folder of ``target`` has to exist. Raises :class:`UserError` if the name cannot be taken.
    """
    if partial is None:
        ending = f".{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}"
        shown = os.fsencode(target.name)[: NAME_BYTES - 1 - len(ending)].decode("utf-8", "ignore")
        partial = target.with_name(f".{shown}{ending}")
    else:
        remove(partial)
    try:
        yield partial
        with reported_local(target):
            if partial.is_file():
                sync(partial)
            os.replace(partial, target)
    finally:
        remove(partial)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Make or replace a UTF-8 text file, whole or not at all. Raises :class:`UserError` if it cannot be written."""
    with reported_local(path), replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append(path: Path, data: bytes) -> None:
    """Append to a file, which is made if there is none. Raises ``OSError``, with nothing of it appended."""
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)  # half of it would spoil what comes next
            raise


def sync(path: Path) -> None:
    """Bytes before the name, also for the machine that loses power."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """The names in a folder, as :func:`sync` the bytes of a file; where a file system cannot, it is left to it."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse it
            os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def reported_local(path: Path, deed: str = "written") -> Iterator[None]:
    """Failures of a local disk as a :class:`UserError`, but for a missing file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise UserError(f"{path} cannot be {deed} ({reason}): {advice(error)}.") from error
