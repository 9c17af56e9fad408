"""Types of options: numbers that mean what they look like, and paths that can be read or written, judged at once."""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import SYSTEM_FOLDERS, check_name

MOST = 2**63 - 1
"""The largest number that all that we write can hold."""
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_elsewhere = contextvars.ContextVar("elsewhere", default=False)


def whole_number(minimum: int, maximum: int = MOST) -> Any:
    """An option's type: whole numbers from ``minimum`` to ``maximum``, written in digits."""

    def of(text: str) -> int:
        if not _WHOLE.fullmatch(text):
            raise ValueError
        return _within(int(text), minimum, maximum)

    of.__name__ = "whole number"  # argparse says "invalid whole number value"
    return of


def number(minimum: float = -math.inf, maximum: float = math.inf) -> Any:
    """An option's type: finite numbers from ``minimum`` to ``maximum``, written in digits, also as 1e-3."""

    def of(text: str) -> float:
        value = float(text) if _DECIMAL.fullmatch(text) else math.nan
        if not math.isfinite(value):
            raise ValueError
        return _within(value, minimum, maximum)

    of.__name__ = "number"
    return of


def input_path(text: str) -> Path:
    """An option's type: a local file or folder to read. Whether it is there and what it is, the reader says."""
    return Path(_local(text))


def output_path(text: str) -> Path:
    """An option's type: a local file or folder to write. It may exist, and folders above it may not."""
    _check_output(_local(text))
    return Path(text)


def input_place(text: str) -> str:
    """An option's type: something to read, local or on s3:// or gs:// or another URL."""
    return text if "://" in text else _local(text)


def output_place(text: str) -> str:
    """An option's type: something to write, local or on s3:// or gs://."""
    if "://" not in text:
        _check_output(_local(text))
    return text


def is_judged_elsewhere() -> bool:
    """Whether the options are for another machine."""
    return _elsewhere.get()


@contextlib.contextmanager
def judged_elsewhere() -> Iterator[None]:
    """Meanwhile paths are judged by their text alone: they are for another machine."""
    token = _elsewhere.set(True)
    try:
        yield
    finally:
        _elsewhere.reset(token)


def _within(value: Any, minimum: float, maximum: float) -> Any:
    if value < minimum:
        raise argparse.ArgumentTypeError(f"must be at least {minimum}, not {value}")
    if value > maximum:
        raise argparse.ArgumentTypeError(f"must be at most {maximum}, not {value}")
    return value


def _local(text: str) -> str:
    """The path. Raises ``ArgumentTypeError`` for what cannot be one on this machine or another."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise argparse.ArgumentTypeError(f"must be a local path, not {_quoted(text)}")
    try:
        check_name(text)
        if not _elsewhere.get():
            os.stat(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        pass  # the reader's or _check_output's to say
    except OSError as error:  # symbolic links in a circle, a network drive that is gone
        raise argparse.ArgumentTypeError(f"{_quoted(text)} cannot be used ({error.strerror})") from error
    return text


def _check_output(text: str) -> None:
    """Raise ``ArgumentTypeError`` for what no output may be or can be."""
    if Path(text).name in ("", "..") or os.path.normpath(text) in (".", "/", "//"):
        raise argparse.ArgumentTypeError(f"must name a file or folder of its own, not {_quoted(text)}")
    if _elsewhere.get():
        return
    real = os.path.realpath(text)
    if real == "/" or os.path.realpath(os.curdir).startswith(real.rstrip("/") + "/") or real == os.path.realpath("."):
        raise argparse.ArgumentTypeError(f"must name a file or folder of its own, not {_quoted(text)}")
    if any(real == folder or real.startswith(f"{folder}/") for folder in SYSTEM_FOLDERS) or (
        real.startswith("/dev/") and not real.startswith("/dev/shm/")
    ):
        raise argparse.ArgumentTypeError(f"{_quoted(text)} is among the system's own files, give another place")
    above = Path(real)
    while not os.path.lexists(above):
        above = above.parent
    if str(above) == real:
        mode = above.stat().st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise argparse.ArgumentTypeError(f"{_quoted(text)} is neither a file nor a folder, give another place")
        above = above if stat.S_ISDIR(mode) else above.parent
    if not above.is_dir():
        raise argparse.ArgumentTypeError(f"{_quoted(text)}: {_quoted(above)} is not a folder, give another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(
            f"{_quoted(text)}: nothing can be written in {_quoted(above)}, give another place"
        )


def _quoted(text: object) -> str:
    return f"'{printable(text, limit=100)}'"
