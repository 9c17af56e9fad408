"""The end of a command whose own Ray has lost one of the processes that it cannot do without.

Ray would end the command too, after ten seconds or a minute, with status 1 and lines of its own.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from tecogan_dist.base import console
from tecogan_dist.base.errors import FAILED
from tecogan_dist.cluster.internals.ray_core import lost_processes

SECONDS = 0.5
"""Between looks."""


@contextlib.contextmanager
def ending_when_lost() -> Iterator[None]:
    """In the block, end this process in a sentence, with status 2, when the Ray that it has started falls apart.

    At once, since nothing that waits for Ray would come back: what the command has begun is left as by a SIGKILL.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(ended,), name="lost-ray", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _watch(ended: threading.Event) -> None:
    while not ended.wait(SECONDS):
        lost = lost_processes()
        if lost:
            with contextlib.suppress(OSError):
                console.flush()
            console.say(
                f"error: Ray's own {' and '.join(lost)} inside this command was ended from outside, and nothing runs "
                "without it: check that the machine has enough memory, and start the same command again; what was "
                "complete is kept."
            )
            os._exit(FAILED)
