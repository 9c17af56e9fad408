"""Who holds a lock, as a line of text that other processes read, here or on another machine."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import socket
from pathlib import Path
from typing import Self

MARK = "tecogan_dist lock"
_LINE = re.compile(
    rf"{MARK}: pid (?P<pid>\d{{1,10}}) on (?P<host>[\w.-]{{1,255}}) machine (?P<machine>[\w:.-]{{1,200}})"
    r" started (?P<started>\d{1,20})(?P<holds> holding)?\n?",
    re.ASCII,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """A process that holds a lock or wants it."""

    pid: int
    host: str
    machine: str
    """This start of this machine, and the container on it: where the process has that number."""
    started: int
    """When, by the machine's clock; numbers of processes are used again."""
    holds: bool = False

    @classmethod
    def me(cls, *, holds: bool = False) -> Self:
        """This process."""
        pid = os.getpid()
        return cls(pid=pid, host=_host(), machine=_machine(), started=_started(pid) or 0, holds=holds)

    @classmethod
    def parse(cls, line: bytes) -> Self | None:
        """None for what is not such a line."""
        match = _LINE.fullmatch(line.decode("ascii", "replace"))
        if match is None:
            return None
        pid, host, machine, started, holds = match.group("pid", "host", "machine", "started", "holds")
        return cls(pid=int(pid), host=host, machine=machine, started=int(started), holds=holds is not None)

    def line(self) -> bytes:
        """For :meth:`parse`."""
        holding = " holding" if self.holds else ""
        text = f"{MARK}: pid {self.pid} on {self.host} machine {self.machine} started {self.started}{holding}\n"
        return text.encode("ascii", "replace")

    def is_dead(self) -> bool:
        """Whether it ran on this machine, in this container, and is gone; of others that is not known."""
        return self.machine == _machine() and _started(self.pid) != self.started

    def is_at_work(self) -> bool:
        """Whether it runs on this machine, in this container, and was not stopped; of others that is not known."""
        return self.machine == _machine() and _started(self.pid, unless="ZXTt") == self.started

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


@functools.cache
def _host() -> str:
    return re.sub(r"[^\w.-]", "_", socket.gethostname(), flags=re.ASCII)[:255] or "unknown"


@functools.cache
def _machine() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
    return f"unknown-{os.urandom(8).hex()}"


def _started(pid: int, *, unless: str = "ZX") -> int | None:
    """When the process began, in ticks since the machine's start; None if there is none, or in one of these states."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name of the program stands in parentheses and may have anything in it. A zombie (Z) is dead already.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in unless else int(fields[19])
    return None
