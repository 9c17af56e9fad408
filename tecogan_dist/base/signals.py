"""Ctrl-C and SIGTERM stay what a command made them, whatever a library that is started sets them to."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from tecogan_dist.base.errors import SIGNALS


@contextlib.contextmanager
def keeping_handlers() -> Iterator[None]:
    """As before when it is left. Ray's own handlers print addresses of its code, and end a process with status 15 or by
    an alarm."""
    before = {kind: signal.getsignal(kind) for kind in SIGNALS}
    try:
        yield
    finally:
        for kind, handler in before.items():
            if handler is not None:
                with contextlib.suppress(ValueError):  # outside the main thread nobody sets any
                    signal.signal(kind, handler)


@contextlib.contextmanager
def interrupted_afterwards() -> Iterator[None]:
    """The first Ctrl-C or SIGTERM meanwhile is handled when it is left, a second one at once.

    For what starts processes with Python's code in between (``preexec_fn``), as Ray does. What a handler raises in
    there is lost, and logging's lock with it: the process would go on, and wait for that for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # outside the main thread nobody sets any
        return
    before, arrived = {kind: signal.getsignal(kind) for kind in SIGNALS}, list[int]()
    is_over = False

    def keep(number: int, frame: FrameType | None) -> None:
        handler = before[signal.Signals(number)]
        if (arrived or is_over) and callable(handler):
            handler(number, frame)
        arrived.append(number)

    for kind, handler in before.items():
        if callable(handler):
            signal.signal(kind, keep)
    try:
        yield
    finally:
        is_over = True
        for kind, handler in before.items():
            if callable(handler):
                signal.signal(kind, handler)
        if arrived:
            signal.raise_signal(arrived[0])
