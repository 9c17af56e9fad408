"""How often Ray Data's scheduler attends to a training stream. It travels to the stream's tasks: no torch here."""

from __future__ import annotations

import threading
import time
from typing import Any

from tecogan_dist.cluster.internals.ray_data import ExecutionCallback

SCHEDULING_PAUSES = 0.02, 0.1
"""Seconds between two rounds of Ray Data's scheduler: while a batch is waited for, and at most. A round starts and
collects any number of tasks."""
WANTED = threading.Event()
"""Set while a stream of this process waits for windows."""


class Unhurried(ExecutionCallback):
    """Lets the scheduler sleep between two rounds.

    Its thread runs inside the training process and, once the stream is far enough ahead, does not wait for anything:
    it took a whole core, and the interpreter lock from the training step (Ray 2.60, py-spy). With pauses of 0.02 s it
    still took 7 to 10% of a core at 3 steps a second; with longer ones while nothing is waited for, 3%.
    """

    def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002
        shortest, longest = SCHEDULING_PAUSES
        time.sleep(shortest)
        WANTED.wait(longest - shortest)
