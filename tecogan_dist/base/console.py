"""What is shown on a terminal: names from outside without what could steer it, and streams that never raise."""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import sys
import unicodedata

LONGEST = 300
"""Characters of a text that is shown, where a caller does not say."""
LETTERS = ("\u200c", "\u200d")
"""Joiners that Persian, Indian scripts and emoji need; other invisible characters are escaped."""
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of controls, invisible marks (also those that turn the direction), surrogates, separators."""
CUT = " ... "


def printable(text: object, *, limit: int = LONGEST) -> str:
    """``text`` on one line, without anything that a terminal would obey, and at most ``limit`` characters long.

    Control characters, terminal escapes, marks that turn the direction of writing and lone surrogates are shown as
    Python writes them (``\\n``, ``\\x1b``, ``\\u202e``). What is too long loses its middle.
    """
    limit = max(limit, len(CUT) + 2)
    # Cut first: a text of gigabytes is not to be walked through.
    characters = _shortened(str(text), limit)
    return _shortened("".join(map(_shown, characters)), limit)


def prepare_streams() -> None:
    """Make the standard streams usable: characters that a terminal cannot show are escaped, closed ones go nowhere.

    A program that was started without standard output (``>&-``) would write what it prints into its next file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue  # somebody has opened it since
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print a line on standard error; if nobody can read it, that is no reason to fail."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def flush() -> None:
    """Write what was printed. Raises ``OSError``, as ``BrokenPipeError``, if it cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError):  # it is closed
            stream.flush()


def reader_is_gone() -> bool:
    """Whether standard output or standard error is a pipe that nobody reads any more."""
    for number in (1, 2):
        poll = select.poll()
        poll.register(number, 0)  # errors are always told
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            return True
    return False


def output_is_full() -> bool:
    """Whether standard output is a file on a disk without space, or the device that plays one."""
    try:
        status = os.fstat(1)
        if stat.S_ISCHR(status.st_mode):
            return status.st_rdev == os.stat("/dev/full").st_rdev
        return stat.S_ISREG(status.st_mode) and os.fstatvfs(1).f_bavail == 0
    except OSError:
        return False


def silence() -> None:
    """Send what is still printed, also by libraries at the end of the process, nowhere."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)


def _shown(character: str) -> str:
    if unicodedata.category(character) in HIDDEN and character not in LETTERS:
        return character.encode("unicode_escape").decode("ascii")
    return character


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    end = (limit - len(CUT)) // 3
    return text[: limit - len(CUT) - end] + CUT + text[-end:]
