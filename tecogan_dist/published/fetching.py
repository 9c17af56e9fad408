"""An entry of the catalogue, from the cache or else from its addresses, one after the other."""

from __future__ import annotations

import dataclasses
import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tecogan_dist.base.addresses import shown_url
from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.progress import SECONDS_BETWEEN_LINES
from tecogan_dist.base.transfers import Limits, NoSpace
from tecogan_dist.base.web import Retrying, download, forget
from tecogan_dist.base.web_connections import Unavailable
from tecogan_dist.published.cache import VARIABLE, Cache, Cached, Damaged, Record, difference, file_record
from tecogan_dist.published.catalogue import LARGEST, Entry
from tecogan_dist.published.making import make

QUICK = Retrying(attempts=4, first_pause=1.0)
SECONDS = 4 * 3600.0
"""For one address."""
REASON_CHARACTERS = 250
Say = Callable[[str], None]


class NotFetched(UserError):
    """None of the addresses has it. ``short`` is why, without what to do about it and without a stop."""

    def __init__(self, text: str, *, short: str) -> None:
        super().__init__(text)
        self.short = short


class Changed(UserError):
    """An address has another file than the one that was recorded when it was first fetched."""


def say_to_stderr(line: str) -> None:
    """A line on standard error: standard output is a command's result."""
    print(printable(line, limit=2000), file=sys.stderr, flush=True)


def obtain(
    entry: Entry, cache: Cache, *, say: Say = say_to_stderr, again: bool = False, retrying: Retrying = QUICK
) -> Cached:
    """The entry in the cache, which it is brought to if it is not there, or damaged there, or wanted ``again``.

    Of two processes at once, one fetches it and the other waits. Raises :class:`NotFetched`, whose sentence says what
    to do by hand, and other :class:`UserError`.
    """
    if not again:
        there = _look(entry, cache, say)
        if there is not None:
            return there
    if not entry.addresses and not cache.by_hand(entry).is_file():
        raise _no_address(entry, cache)
    before = _recorded(entry, cache)
    with cache.writing(entry):
        there = _look(entry, cache, say)  # another process may have fetched it meanwhile
        if there is not None and (not again or there.record != before):
            return there
        return _fetch(entry, cache, say, retrying, before=_recorded(entry, cache))


def _look(entry: Entry, cache: Cache, say: Say) -> Cached | None:
    try:
        return cache.look(entry)
    except Damaged as error:
        say(f"{entry.name} in the cache is damaged and is fetched again: {error}")
        return None


def _recorded(entry: Entry, cache: Cache) -> Record | None:
    """What an earlier fetch has recorded, as far as it can still be read."""
    try:
        return cache.record(entry)
    except Damaged:
        return None


def _fetch(entry: Entry, cache: Cache, say: Say, retrying: Retrying, *, before: Record | None) -> Cached:
    reasons: list[str] = []
    by_hand = cache.by_hand(entry)
    if by_hand.is_file():
        try:
            return _kept(entry, cache, by_hand, address=str(by_hand), before=before, say=say)
        except (NoSpace, Changed):
            raise
        except UserError as error:
            reasons.append(f"{by_hand} is no use: {_reason(error, by_hand, 'it')}")
    cache.make_downloads()
    for address in entry.addresses:
        shown = shown_url(address)
        say(f"fetching {entry.name} from {shown}")
        try:
            return _from(address, entry, cache, say, retrying, before=before)
        except (NoSpace, Changed):
            raise
        except Unavailable as error:
            reasons.append(f"{shown} {_reason(error)}")
        except UserError as error:
            reason = _reason(error, cache.partial_download(address), "what it sends")
            reasons.append(reason if reason.startswith(f"{shown} ") else f"{shown}: {reason}")
    raise _nowhere(entry, cache, reasons)


def _from(address: str, entry: Entry, cache: Cache, say: Say, retrying: Retrying, *, before: Record | None) -> Cached:
    """The entry from one address. Raises :class:`UserError`; nothing of a wrong file stays."""
    partial = cache.partial_download(address)
    limits = Limits(bytes=entry.bytes or LARGEST, seconds=SECONDS)
    while True:
        is_continued = partial.exists()
        with _Ticker(entry.name, say) as ticker:
            download(address, partial, limits=limits, retrying=retrying, show=ticker.show)
        try:
            cached = _kept(entry, cache, partial, address=shown_url(address), before=before, say=say)
        except NoSpace:
            raise  # what has come is right, as far as is known
        except UserError:
            forget(partial)
            if not is_continued:
                raise
            say(f"{entry.name}: what an earlier command had fetched does not go with the rest, it is fetched anew")
        else:
            forget(partial)
            return cached


def _kept(entry: Entry, cache: Cache, file: Path, *, address: str, before: Record | None, say: Say) -> Cached:
    """The entry, made of a whole file. Raises :class:`UserError` for a wrong one."""
    found = file_record(file)
    wrong = difference(found, {"bytes": entry.bytes, "sha256": entry.sha256})
    if wrong is not None:
        raise UserError(f"it has {wrong}.")
    if before is not None and before.address == address and entry.sha256 is None:
        changed = difference(found, dataclasses.asdict(before.download))
        if changed is not None:
            raise Changed(
                f"{address} has another file than when {entry.name} was first fetched ({changed}), and which of them "
                "is right is not known here: what the cache has is kept; to trust the new one, remove "
                f"{cache.entry_folder(entry.name)} and fetch it again."
            )
    try:
        with cache.replacing(entry) as folder:
            note = make(entry, file, folder)
            cache.keep(folder, entry, address=address, download=found, note=note)
    except (OSError, UserError) as error:
        raise _not_made(error, cache) from error
    cached = cache.look(entry)
    if cached is None:
        raise UserError(f"{cache.entry_folder(entry.name)} was removed while it was made: fetch it again.")
    checked = "as published" if entry.sha256 else "recorded"
    say(f"{entry.name}: {note}; SHA-256 {found.sha256[:16]}... {checked}; kept in {cached.path}")
    return cached


def _not_made(error: OSError | UserError, cache: Cache) -> UserError:
    """What is raised in place of a failure to unpack and convert. A full disk says nothing against the file."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpace(
                f"the disk of {cache.folder} is full: make room and run it again, or name another folder in "
                f"${VARIABLE}; what was fetched is kept."
            )
        reason = reason.__cause__
    if isinstance(error, UserError):
        return error
    return UserError(f"it cannot be unpacked in {cache.folder} ({error.strerror or error}).")


def _nowhere(entry: Entry, cache: Cache, reasons: list[str]) -> NotFetched:
    short = f"{entry.name} cannot be fetched ({'; '.join(reasons)})"
    if not entry.addresses:
        return NotFetched(f"{short}: put another file there{_or_convert(entry)}.", short=short)
    cache.make_by_hand()
    text = (
        f"{short}: run it again with a network, or download {shown_url(entry.addresses[0])} with a browser, put it at "
        f"{cache.by_hand(entry)}, and run it again{_or_convert(entry)}."
    )
    return NotFetched(text, short=short)


def _no_address(entry: Entry, cache: Cache) -> NotFetched:
    short = f"no address of {entry.name} is known, and {cache.by_hand(entry)} is not there"
    text = f"{short}: take another name of 'tecogan fetch', or put its archive there{_or_convert(entry)}."
    return NotFetched(text, short=short)


def _or_convert(entry: Entry) -> str:
    return "" if entry.kind in ("lpips", "scenes") else ", or make a weights file of a copy with 'tecogan convert'"


def _reason(error: UserError, file: Path | None = None, word: str = "") -> str:
    """For a sentence: with ``word`` for ``file``, whose name says nothing to a reader or is gone by then."""
    text = str(error).rstrip(".")
    return printable(text if file is None else text.replace(str(file), word), limit=REASON_CHARACTERS)


class _Ticker:
    """How far a download is: a line now and then, also on a terminal, where it is the same one."""

    def __init__(self, name: str, say: Say) -> None:
        self._name, self._say = name, say

    def __enter__(self) -> _Ticker:
        self._on_terminal = sys.stderr.isatty()
        self._began = self._told = time.monotonic()
        self._first: int | None = None
        self._is_open = False
        return self

    def show(self, there: int, whole: int | None) -> None:
        """So many bytes are there, of so many."""
        now = time.monotonic()
        self._first = there if self._first is None else self._first
        if now - self._told < (0.2 if self._on_terminal else SECONDS_BETWEEN_LINES):
            return
        self._told = now
        rate = (there - self._first) / max(now - self._began, 1e-9)
        line = f"{self._name}: {there / 1e6:.1f}{f' of {whole / 1e6:.1f}' if whole else ''} MB, {rate / 1e6:.2f} MB/s"
        if whole and rate > 0:
            line += f", {(whole - there) / rate:.0f} s left"
        if self._on_terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            self._is_open = True
        else:
            self._say(line)

    def __exit__(self, *_rest: object) -> None:
        if self._is_open:
            print(file=sys.stderr, flush=True)
