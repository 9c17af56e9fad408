"""Modules that are imported in a thread of their own: beside what a command waits for, and away from Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib
import threading


def import_aside(*names: str) -> threading.Thread:
    """Import modules in the thread that is returned.

    Whoever needs one imports it as ever, which waits for what has begun, and raises what cannot be done. Meanwhile this
    thread should import nothing of the same library, which both could see half made; and not be interrupted where it
    may import anything at all: Python then loses a lock that the other thread waits for.
    """

    def run() -> None:
        for name in names:
            with contextlib.suppress(Exception):  # raised again where it is needed
                importlib.import_module(name)

    thread = threading.Thread(target=run, name="imports", daemon=True)
    thread.start()
    return thread
