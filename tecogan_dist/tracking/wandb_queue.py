"""A thread that speaks to W&B, so that nothing of a step waits for it: a queue of what is to be done, with an end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from tecogan_dist.base.console import printable

QUEUE_LENGTH = 4096
"""Records that wait at most: at a record each 20 steps those of 80,000 steps, 20 MB."""

Deed = Callable[[], None]


class WandbQueue:
    """Does deeds one after the other. ``begin`` is the first: if it raises or returns False, the others are left out.

    A deed that raises costs itself and, for the first one, a line.
    """

    def __init__(self, begin: Callable[[], bool], *, say: Callable[[str], None]) -> None:
        self._say = say
        self._waiting: queue.SimpleQueue[Deed | None] = queue.SimpleQueue()
        self._has_failed = self._was_full = False
        self.left_out = 0
        """Deeds for which there was no room."""
        self._thread = threading.Thread(target=self._run, args=(begin,), name="wandb", daemon=True)
        self._thread.start()

    def put(self, deed: Deed) -> None:
        """Have it done. Does not wait: without room it is left out, which is said once."""
        if self._waiting.qsize() < QUEUE_LENGTH:
            self._waiting.put(deed)
            return
        self.left_out += 1
        if not self._was_full:
            self._was_full = True
            self._say(
                f"warning: W&B's client has not taken {QUEUE_LENGTH} records: those that follow are left out at "
                "W&B until it does; metrics.jsonl and TensorBoard have them"
            )

    def end(self, *last: Deed, seconds: float) -> bool:
        """Have the ``last`` deeds done too, for which there is room; wait, but not longer; whether all is done."""
        for deed in (*last, None):
            self._waiting.put(deed)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self, begin: Callable[[], bool]) -> None:
        try:
            is_on = begin()
        except Exception as error:  # whatever the client raises: a run does not end for it
            self._say(
                f"warning: this attempt is not recorded at W&B ({_reason(error)}); "
                "metrics.jsonl and TensorBoard have it"
            )
            is_on = False
        while (deed := self._waiting.get()) is not None:
            if not is_on:
                continue
            try:
                deed()
            except Exception as error:
                self._failed(error)

    def _failed(self, error: Any) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._say(f"warning: W&B lacks a record ({_reason(error)}); metrics.jsonl and TensorBoard have it")


def _reason(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}", limit=200)
