"""Ends the processes of a command's own Ray when the command was killed. Run by path, beside that command.

Ray's own agents notice that their machine's Ray is gone, and then try for a minute to tell it so.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

GRACE = 8.0
"""Seconds that the processes get to end by themselves."""
DONE = b"done"
"""What the command says when it has ended its Ray itself."""


def begun(pid: int) -> str | None:
    """When a process was started, in the kernel's words; None: there is none. A number may come to be another's."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else fields[19].decode()


def end(processes: dict[int, str]) -> None:
    """Wait for processes, given with when they were started, and kill those that are still there after a while."""
    deadline = time.monotonic() + GRACE
    while any(begun(pid) == start for pid, start in processes.items()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid, start in processes.items():
        if begun(pid) == start:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    # The end of the pipe is the end of the command, however it came. What is in it: a process a line.
    said = sys.stdin.buffer.read()
    if not said.endswith(DONE):
        lines = [line.split() for line in said.decode().splitlines()]
        end({int(words[0]): words[1] for words in lines if len(words) == 2})
