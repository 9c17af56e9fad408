"""What Ray's workers print: kept for when one of them dies, or shown as it comes.

By default Ray shows everything that any process prints: imports, progress of its own data tasks, notes of its
controllers. Of that nothing is shown here, but the last lines of each process are kept on the driver, because a process
that dies (killed by a signal, in a library's C code) can explain itself nowhere else.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

from tecogan_dist.base.chatter import is_verbose
from tecogan_dist.cluster.internals.ray_core import handling_worker_lines

KEPT_LINES, KEPT_PROCESSES = 40, 512
"""Of each process its last ones, and of the processes those that printed last."""
LONGEST = 2000
"""Characters of a line."""
PATIENCE = 2.0
"""Seconds in which the last lines of a dead process get here: Ray's log monitors look for new ones twice a second."""


class WorkerOutput:
    """The last lines of each process, by its number and its machine's address."""

    def __init__(self) -> None:
        self._lines: collections.OrderedDict[tuple[str, str], collections.deque[str]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def take(self, batch: dict[str, Any]) -> None:
        """A batch of lines as Ray's driver gets it, in a thread of Ray's."""
        place = str(batch.get("pid")), str(batch.get("ip"))
        with self._lock:
            kept = self._lines.pop(place, None) or collections.deque[str](maxlen=KEPT_LINES)
            kept.extend(str(line)[:LONGEST] for line in batch.get("lines", ()))
            self._lines[place] = kept
            while len(self._lines) > KEPT_PROCESSES:
                self._lines.popitem(last=False)

    def last(self, pid: int, ip: str, *, patience: float = PATIENCE) -> list[str]:
        """The last lines of a process that has ended, waiting for them; each is given once."""
        deadline = time.monotonic() + patience
        while True:
            with self._lock:
                found = self._lines.get((str(pid), ip))
            if found is not None or time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        time.sleep(min(0.5, patience) if found is not None else 0)  # what follows the first of them
        with self._lock:
            return list(self._lines.pop((str(pid), ip), ()))


_output = WorkerOutput()


def ray_logging(*, client: bool = False) -> dict[str, Any]:
    """Arguments of ``ray.init`` about what is logged and printed. Through Ray's client lines cannot be kept."""
    if is_verbose():
        return {"log_to_driver": True, "logging_level": logging.INFO}
    return {"log_to_driver": not client, "logging_level": logging.ERROR}


@contextlib.contextmanager
def worker_output() -> Iterator[None]:
    """Meanwhile what the connected Ray's workers print is kept, or with ``--verbose`` shown, as Ray does it."""
    if is_verbose():
        yield
        return
    with handling_worker_lines(_output.take):
        yield


def last_words(pid: int, ip: str) -> list[str]:
    """What a process of the connected Ray printed last, if that is kept."""
    return _output.last(pid, ip)
