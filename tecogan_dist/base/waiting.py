"""Waits that have an end: a server that goes on answering one byte at a time is given up after a while.

The libraries below us notice a server that is silent, but not one that trickles. What is called here runs in a thread
of its own; when its time is over, its connections to that server are cut, so that no thread is left behind that would
hold up the end of the process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

SAY_SECONDS = 15.0
"""A wait that is longer says what it waits for."""
CUT_SECONDS = 20.0
"""For how long connections are cut: the library tries a few times more before it gives up."""
Server = tuple[str, int]
"""Host and port."""
T = TypeVar("T")


class TooSlowError(Exception):
    """The time was over."""


def within(seconds: float, action: Callable[[], T], *, what: str, server: Server | None = None) -> T:
    """What ``action`` returns or raises, if it ends in so many seconds. Raises :class:`TooSlowError` if not.

    ``what`` is waited for, as in "s3://films/store to answer". Of the ``server`` that the action talks to, this
    process's connections are cut when the time is over.
    """
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((True, action()))
        except BaseException as error:  # the caller's to handle
            outcome.append((False, error))

    thread = threading.Thread(target=run, name="within", daemon=True)
    thread.start()
    thread.join(min(SAY_SECONDS, seconds))
    if thread.is_alive() and seconds > SAY_SECONDS:
        print(f"waiting for {what}, {seconds:.0f} s at most", file=sys.stderr, flush=True)
        thread.join(seconds - SAY_SECONDS)
    if thread.is_alive():
        _end(thread, server)
        raise TooSlowError(f"{seconds:.0f} s were not enough")
    is_done, value = outcome.pop()
    if is_done:
        return cast(T, value)
    raise value


def _end(thread: threading.Thread, server: Server | None) -> None:
    if server is None:
        return
    addresses = _addresses(server)
    until = time.monotonic() + CUT_SECONDS
    while thread.is_alive() and time.monotonic() < until:
        _cut(addresses)
        thread.join(0.1)


def _addresses(server: Server) -> set[tuple[str, int]]:
    with contextlib.suppress(OSError, UnicodeError):
        return {(str(found[4][0]), server[1]) for found in socket.getaddrinfo(*server, type=socket.SOCK_STREAM)}
    return set()


def _cut(addresses: set[tuple[str, int]]) -> None:
    """Shut down this process's connections to these addresses, whoever opened them."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError, ValueError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as copy:  # a copy: its owner closes the original
                    if copy.getpeername()[:2] in addresses:
                        copy.shutdown(socket.SHUT_RDWR)
