"""What is kept of a defect of ours: a file with the trace and the versions, for whoever mends it."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import secrets
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator
from importlib import metadata

from tecogan_dist.base.addresses import without_secrets

PACKAGES = ("tecogan_dist", "torch", "ray", "numpy", "av", "deepspeed")


def report(error: BaseException) -> str:
    """Write the file, and return the sentence that names it and says what to do with it."""
    lines = traceback.format_exception_only(error)
    what = without_secrets(" ".join(lines[-1].split()) if lines else type(error).__name__)[:300].rstrip(".")
    text = without_secrets(_contents(error))
    for folder in _folders():
        with contextlib.suppress(OSError):
            path = _write(folder, text)
            return f"{what}; please report it with the file {path}, which says where it happened."
    return (
        f"{what}; no file about it could be written: set TMPDIR to a folder that can be, or TECOGAN_TRACE=1, which "
        "prints where it happened, and report that."
    )


def _folders() -> Iterator[str]:
    with contextlib.suppress(OSError):  # none can be written
        yield tempfile.gettempdir()
    with contextlib.suppress(OSError):  # it was deleted
        yield os.getcwd()


def _write(folder: str, text: str) -> str:
    """Write a file that is new and only for its owner. Raises ``OSError``; nothing is left then."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = os.path.join(folder, f"tecogan-error-{now}-{secrets.token_hex(4)}.txt")
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    return path


def _contents(error: BaseException) -> str:
    versions = [f"{name} {_version(name)}" for name in PACKAGES]
    return "\n".join(
        [
            f"command: {shlex.join(sys.argv)}",
            f"versions: Python {platform.python_version()}, {', '.join(versions)}",
            f"system: {platform.platform()}",
            "",
            "".join(traceback.format_exception(error)),
        ]
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"
