"""One file from a web server: followed through redirects, taken up where a connection broke, watched to the end.

Nothing is known here of what the file is: who asks for it has its size and checksum, and judges it. A partial file is
only ever continued with bytes of the same version, as its server names it; of a server that does not, only with bytes
of the same address and size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import http.client
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tecogan_dist.base.addresses import checked_url, shown_url, without_secrets
from tecogan_dist.base.atomic import remove, sync, write_text
from tecogan_dist.base.console import printable
from tecogan_dist.base.documents import dump_json, read_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.transfers import Answer, Limits, NoSpace, Watch, check_proxies
from tecogan_dist.base.waiting import TooSlowError, within

CHUNK_BYTES = 2**18
LOOKUP_SECONDS, CONNECT_SECONDS = 5.0, 8.0
"""For a name and for a connection: a machine without a network knows soon that it has none."""
LONGEST_PAUSE = 30.0
MOST_REDIRECTS = 10
MOST_CONNECTIONS = 100
"""For one file; more are not worth waiting for, however much each of them brings."""
TEMPORARY_STATUS = (408, 425, 429, 500, 502, 503, 504)
NOTE_BYTES = 4096
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class Unavailable(UserError):
    """It cannot be had from this address now. The text is what follows the address in a sentence, without a stop."""


class Unreachable(Unavailable):
    """There was no answer at all: no network, no such name, nobody who listens."""


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


class _Broken(Exception):
    """The connection broke, or the server was busy: worth another attempt. The text is for a sentence."""

    def __init__(self, reason: str, *, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class _Transfer:
    def __init__(self, url: str, partial: Path, watch: Watch, retrying: Retrying, show: Show) -> None:
        self._url, self._partial, self._watch, self._retrying, self._show = url, partial, watch, retrying, show
        self._opener = _opener(watch, retrying.timeout)

    def run(self) -> None:
        failures, pauses = 0, list(self._retrying.pauses())
        for _ in range(MOST_CONNECTIONS):
            there = self._size()
            try:
                self._attempt()
            except (_Broken, http.client.HTTPException, OSError) as error:
                if self._watch.failure is not None:
                    raise self._watch.failure from error
                failures = 1 if self._size() > there else failures + 1  # as long as it moves, it goes on
                if failures > len(pauses):
                    raise Unavailable(f"{_reason(error)}, {failures} times") from error
                wanted = max(pauses[failures - 1], error.pause if isinstance(error, _Broken) else 0.0)
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
        with self._answer(headers) as answer:
            begins = _first_byte(answer)
            if begins and not self._goes_on(answer, known, there):
                forget(self._partial)
                raise _Broken("has another version now, which is fetched anew")
            self._take(answer, begins)

    @contextlib.contextmanager
    def _answer(self, headers: dict[str, str]) -> Iterator[Any]:
        """What the server says. Raises :class:`Unavailable` or ``_Broken`` for anything but the file's bytes."""
        try:
            with self._opener.open(urllib.request.Request(self._url, headers=headers)) as answer:
                if answer.status not in (200, 206):
                    raise Unavailable(f"answers {answer.status} where a file is wanted")
                if (answer.headers.get("Content-Encoding") or "identity").lower() != "identity":
                    raise Unavailable("sends the file packed in a way that was not asked for")
                yield answer
        except urllib.error.HTTPError as error:
            with error:
                words = printable(f"{error.code} {error.reason}".strip(), limit=80)
                if error.code == 416:  # it has become shorter
                    forget(self._partial)
                    raise _Broken(f"answers {words}") from error
                if error.code in TEMPORARY_STATUS:
                    raise _Broken(f"answers {words}", pause=_asked_pause(error.headers)) from error
                if self._watch.failure is not None:
                    raise self._watch.failure from error
                gone = error.code in (404, 410)
                raise Unavailable(f"is gone ({words})" if gone else f"answers {words}") from error
        except urllib.error.URLError as error:
            if self._watch.failure is not None:
                raise self._watch.failure from error
            reason = error.reason
            if isinstance(reason, ssl.SSLCertVerificationError):
                said = printable(reason.verify_message, limit=80)
                raise Unavailable(f"has a certificate that is not trusted here ({said})") from error
            raise Unreachable(f"cannot be reached ({_words(reason)})") from error

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
        match = _RANGE.fullmatch(answer.headers.get("Content-Range") or "")
        if known is None or match is None or int(match[1]) != there:
            return False
        size = None if match[3] == "*" else int(match[3])
        mark = _mark(answer.headers)
        return size == known.size and (not known.mark or not mark or mark == known.mark)

    def _take(self, answer: Any, begins: int) -> None:
        promised = answer.length
        whole = None if promised is None else begins + promised
        if not begins:
            with self._written():
                remove(self._partial)
                note = {"url": without_secrets(self._url), "mark": _mark(answer.headers), "size": whole}
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
        if whole is not None and there < whole:
            raise _Broken("broke off")

    def _read(self, answer: Any) -> bytes:
        try:
            # One buffer's worth at a time, so that what has come is kept when the rest does not.
            chunk: bytes = answer.read1(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(_reason(error)) from error
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


def _first_byte(answer: Any) -> int:
    """Where an answer's bytes begin in the file."""
    if answer.status == 200:
        return 0
    match = _RANGE.fullmatch(answer.headers.get("Content-Range") or "")
    return int(match[1]) if match else -1


def _mark(headers: Any) -> str:
    """A word that another version of the file does not have. Weak ones do not promise equal bytes."""
    tag = headers.get("ETag") or ""
    mark = tag if tag.startswith('"') else headers.get("Last-Modified") or ""
    return mark if mark.isascii() and mark.isprintable() and len(mark) < 300 else ""


def _write(file: int, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[os.write(file, left) :]


def _asked_pause(headers: Any) -> float:
    """Seconds that the server asks to wait."""
    asked = headers.get("Retry-After") or ""
    return min(LONGEST_PAUSE, float(asked)) if asked.isdecimal() and len(asked) < 10 else 0.0


def _reason(error: Exception) -> str:
    if isinstance(error, _Broken):
        return str(error)
    if isinstance(error, TimeoutError):
        return "sends nothing more"
    return f"broke off ({_words(error)})"


def _words(reason: object) -> str:
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return printable(without_secrets(" ".join(text.split())), limit=120) or type(reason).__name__


def _opener(watch: Watch, timeout: float) -> urllib.request.OpenerDirector:
    """HTTP and HTTPS, through the environment's proxies; no cookies, passwords, files or other schemes."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Handler(watch, timeout),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _RedirectHandler(watch),
    ):
        opener.add_handler(handler)
    opener.addheaders = []
    return opener


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    max_redirections = MOST_REDIRECTS

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.type == "https" and urlsplit(newurl).scheme == "http":
            raise Unavailable("leads from https to http, where anybody on the way may change the file")
        self._watch.asks(newurl)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:  # what was asked for is a part of the file, there too
            for name in ("Range", "If-range"):
                if req.has_header(name):
                    request.add_header(name, req.get_header(name))
        return request


class _Handler(urllib.request.AbstractHTTPHandler):
    def __init__(self, watch: Watch, timeout: float) -> None:
        super().__init__()
        self._watch, self._timeout = watch, timeout

    def http_open(self, req: Any) -> Any:
        return self.do_open(self._kind(http.client.HTTPConnection), req)

    def https_open(self, req: Any) -> Any:
        return self.do_open(self._kind(http.client.HTTPSConnection), req, context=ssl.create_default_context())

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def _kind(self, base: Any) -> Any:
        answer, silence = functools.partial(Answer, self._watch), self._timeout

        class Connection(base):
            response_class = staticmethod(answer)

            def connect(self) -> None:
                self.timeout = CONNECT_SECONDS
                _look_up(self.host, self.port)
                super().connect()
                self.sock.settimeout(silence)

        return Connection


def _look_up(host: str, port: int) -> None:
    """Raise ``OSError`` soon for a name that is not known, or a resolver that does not answer."""
    try:
        within(LOOKUP_SECONDS, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), what=f"{host}'s name")
    except TooSlowError as error:
        raise OSError(errno.ETIMEDOUT, "nobody tells the address of its name") from error
    except UnicodeError as error:
        raise OSError(errno.EINVAL, "its name cannot be one") from error
