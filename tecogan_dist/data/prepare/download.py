"""Videos and archives on other machines, as local files: through yt-dlp, or from an object store.

After a temporary failure (a busy or silent server, a broken connection) a download is tried again, with growing pauses,
and goes on where it stopped, in a later run too. A permanent one (a video that is gone or blocked in this country, a
page without a video) is reported at once, in one sentence. The remote side has no say in names on this machine.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from yt_dlp.networking.exceptions import CertificateVerifyError, HTTPError, RequestError, TransportError
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, UnsupportedError

from tecogan_dist.base.addresses import checked_url, shown_url, without_secrets
from tecogan_dist.base.atomic import PARTIAL_SUFFIX, remove
from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data.prepare.fetching import WatchedYtDlp
from tecogan_dist.data.prepare.limits import GIGABYTE, Limits, NoSpace, Watch
from tecogan_dist.data.prepare.sources import STORAGE_SCHEMES, is_remote
from tecogan_dist.video.formats import READABLE_SUFFIXES

ATTEMPTS = 6
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 120.0
"""Seconds; every pause is twice the one before, or what the server asks for."""
TEMPORARY_STATUS = (408, 425, 429, 500, 502, 503, 504)
ARCHIVE_SUFFIX = ".zip"
# Pictures only: nothing has to be joined, so no ffmpeg program is needed; SDR where there is a choice.
FORMAT = "bestvideo/best"
FORMAT_ORDER = ["hdr:sdr"]
PROTOCOLS = ("http", "https", "m3u8", "m3u8_native", "http_dash_segments", "ism", "f4m")
"""Those that yt-dlp reads itself; for others it starts programs with what a page tells it."""

NO_PROGRAMS = "/dev/null/no-programs"
"""Where yt-dlp looks for ffmpeg, which it would start to learn its version: nowhere."""

__all__ = ["Limits", "NoSpace", "Retrying", "Unavailable", "describe", "downloaded", "fetch", "is_archive"]

T = TypeVar("T")


class Unavailable(UserError):
    """It is not available, and trying again will not help."""


@dataclasses.dataclass(frozen=True)
class Retrying:
    """How often a download is tried after temporary failures, and after how many seconds first."""

    attempts: int = ATTEMPTS
    first_pause: float = FIRST_PAUSE
    timeout: float = 30.0
    """Seconds without a byte after which a connection counts as broken."""

    def pauses(self) -> Iterator[float]:
        """Seconds before each further attempt."""
        for attempt in range(self.attempts - 1):
            yield min(LONGEST_PAUSE, self.first_pause * 2**attempt)


def is_archive(address: str) -> bool:
    """Whether a path or URL is that of an archive, by its suffix."""
    path = urlsplit(address).path if is_remote(address) else address
    return path.lower().endswith(ARCHIVE_SUFFIX)


def fetch(
    url: str,
    folder: Path,
    *,
    minimum_size: int = 1,
    retrying: Retrying = Retrying(),
    limits: Limits = Limits(),
) -> Path:
    """The file behind a URL, below ``folder``; at once if it was downloaded before.

    Raises :class:`Unavailable`, also for a video that is smaller than ``minimum_size`` pixels in height or width
    according to its site; :class:`NoSpace`; another :class:`UserError` if the attempts are used up, and for what takes
    more than ``limits`` allow.
    """
    there = downloaded(url, folder)
    if there is not None:
        return there
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoSpace(f"{folder} cannot be made for downloads ({error.strerror}): give another --downloads.") from error
    if urlsplit(url).scheme in STORAGE_SCHEMES:
        return _fetch_object(url, folder, limits)
    checked_url(url)
    partial = [file for file in folder.glob(f"{_stem(url)}*") if file.is_file()]
    watch = Watch(url, shown_url(url), limits, folder, already=sum(file.stat().st_size for file in partial))
    try:
        return _retried(url, retrying, watch, lambda: _fetch_once(url, folder, minimum_size, retrying, watch))
    except NoSpace:
        raise  # goes on where it stopped when there is room
    except UserError:
        if watch.is_final:
            for file in folder.glob(f"{_stem(url)}*"):
                remove(file)
        raise


def describe(url: str, *, retrying: Retrying = Retrying(), limits: Limits = Limits()) -> str:
    """What is behind a URL, without downloading it. Raises what :func:`fetch` raises."""
    if urlsplit(url).scheme in STORAGE_SCHEMES:
        place = Location.of(url)
        if not place.exists():
            raise Unavailable(f"{shown_url(url)} does not exist.")
        _check_size(url, place.size(), limits)
        return "there"
    watch = Watch(checked_url(url), shown_url(url), limits)
    return _retried(url, retrying, watch, lambda: _describe_once(url, retrying, watch))


def downloaded(url: str, folder: Path) -> Path | None:
    """The file of a URL that was downloaded completely before; None if it was not."""
    stem = _stem(url)
    for suffix in ("", ARCHIVE_SUFFIX, *READABLE_SUFFIXES):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    return None


def _stem(url: str) -> str:
    """The name of a URL's file: the same for a link that is signed anew, and nobody learns a secret from it."""
    url = without_secrets(url)
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _fetch_object(url: str, folder: Path, limits: Limits) -> Path:
    suffix = Path(urlsplit(url).path).suffix.lower()
    target = folder / f"{_stem(url)}{suffix if suffix in (ARCHIVE_SUFFIX, *READABLE_SUFFIXES) else ''}"
    place = Location.of(url)
    for left_over in folder.glob(f".{target.name}.*{PARTIAL_SUFFIX}"):  # of a killed process
        remove(left_over)
    try:
        size = place.size()
        _check_size(url, size, limits)
        if size > shutil.disk_usage(folder).free:
            raise NoSpace(
                f"the disk of the downloads is full: {shown_url(url)} has {size / 1e6:.1f} MB, more than {folder} has "
                "room for."
            )
        place.fetch(target)
    except FileNotFoundError as error:
        raise Unavailable(f"{shown_url(url)} does not exist.") from error
    except UserError as error:
        if _is_full(error.__cause__):
            raise NoSpace(str(error)) from error
        raise
    return target


def _check_size(url: str, size: int, limits: Limits) -> None:
    if size > limits.bytes:
        raise Unavailable(
            f"{shown_url(url)} has {size / GIGABYTE:.1f} GB: allow more with --max-download-gigabytes, or leave it out."
        )


def _retried(url: str, retrying: Retrying, watch: Watch, act: Callable[[], T]) -> T:
    """What ``act`` returns, tried again after temporary failures."""
    for pause in (*retrying.pauses(), None):
        try:
            return act()
        except UserError:
            raise
        except Exception as error:  # extractors of a thousand sites fail in a thousand ways
            if watch.failure is not None:
                raise watch.failure from error
            cause = _cause(error)
            if _is_full(cause):
                raise NoSpace(
                    "the disk of the downloads is full: make room and run it again, it continues where it stopped."
                ) from error
            if not _is_temporary(cause):
                raise Unavailable(f"{shown_url(url)} {_sentence(cause)}.") from error
            if pause is None:
                raise UserError(
                    f"{shown_url(url)} {_sentence(cause)}, {retrying.attempts} times: run it again later, it "
                    "continues where it stopped."
                ) from error
            time.sleep(min(max(pause, _asked_pause(cause)), watch.seconds_left()))
    raise RuntimeError("every way out of the loop is inside")


def _cause(error: BaseException) -> BaseException:
    """The first failure that yt-dlp has wrapped."""
    if isinstance(error, DownloadError) and error.exc_info and error.exc_info[1] is not None:
        return _cause(error.exc_info[1])
    if isinstance(error, ExtractorError) and isinstance(error.cause, RequestError | OSError):
        return _cause(error.cause)
    return error


def _is_full(cause: BaseException | None) -> bool:
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


def _is_temporary(cause: BaseException) -> bool:
    if isinstance(cause, HTTPError):
        return cause.status in TEMPORARY_STATUS
    if isinstance(cause, DownloadError):
        return True  # a download that broke off, with the reason only in its text
    if isinstance(cause, OSError):
        return cause.errno == errno.EAGAIN  # another process is downloading it
    return isinstance(cause, TransportError) and not isinstance(cause, CertificateVerifyError)


def _asked_pause(cause: BaseException) -> float:
    """Seconds that the server asks to wait."""
    if isinstance(cause, HTTPError):
        asked = cause.response.headers.get("Retry-After", "")
        return min(LONGEST_PAUSE, float(asked)) if asked.isdecimal() and len(asked) < 10 else 0.0
    return 0.0


def _sentence(cause: BaseException) -> str:
    """What happened, to follow the URL in a sentence."""
    if isinstance(cause, HTTPError):
        words = printable(f"{cause.status} {cause.reason}".strip(), limit=80)
        return f"is gone ({words})" if cause.status in (404, 410) else f"is not available: the server answers {words}"
    if isinstance(cause, GeoRestrictedError):
        return "is blocked in this country"
    if isinstance(cause, UnsupportedError):
        return "is a page without a video that yt-dlp finds"
    text = str(cause.orig_msg if isinstance(cause, ExtractorError) else cause)
    text = without_secrets(" ".join(re.sub(r"^ERROR: (\[\w+\] )?", "", text[:10_000]).split()))
    text = printable(text, limit=200).rstrip(".")
    if isinstance(cause, TransportError | DownloadError):
        return f"cannot be reached or broke off ({text})"
    if isinstance(cause, ExtractorError):
        return f"is not available ({text})"
    return f"makes yt-dlp fail ({type(cause).__name__}: {text}): perhaps a newer yt-dlp can read it"


def _fetch_once(url: str, folder: Path, minimum_size: int, retrying: Retrying, watch: Watch) -> Path:
    with WatchedYtDlp(_options(retrying, watch), watch) as ydl:
        info = _info(ydl, url)
        height, width = _number(info.get("height")), _number(info.get("width"))
        if min(height or minimum_size, width or minimum_size) < minimum_size:
            size = f"{width or '?'}x{height or '?'}"
            raise Unavailable(f"{shown_url(url)} is {size}: smaller than {minimum_size}.")
        suffix = ARCHIVE_SUFFIX if is_archive(url) else f".{info.get('ext')}"
        target = folder / f"{_stem(url)}{suffix if suffix in (ARCHIVE_SUFFIX, *READABLE_SUFFIXES) else ''}"
        ydl.params["outtmpl"]["default"] = str(target).replace("%", "%%")
        ydl.process_ie_result(info, download=True)
    if not target.is_file():
        raise Unavailable(f"{shown_url(url)} gave no file.")
    return target


def _describe_once(url: str, retrying: Retrying, watch: Watch) -> str:
    with WatchedYtDlp(_options(retrying, watch), watch) as ydl:
        info = _info(ydl, url)
    facts = [printable(info.get("ext"), limit=20)]
    height, width, duration = (_number(info.get(name)) for name in ("height", "width", "duration"))
    if width and height:
        facts.append(f"{width}x{height}")
    if duration:
        facts.append(f"{duration} s")
    return f"{', '.join(facts)}: {printable(without_secrets(str(info.get('title'))), limit=60)}"


def _number(value: object) -> int:
    """A number that a site tells; 0 for what is not one."""
    return round(value) if isinstance(value, int | float) and 0 < value < 10**9 else 0


def _info(ydl: Any, url: str) -> dict[str, Any]:
    """What yt-dlp finds: one video that it can read itself."""
    info = ydl.extract_info(url, download=False)
    if info and info.get("_type") == "playlist":
        entries = list(info["entries"])
        if len(entries) != 1:
            raise Unavailable(f"{shown_url(url)} is a list of videos: give each one's own address.")
        (info,) = entries
    if not info:
        raise Unavailable(f"{shown_url(url)} holds no video.")
    if info.get("live_status") in ("is_live", "is_upcoming", "post_live"):
        raise Unavailable(f"{shown_url(url)} is live: give it when it is a recording.")
    for wanted in info.get("requested_formats") or [info]:
        if wanted.get("protocol") not in PROTOCOLS:
            raise Unavailable(
                f"{shown_url(url)} comes by {printable(wanted.get('protocol'), limit=30)}, which is not read here."
            )
    return dict(info)


class _Silent:
    """yt-dlp's messages: whatever matters comes as an exception."""

    def debug(self, message: str) -> None:
        pass

    warning = error = debug


def _options(retrying: Retrying, watch: Watch) -> dict[str, Any]:
    def pause(count: int) -> float:
        return 0.0 if watch.failure else min(LONGEST_PAUSE, retrying.first_pause * 2**count, watch.seconds_left())

    return {
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": _Silent(),
        "format": FORMAT,
        "format_sort": FORMAT_ORDER,
        "noplaylist": True,
        "playlist_items": "1:2",  # two are enough to see that it is a list
        "outtmpl": {"default": "unused"},
        "socket_timeout": retrying.timeout,
        "retries": 0,  # _retried does it, with a fresh address
        "fragment_retries": retrying.attempts,
        "retry_sleep_functions": {"fragment": pause},
        "skip_unavailable_fragments": False,
        "hls_prefer_native": True,
        "fixup": "never",
        "updatetime": False,
        "cachedir": False,
        "ffmpeg_location": NO_PROGRAMS,
        "js_runtimes": {},
        "allow_unplayable_formats": False,
        "enable_file_urls": False,
        "usenetrc": False,
    }
