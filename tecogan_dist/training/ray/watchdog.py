"""Ends a worker that hangs, so that Ray Train replaces it: a collective that waits for a lost peer waits for ever."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

HUNG = 70
"""Exit status of a worker that was found hanging."""
GRACE = 2.0
"""Seconds for the last words to get out."""
SPOKEN_FOR = 15.0
"""Seconds for which the first worker is left to speak, and end, for all."""


class Watchdog:
    """Calls ``say`` and ends the process if :meth:`heartbeat` is not called for ``timeout`` seconds.

    The first step has ten times as long: data streams and engines start, kernels are chosen.
    """

    def __init__(self, timeout: float, *, say: Callable[[str], None], rank: int) -> None:
        self._timeout, self._say, self._rank = timeout, say, rank
        self._patience = SPOKEN_FOR if rank else 0.0
        self._deadline = time.monotonic() + 10 * timeout
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def heartbeat(self, patience: float = 0.0) -> None:
        """The worker has got further; it may be quiet for ``patience`` seconds beyond the timeout."""
        self._deadline = time.monotonic() + self._timeout + patience

    def close(self) -> None:
        """The worker has ended by itself."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._timeout / 4)):
            if time.monotonic() > self._deadline + self._patience:
                self._say(
                    f"worker {self._rank} has not finished a step for {self._timeout:.0f} s (cluster.step_timeout): it "
                    "or one that it waits for hangs, the workers are replaced"
                )
                time.sleep(GRACE)
                os._exit(HUNG)
