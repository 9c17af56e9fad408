"""Who trains into a run's folder: one command at a time, and no process of an earlier one any more.

The command's own process holds the folder's lock. Its workers do not, and may outlive it for a while: so each command
writes a word of its own into the folder, its workers get it with their task, and before anything is written there they
look whether it is still theirs.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from types import TracebackType
from typing import Self

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import CLAIMS_NAME, LOCK_NAME, WriterLock
from tecogan_dist.base.storage import Location

OWNER_FILE = ".owner"
OWN_NAMES = (LOCK_NAME, CLAIMS_NAME, OWNER_FILE)
"""What is here in a run's folder; one that holds nothing else is as good as empty."""
OWNER_BYTES = 4096
_LINE = re.compile(rb"tecogan_dist run: ([0-9a-f]{32})\n?")


class TakenOverError(UserError):
    """Another command has taken the run over. What notices it has nothing to write any more."""


class Ownership:
    """The right to train into a run's folder: a context manager. Nothing is done before :meth:`take`.

    If nothing was made of the run at the end, what this class put there goes away again.
    """

    def __init__(self, run: Location, *, made: str) -> None:
        """``made`` is the name of the file that a run begins with."""
        self._run, self._made = run, made
        self._stack = contextlib.ExitStack()
        self._lock: WriterLock | None = None
        self._was_there = True
        self.word: str | None = None
        """This command's, once it is the owner."""

    def __enter__(self) -> Self:
        return self

    def take(self) -> None:
        """Become the owner, if that is not so already. Raises :class:`UserError` if another process is."""
        if self._lock is not None:
            return
        self._was_there = self._run.exists()
        lock = WriterLock(self._run)
        self._stack.enter_context(lock)
        self._lock = lock
        self.word = claim(self._run)

    def check(self) -> None:
        """Raise :class:`UserError` if the run is another's by now."""
        if self._lock is not None:
            self._lock.check()
            check_owner(self._run, self.word)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if self._lock is not None:
                with contextlib.suppress(UserError, OSError):
                    self._clear()
        if self._lock is not None and not self._was_there and self._run.is_local:
            with contextlib.suppress(UserError, OSError):
                self._run.delete_folder()

    def _clear(self) -> None:
        if (self._run / self._made).exists():
            return
        names = [OWNER_FILE, LOCK_NAME] if self._run.is_local and not self._was_there else [OWNER_FILE]
        for name in names:
            if (self._run / name).is_file():
                (self._run / name).delete()


def claim(run: Location) -> str:
    """Write a new word of this process's into the run's folder, and return it. Raises :class:`UserError`."""
    file, word = run / OWNER_FILE, uuid.uuid4().hex
    with contextlib.suppress(FileNotFoundError):
        if not _LINE.fullmatch(file.read_bytes(limit=OWNER_BYTES)):
            raise UserError(f"{file} is not a file of tecogan's: move it away, or give --output a new folder.")
    file.write_bytes(f"tecogan_dist run: {word}\n".encode())
    return word


def check_owner(run: Location, word: str | None) -> None:
    """Raise :class:`TakenOverError` if the run's folder has another word by now. None: nobody has to be asked."""
    if word is None:
        return
    with contextlib.suppress(FileNotFoundError):
        found = _LINE.fullmatch((run / OWNER_FILE).read_bytes(limit=OWNER_BYTES))
        if found is None or found[1].decode() != word:
            raise TakenOverError(f"another command has taken over {run}: this one writes nothing more there.")
