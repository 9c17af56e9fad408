"""What a web server answers to one request: the bytes of a file, or why not and whether to ask again."""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from tecogan_dist.base.addresses import without_secrets
from tecogan_dist.base.console import printable
from tecogan_dist.base.transfers import Watch
from tecogan_dist.base.web_connections import Unavailable, Unreachable

LONGEST_PAUSE = 30.0
TEMPORARY_STATUS = (408, 425, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class Broken(Exception):
    """The connection broke, or the server was busy: worth another attempt. The text is for a sentence."""

    def __init__(self, reason: str, *, pause: float = 0.0, is_stale: bool = False) -> None:
        super().__init__(reason)
        self.pause = pause
        """Seconds that the server asks to wait."""
        self.is_stale = is_stale
        """Whether what is there of the file is of no use any more."""


@contextlib.contextmanager
def answering(
    opener: urllib.request.OpenerDirector, url: str, headers: Mapping[str, str], watch: Watch
) -> Iterator[Any]:
    """What the server says. Raises :class:`Unavailable` or :class:`Broken` for anything but the file's bytes."""
    try:
        with opener.open(urllib.request.Request(url, headers=dict(headers))) as answer:
            if answer.status not in (200, 206):
                raise Unavailable(f"answers {answer.status} where a file is wanted")
            if (answer.headers.get("Content-Encoding") or "identity").lower() != "identity":
                raise Unavailable("sends the file packed in a way that was not asked for")
            yield answer
    except urllib.error.HTTPError as error:
        with error:
            words = printable(f"{error.code} {error.reason}".strip(), limit=80)
            if error.code == 416:
                raise Broken(f"answers {words}", is_stale=True) from error  # it has become shorter
            if error.code in TEMPORARY_STATUS:
                raise Broken(f"answers {words}", pause=_asked_pause(error.headers)) from error
            if watch.failure is not None:
                raise watch.failure from error
            gone = error.code in (404, 410)
            raise Unavailable(f"is gone ({words})" if gone else f"answers {words}") from error
    except urllib.error.URLError as error:
        if watch.failure is not None:
            raise watch.failure from error
        reason = error.reason
        if isinstance(reason, ssl.SSLCertVerificationError):
            said = printable(reason.verify_message, limit=80)
            raise Unavailable(f"has a certificate that is not trusted here ({said})") from error
        raise Unreachable(f"cannot be reached ({_words(reason)})") from error


def first_byte(answer: Any) -> int:
    """Where an answer's bytes begin in the file; -1 if it does not say so."""
    if answer.status == 200:
        return 0
    match = _range(answer)
    return int(match[1]) if match else -1


def whole_size(answer: Any) -> int | None:
    """Bytes of the file, of which an answer may be a part; None if its server does not say."""
    if answer.status == 200:
        return None if answer.length is None else int(answer.length)
    match = _range(answer)
    return int(match[3]) if match and match[3] != "*" else None


def mark_of(headers: Any) -> str:
    """A word that another version of the file does not have. Weak ones do not promise equal bytes."""
    tag = headers.get("ETag") or ""
    mark = tag if tag.startswith('"') else headers.get("Last-Modified") or ""
    return mark if mark.isascii() and mark.isprintable() and len(mark) < 300 else ""


def reason_of(error: Exception) -> str:
    """Why a connection broke, for a sentence."""
    if isinstance(error, Broken):
        return str(error)
    if isinstance(error, TimeoutError):
        return "sends nothing more"
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected):
        return "does not answer as a web server"  # whatever it says instead, bytes of a file for example
    return f"broke off ({_words(error)})"


def _range(answer: Any) -> re.Match[str] | None:
    return _RANGE.fullmatch(answer.headers.get("Content-Range") or "")


def _asked_pause(headers: Any) -> float:
    """Seconds that the server asks to wait."""
    asked = headers.get("Retry-After") or ""
    return min(LONGEST_PAUSE, float(asked)) if asked.isdecimal() and len(asked) < 10 else 0.0


def _words(reason: object) -> str:
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return printable(without_secrets(" ".join(text.split())), limit=120) or type(reason).__name__
