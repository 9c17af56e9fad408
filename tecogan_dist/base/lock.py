"""One writer at a time, also where a file system knows no locks."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import socket
import sys
import threading
import time
import uuid
from types import TracebackType
from typing import Self

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location

LOCK_NAME = ".lock"
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A claim that was not renewed for so long is a dead process's; its owner, should it live, claims anew before that."""


class WriterLock:
    """The right to write below a folder, held by at most one process.

    Use it as a context manager, and :meth:`check` before every write. Locally it is the system's lock of a file, which
    ends with the process. On an object store it is a folder of claims, one object for each process that wants the lock,
    renewed while it lives: a process puts its own claim there and *then* looks for others, so that of two at least one
    sees the other, whatever their clocks say (the store's own clock dates all claims). Raises :class:`UserError` if
    another process holds it.
    """

    def __init__(self, folder: Location) -> None:
        self._folder, self._location = folder, folder / LOCK_NAME
        self._stack = contextlib.ExitStack()
        self._claim = self._location / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._renewed = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._location.is_local:
            self._lock_file()
        else:
            self._make_claim()
            self._thread = threading.Thread(target=self._keep_renewing, name="writer-lock", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            with contextlib.suppress(UserError, FileNotFoundError):  # it goes stale by itself
                self._claim.delete()

    def check(self) -> None:
        """Raise :class:`UserError` if the lock was lost, as happens to a process that was stopped for a while."""
        if not self._location.is_local and not self._is_fresh():
            self._make_claim()

    def _lock_file(self) -> None:
        folder = self._folder.path
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(open(self._location.path, "wb"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._stack = stack.pop_all()
        except BlockingIOError as error:
            raise UserError(f"another process is writing to {folder}: wait for its end.") from error
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}).") from error

    def _make_claim(self) -> None:
        """Claim, and wait until the claims of others are renewed (they live) or stale (they are removed)."""
        seen: dict[str, datetime.datetime] = {}
        while True:
            self._renew()
            times = {entry.base_name: entry.mtime for entry in self._location.entries()}
            now = times.pop(self._claim.name)
            for name, renewed in list(times.items()):
                if (now - renewed).total_seconds() > STALE_SECONDS:
                    with contextlib.suppress(FileNotFoundError):
                        (self._location / name).delete()
                    del times[name]
            alive = [name for name, renewed in times.items() if renewed > seen.get(name, renewed)]
            if alive:
                self._claim.delete()
                raise UserError(f"another process ({alive[0]}) is writing to {self._folder}: wait for its end.")
            if not times:
                return
            if not seen:
                print(
                    f"{self._folder} is locked by {', '.join(times)}: waiting up to {STALE_SECONDS:.0f} s for a sign "
                    "of life",
                    file=sys.stderr,
                    flush=True,
                )
            seen = times | seen
            time.sleep(HEARTBEAT_SECONDS / 2)

    def _renew(self) -> None:
        began = time.time()  # it goes on while a laptop sleeps, the monotonic clock does not
        self._claim.write_bytes(b"claimed")
        self._renewed = began

    def _is_fresh(self) -> bool:
        return time.time() - self._renewed < STALE_SECONDS / 2

    def _keep_renewing(self) -> None:
        """A claim that is not fresh any more is left to :meth:`check`: another process may have taken over."""
        while not self._ended.wait(HEARTBEAT_SECONDS):
            if self._is_fresh():
                with contextlib.suppress(UserError):  # a store that does not answer now may do so the next time
                    self._renew()
