"""One file from a web server: followed through redirects, taken up where a connection broke, watched to the end.

Nothing is known here of what the file is: who asks for it has its size and checksum, and judges it. A partial file is
only ever continued with bytes of the same version, as its server names it; of a server that does not, only with bytes
of the same address and size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import http.client
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tecogan_dist.base.addresses import checked_url, shown_url, without_secrets
from tecogan_dist.base.atomic import remove, sync, write_text
from tecogan_dist.base.documents import dump_json, read_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.transfers import Limits, NoSpace, Watch, check_proxies
from tecogan_dist.base.web_answers import (
    LONGEST_PAUSE,
    Broken,
    answering,
    first_byte,
    mark_of,
    reason_of,
    whole_size,
)
from tecogan_dist.base.web_connections import Unavailable, opener

CHUNK_BYTES = 2**18
MOST_CONNECTIONS = 100
"""For one file; more are not worth waiting for, however much each of them brings."""
NOTE_BYTES = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrying:
    """How often a connection that breaks is made again, and after how many seconds first; each pause doubles."""

    attempts: int = 6
    first_pause: float = 1.0
    timeout: float = 30.0
    """Seconds without a byte after which a connection counts as broken."""

    def pauses(self) -> Iterator[float]:
        for attempt in range(self.attempts - 1):
            yield min(LONGEST_PAUSE, self.first_pause * 2**attempt)


Show = Callable[[int, int | None], None]
"""Told the bytes that are there, and those of the whole file where its server says so."""


def download(
    url: str,
    partial: Path,
    *,
    limits: Limits,
    retrying: Retrying = Retrying(),
    show: Show = lambda _there, _all: None,
) -> None:
    """Make ``partial`` the whole file behind ``url``; what is there of it, from an earlier call too, is kept.

    The folder of ``partial`` exists, and nobody else writes to it. Beside it lies a note on which version it is of, so
    that a call after the last byte asks nothing; :func:`forget` removes both.
    Raises :class:`Unavailable` if the file cannot be had, :class:`NoSpace`, and another :class:`UserError` for what
    takes more than ``limits`` allow; of what broke off, the part that has come stays.
    """
    checked_url(url)
    check_proxies()
    already = partial.stat().st_size if partial.is_file() else 0
    watch = Watch(url, shown_url(url), limits, partial.parent, already=already)
    transfer = _Transfer(url, partial, watch, retrying, show)
    try:
        transfer.run()
    except NoSpace:
        raise  # goes on where it stopped when there is room
    except UserError:
        if watch.is_final:
            forget(partial)
        raise


def forget(partial: Path) -> None:
    """Remove a partial file and its note."""
    remove(partial)
    remove(_note_of(partial))


def _note_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.note")


@dataclasses.dataclass(frozen=True)
class _Version:
    """Which version of the file a partial one is of."""

    url: str
    mark: str
    """The server's word for it (ETag, or the time of its last change); "" where it has none."""
    size: int | None


class _Transfer:
    def __init__(self, url: str, partial: Path, watch: Watch, retrying: Retrying, show: Show) -> None:
        self._url, self._partial, self._watch, self._retrying, self._show = url, partial, watch, retrying, show
        self._opener = opener(watch, retrying.timeout)

    def run(self) -> None:
        failures, pauses = 0, list(self._retrying.pauses())
        for _ in range(MOST_CONNECTIONS):
            there = self._size()
            try:
                self._attempt()
            except (Broken, http.client.HTTPException, OSError) as error:
                if self._watch.failure is not None:
                    raise self._watch.failure from error
                if isinstance(error, Broken) and error.is_stale:
                    forget(self._partial)
                failures = 1 if self._size() > there else failures + 1  # as long as it moves, it goes on
                if failures > len(pauses):
                    raise Unavailable(f"{reason_of(error)}, {failures} times") from error
                wanted = max(pauses[failures - 1], error.pause if isinstance(error, Broken) else 0.0)
                time.sleep(min(wanted, self._watch.seconds_left()))
            else:
                with self._written():
                    sync(self._partial)
                return
        raise Unavailable(f"broke off {MOST_CONNECTIONS} times")

    def _size(self) -> int:
        with contextlib.suppress(OSError):
            return self._partial.stat().st_size
        return 0

    def _attempt(self) -> None:
        known = self._known()
        there = self._size() if known is not None else 0
        if known is not None and known.size is not None and there == known.size:
            return
        headers = {"User-Agent": "tecogan_dist", "Accept": "*/*", "Accept-Encoding": "identity"}
        if known is not None and there:
            headers["Range"] = f"bytes={there}-"
            if known.mark:
                headers["If-Range"] = known.mark
        self._watch.asks(self._url)
        with answering(self._opener, self._url, headers, self._watch) as answer:
            begins = first_byte(answer)
            if begins and not self._goes_on(answer, known, there):
                raise Broken("has another version now, which is fetched anew", is_stale=True)
            self._take(answer, begins)

    def _known(self) -> _Version | None:
        """The version that the partial file is of; None if nothing is there that could be continued."""
        try:
            note = read_json(_note_of(self._partial), missing="", limit=NOTE_BYTES)
            version = _Version(note["url"], note["mark"], note["size"])
        except (UserError, KeyError, TypeError):
            return None
        fits = isinstance(version.mark, str) and (version.size is None or type(version.size) is int)
        size = self._size()
        too_long = version.size is not None and fits and size > version.size
        return version if fits and version.url == without_secrets(self._url) and not too_long else None

    def _goes_on(self, answer: Any, known: _Version | None, there: int) -> bool:
        """Whether an answer with a part of a file begins where ours ends, and is of the same version."""
        if known is None or first_byte(answer) != there or whole_size(answer) != known.size:
            return False
        mark = mark_of(answer.headers)
        return not known.mark or not mark or mark == known.mark

    def _take(self, answer: Any, begins: int) -> None:
        # A part may be shorter than what was asked for, and need not say its length: the whole file's counts.
        whole = whole_size(answer)
        if not begins:
            with self._written():
                remove(self._partial)
                note = {"url": without_secrets(self._url), "mark": mark_of(answer.headers), "size": whole}
                write_text(_note_of(self._partial), dump_json(note))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._written():
            file = os.open(self._partial, flags, 0o600)
        there = begins
        try:
            self._show(there, whole)
            while chunk := self._read(answer):
                with self._written():
                    _write(file, chunk)
                there += len(chunk)
                self._show(there, whole)
        finally:
            os.close(file)
        if whole is None and not there:
            raise Broken("broke off before the first byte")  # also an answer that was cut in its headers
        if whole is not None and there != whole:
            raise Broken("broke off" if there < whole else "sends more than it said", is_stale=there > whole)

    def _read(self, answer: Any) -> bytes:
        try:
            # One buffer's worth at a time, so that what has come is kept when the rest does not.
            chunk: bytes = answer.read1(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Broken(reason_of(error)) from error
        return chunk

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Failures of the disk."""
        try:
            yield
        except OSError as error:
            folder = self._partial.parent
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(
                    f"the disk of {folder} is full: make room and run it again, it continues where it stopped."
                ) from error
            raise UserError(
                f"nothing can be written in {folder} ({os.strerror(error.errno or 0)}): check its permissions."
            ) from error


def _write(file: int, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[os.write(file, left) :]
