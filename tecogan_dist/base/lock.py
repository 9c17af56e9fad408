"""One writer at a time, also where a file system knows no locks."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import NAME_BYTES, check_name
from tecogan_dist.base.lock_files import LocksUnknownError, TakenError, held_file, held_folder
from tecogan_dist.base.owners import Owner
from tecogan_dist.base.storage import Location, UnreachableError, make_folder

LOCK_NAME = ".lock"
CLAIMS_NAME = ".lock_claims"
"""In place of the lock, on a local file system that knows no locks."""
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A claim that was not renewed for so long is a dead process's; its owner, should it live, claims anew before that."""
CLAIM_BYTES = 4096
OUTPUT_SUFFIX = ".tecogan_lock"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Writer:
    """A process that holds a folder's lock or wants it, or did until it died."""

    owner: Owner | None
    """None for a line that cannot be read."""
    renewed: datetime.datetime | None
    """When its claim was renewed, by the store's clock; None for a lock of the system's, which nobody renews."""

    def lives(self, now: datetime.datetime) -> bool | None:
        """Whether it is there; None where that cannot be told from here."""
        if self.owner is not None and self.owner.is_dead():
            return False
        if self.renewed is not None:
            return (now - self.renewed).total_seconds() < STALE_SECONDS
        return True if self.owner is not None and self.owner.is_at_work() else None


def writers_of(folder: Location) -> list[Writer]:
    """Who has, or had, the right to write below a folder (:class:`WriterLock`). Takes no lock and changes nothing."""
    if not folder.is_local:
        return _claimers(folder / LOCK_NAME)
    found = _claimers(folder / CLAIMS_NAME)
    with contextlib.suppress(FileNotFoundError):
        line = (folder / LOCK_NAME).read_bytes(limit=CLAIM_BYTES)
        found += [Writer(owner=Owner.parse(line), renewed=None)] if line else []
    return found


def _claimers(claims: Location) -> list[Writer]:
    found = []
    for entry in claims.entries():
        with contextlib.suppress(FileNotFoundError):  # it ends now
            line = (claims / entry.base_name).read_bytes(limit=CLAIM_BYTES)
            found.append(Writer(owner=Owner.parse(line), renewed=entry.mtime))
    return found


@contextlib.contextmanager
def output_lock(target: Path) -> Iterator[None]:
    """The right to write a local output file or folder, held by at most one process, in the block.

    It is the system's lock of a hidden neighbour, ``.NAME.tecogan_lock``, which is removed at the end; where none can
    be made, of the folder itself. It ends with the process, however that ends. Missing folders above ``target`` are
    made. Raises :class:`UserError` if another process holds it, naming that, or if ``target`` cannot be written.
    """
    check_name(str(target))
    target = Location.of(target).absolute().path  # one name for one place
    name = target.name.encode("utf-8", "surrogateescape")[: NAME_BYTES - 1 - len(OUTPUT_SUFFIX)]
    neighbour = target.with_name(f".{name.decode('utf-8', 'ignore')}{OUTPUT_SUFFIX}") if target.name else None
    with contextlib.ExitStack() as stack:
        try:
            if neighbour is not None:
                make_folder(target.parent)
            if neighbour is None or not stack.enter_context(held_file(neighbour, temporary=True, of=target)):
                stack.enter_context(held_folder(target))
        except TakenError as error:
            raise UserError(f"another process ({error}) is writing {target}: wait for its end.") from error
        except LocksUnknownError as error:
            raise UserError(
                f"the file system of {target} knows no locks ({error}), so that two commands could write there at "
                "once: mount it with locks, or write elsewhere."
            ) from error
        yield


class WriterLock:
    """The right to write below a folder, held by at most one process.

    Use it as a context manager, and :meth:`check` before every write. Locally it is the system's lock of a file, which
    ends with the process. On an object store, and on a local file system that knows no locks, it is a folder of claims,
    one object for each process that wants the lock, renewed while it lives: a process puts its own claim there and
    *then* looks for others, so that of two at least one sees the other, whatever their clocks say (the store's own
    clock dates all claims). Raises :class:`UserError` if another process holds it.
    """

    def __init__(self, folder: Location) -> None:
        self._folder, self._claims = folder, folder / LOCK_NAME
        self._stack = contextlib.ExitStack()
        self._name = f"{Owner.me().host}-{Owner.me().pid}-{uuid.uuid4().hex[:8]}"
        self._is_held = False
        self._renewed = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._folder.is_local and self._lock_file():
            return self
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
            self._withdraw()

    def check(self) -> None:
        """Raise :class:`UserError` if the lock was lost, as happens to a process that was stopped for a while."""
        if self._thread is not None and not self._is_fresh():
            self._make_claim()

    def _lock_file(self) -> bool:
        """Whether this file system knows locks."""
        folder = self._folder.path
        make_folder(folder)
        try:
            if not self._stack.enter_context(held_file(folder / LOCK_NAME)):
                raise UserError(f"{folder} cannot be written: check its permissions and its owner.")
        except TakenError as error:
            raise UserError(f"another process ({error}) is writing to {folder}: wait for its end.") from error
        except LocksUnknownError as error:
            print(f"{folder} is on a file system without locks ({error}): claims take their place", file=sys.stderr)
            self._claims = self._folder / CLAIMS_NAME
            return False
        return True

    def _make_claim(self) -> None:
        """Claim, and wait until the claims of others are renewed (they live) or stale (they are removed)."""
        seen: dict[str, datetime.datetime] = {}
        while True:
            self._renew()
            times = {entry.base_name: entry.mtime for entry in self._claims.entries()}
            now = times.pop(self._name, None)
            if now is None:  # another process took it for stale
                continue
            owners = {name: self._owner(name) for name in times}
            for name, owner in owners.items():
                if (now - times[name]).total_seconds() > STALE_SECONDS or (owner is not None and owner.is_dead()):
                    with contextlib.suppress(FileNotFoundError):
                        (self._claims / name).delete()
                    del times[name]
            if not times:
                self._is_held = True
                self._renew()
                return
            for name in sorted(times):
                owner = owners[name]
                holds = owner is None or owner.holds
                lives = times[name] > seen.get(name, times[name]) or (owner is not None and owner.is_at_work())
                # Of several that want it at once, the first by name goes on.
                if lives and (holds or name < self._name):
                    self._withdraw()
                    raise UserError(
                        f"another process ({owner or name}) is writing to {self._folder}: wait for its end."
                    )
            if not seen:
                print(
                    f"{self._folder} is locked by {', '.join(times)}: waiting up to {STALE_SECONDS:.0f} s for a sign "
                    "of life",
                    file=sys.stderr,
                    flush=True,
                )
            seen = times | seen
            time.sleep(HEARTBEAT_SECONDS / 2)

    def _owner(self, name: str) -> Owner | None:
        with contextlib.suppress(UserError, FileNotFoundError):
            return Owner.parse((self._claims / name).read_bytes(limit=CLAIM_BYTES))
        return None

    def _renew(self) -> None:
        began = time.time()  # it goes on while a laptop sleeps, the monotonic clock does not
        (self._claims / self._name).write_bytes(Owner.me(holds=self._is_held).line())
        self._renewed = began

    def _withdraw(self) -> None:
        with contextlib.suppress(UserError, FileNotFoundError):  # it goes stale by itself
            (self._claims / self._name).delete()

    def _is_fresh(self) -> bool:
        return time.time() - self._renewed < STALE_SECONDS / 2

    def _keep_renewing(self) -> None:
        """A claim that is not fresh any more is left to :meth:`check`: another process may have taken over."""
        while not self._ended.wait(HEARTBEAT_SECONDS):
            if self._is_fresh():
                with contextlib.suppress(UnreachableError, UserError):  # what does not answer now may do so next time
                    self._renew()
