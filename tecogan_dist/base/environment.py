"""What the environment says of this machine's folders, judged before anything is started that would stumble later."""

from __future__ import annotations

import os
from pathlib import Path

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError

SOCKET_BYTES = 107
"""Linux's limit of a socket's path."""
RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of Ray's below its folder: the number is a process's."""
LEAST_SPACE = 20_000_000
"""Bytes that Ray's sockets and logs need at the very least."""
ADVICE = "let RAY_TMPDIR name a folder on a local disk, with a short absolute path, that you may write to"


def check_ray_folder() -> None:
    """Raise :class:`UserError` if a Ray that this process starts could not use its folder for sockets and logs.

    Ray takes ``RAY_TMPDIR``, else ``TMPDIR``, else /tmp. It would end in a trace, or wait for minutes for a process
    that cannot start.
    """
    variable, folder = _ray_folder()
    named = f"{variable} is {printable(repr(folder), limit=150)}" if variable else f"Ray's folder is {folder}"
    if not os.path.isabs(folder):
        raise UserError(f"{named}, and Ray needs an absolute path for its sockets and logs: {ADVICE}.")
    most = SOCKET_BYTES - len(RAY_SOCKET)
    if len(os.fsencode(folder.rstrip("/"))) > most:
        raise UserError(f"{named}, which is too long for Ray's sockets, {most} bytes at most: {ADVICE}.")
    for path in (Path(folder, "ray"), Path(folder)):
        _check_writable(path, named)


def _ray_folder() -> tuple[str, str]:
    """The variable that names it, if any does, and its path."""
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        if variable in os.environ:
            return variable, os.environ[variable]
    return "", "/tmp"


def _check_writable(path: Path, named: str) -> None:
    """Raise :class:`UserError` unless ``path`` is a folder with some space that can be written, or can be made."""
    try:
        there = path
        while not os.path.lexists(there):
            there = there.parent
        if not there.is_dir():
            raise UserError(f"{named}, and {there} is not a folder, so that Ray cannot use it: {ADVICE}.")
        if not os.access(there, os.W_OK | os.X_OK) or str(there).startswith(("/proc", "/sys")):
            raise UserError(f"{named}, and nothing can be written in {there}, as Ray has to: {ADVICE}.")
        status = os.statvfs(there)
    except OSError as error:
        raise UserError(f"{named}, which Ray cannot use ({error.strerror}): {ADVICE}.") from error
    space = status.f_bavail * status.f_frsize
    if space < LEAST_SPACE:
        raise UserError(f"{named}, where {space / 1e6:.0f} MB are free, too few for Ray: free some, or {ADVICE}.")
