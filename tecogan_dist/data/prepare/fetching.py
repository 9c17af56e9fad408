"""A yt-dlp that asks by HTTP and HTTPS only, starts no programs, and never takes or waits for more than it is allowed.

Every byte from a server, of a page or of a film, also of its headers, passes a :class:`Watch`: a server that sends
without end, trickles, or promises too much is given up, whatever it is in the middle of.
"""

from __future__ import annotations

import dataclasses
import functools
import http.client
import io
import shutil
import socket
import time
import urllib.request
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yt_dlp
import yt_dlp.globals
from yt_dlp.networking import _urllib
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor
from yt_dlp.utils import sanitize_url
from yt_dlp.utils.networking import normalize_url

from tecogan_dist.base.addresses import checked_url, is_private
from tecogan_dist.base.errors import UserError

PAGE_BYTES = 2**24
"""Of a page, and of anything else that is read into memory, also after unpacking."""
SLOW_SECONDS, SLOWEST = 60.0, 200.0
"""A server that sends fewer bytes a second, over so many seconds of waiting for it, will not come to an end."""
READ_BYTES = 2**16
GIGABYTE = 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a download may take."""

    bytes: int = 50 * GIGABYTE
    """Of the file."""
    seconds: float = 6 * 3600.0
    """From the first request to the last byte, further attempts included."""
    archive_bytes: int = 100 * GIGABYTE
    """Of all that is unpacked from an archive."""


PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


class NoSpace(UserError):
    """The disk of the downloads is full."""


class Watch:
    """What one download has taken so far. ``failure`` is why it may not go on; from then on every read fails."""

    def __init__(self, url: str, name: str, limits: Limits, folder: Path | None = None, *, already: int = 0) -> None:
        """``folder``: where it goes, with ``already`` so many bytes of it there."""
        self._is_private = is_private(urlsplit(url).hostname or "")
        self._name, self._limits, self._folder = name, limits, folder
        self._ends = time.monotonic() + limits.seconds
        self._bytes = self._already = already
        self._slow_seconds, self._slow_bytes = 0.0, 0
        self.failure: UserError | None = None
        self.is_final = False
        """Whether it would fail again: nothing of it is worth keeping."""

    def check(self) -> None:
        """Raise ``OSError`` if the download may not go on."""
        if self.failure is None and time.monotonic() > self._ends:
            self._fail(
                f"{self._name} took longer than {self._limits.seconds:.0f} s: allow more with --download-timeout, or "
                "run it again, it continues where it stopped."
            )
        if self.failure is not None:
            raise OSError(str(self.failure))

    def seconds_left(self) -> float:
        return max(0.0, self._ends - time.monotonic())

    def took(self, count: int, seconds: float) -> None:
        """So many bytes came after so many seconds. Raises ``OSError`` if that is enough."""
        self._bytes += count
        self._slow_bytes += count
        self._slow_seconds += seconds
        if self._bytes > self._limits.bytes + PAGE_BYTES:
            self._too_large(f"sends more than {self._limits.bytes / GIGABYTE:g} GB")
        if self._slow_seconds > SLOW_SECONDS:
            if self._slow_bytes < SLOWEST * self._slow_seconds:
                self._fail(
                    f"{self._name} sends less than {SLOWEST:.0f} bytes a second: run it again later, it continues "
                    "where it stopped."
                )
            self._slow_seconds, self._slow_bytes = 0.0, 0
        self.check()

    def promised(self, count: int) -> None:
        """An answer says that it has so many bytes. Raises ``OSError`` if that is too much."""
        if count > self._limits.bytes:
            self._too_large(f"has {count / GIGABYTE:.1f} GB")
        if self._folder is not None and count - self._already > shutil.disk_usage(self._folder).free:
            self.failure = self.failure or NoSpace(
                f"the disk of the downloads is full: {self._name} has {count / 1e6:.1f} MB, more than {self._folder} "
                "has room for; make room and run it again, it continues where it stopped."
            )
        self.check()

    def asks(self, url: str) -> None:
        """A request is about to be sent there. Raises ``OSError`` if it may not be."""
        try:
            host = urlsplit(checked_url(normalize_url(url))).hostname or ""
        except UserError as error:
            self._fail(f"{self._name} leads elsewhere: {error}")
            host = ""
        if is_private(host) and not self._is_private:
            self._fail(f"{self._name} leads to {host} on this machine or its network, where no site has to look.")
        self.check()

    def is_page_too_large(self) -> OSError:
        """The failure of something that was to be read into memory."""
        self._fail(f"{self._name} answers with more than {PAGE_BYTES >> 20} MB where a page is wanted.")
        return OSError(str(self.failure))

    def _too_large(self, what: str) -> None:
        self.is_final = True
        self._fail(f"{self._name} {what}: allow more with --max-download-gigabytes, or leave it out.")

    def _fail(self, text: str) -> None:
        self.failure = self.failure or UserError(text)


class WatchedYtDlp(yt_dlp.YoutubeDL):
    """yt-dlp whose requests pass a watch."""

    def __init__(self, options: dict[str, Any], watch: Watch) -> None:
        self._watch = watch
        _check_proxies()
        # Plugins are code that anybody may have put somewhere on the path.
        yt_dlp.globals.plugin_dirs.value = []
        # A downloader of playlists asks for ffmpeg's version by this, and not by the options.
        FFmpegPostProcessor._ffmpeg_location.set(options["ffmpeg_location"])
        super().__init__(options)

    def build_request_director(self, handlers: Iterable[Any], preferences: Any = None) -> Any:
        # curl_cffi is only ever asked by extractors of sites that want a browser.
        kept = [handler for handler in handlers if handler.RH_KEY == "CurlCFFI"]
        return super().build_request_director([functools.partial(_WatchedRH, self._watch), *kept], preferences)

    def urlopen(self, req: Any) -> Any:
        url = req if isinstance(req, str) else getattr(req, "url", None) or req.full_url
        if not url.startswith("data:"):
            self._watch.asks(sanitize_url(url))
        response = super().urlopen(req)
        if not isinstance(response, _urllib.UrllibResponseAdapter):
            response.fp = _Reader(response.fp, self._watch)
        return response


def _check_proxies() -> None:
    """Raise :class:`UserError` for a proxy in the environment that cannot be one."""
    for name, proxy in urllib.request.getproxies().items():
        if name != "no" and proxy:
            try:
                checked_url(proxy if "://" in proxy else f"http://{proxy}", schemes=PROXY_SCHEMES)
            except UserError as error:
                raise UserError(f"the environment's {name}_proxy is no use: {error}") from error


class _WatchedRH(_urllib.UrllibRH):
    _SUPPORTED_URL_SCHEMES = ("http", "https", "data")

    def __init__(self, watch: Watch, **settings: Any) -> None:
        super().__init__(**settings)
        self._watch = watch

    def _create_instance(self, proxies: Any, cookiejar: Any, legacy_ssl_support: Any = None) -> Any:
        opener = urllib.request.OpenerDirector()
        context = self._make_sslcontext(legacy_ssl_support=legacy_ssl_support)
        for handler in (
            _urllib.ProxyHandler(proxies),
            _HTTPHandler(self._watch, context=context, source_address=self.source_address),
            urllib.request.HTTPCookieProcessor(cookiejar),
            urllib.request.DataHandler(),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _RedirectHandler(self._watch),
        ):
            opener.add_handler(handler)
        opener.addheaders = []
        return opener


class _RedirectHandler(_urllib.RedirectHandler):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self._watch.asks(newurl)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            request.remove_header("Authorization")  # the password is for the first host
        return request


class _HTTPHandler(_urllib.HTTPHandler):
    def __init__(self, watch: Watch, **settings: Any) -> None:
        super().__init__(**settings)
        self._watch = watch

    def _make_conn_class(self, base: Any, req: Any) -> Any:
        kind = _urllib.HTTPHandler._make_conn_class(base, req)
        answer = staticmethod(functools.partial(_Answer, self._watch))
        return type("Watched", (kind,), {"response_class": answer})

    def gz(self, data: bytes) -> bytes:
        return self._unpacked(data, zlib.MAX_WBITS | 16)

    def deflate(self, data: bytes) -> bytes:
        try:
            return self._unpacked(data, -zlib.MAX_WBITS)
        except zlib.error:
            return self._unpacked(data, zlib.MAX_WBITS)

    def brotli(self, _data: bytes) -> bytes:
        raise OSError("an answer in brotli was not asked for")

    def http_request(self, req: Any) -> Any:
        if "br" in (req.get_header("Accept-encoding") or ""):
            req.add_header("Accept-encoding", "gzip, deflate")
        return super().http_request(req)

    https_request = http_request

    def _unpacked(self, data: bytes, bits: int) -> bytes:
        if not data:
            return data
        unpacking = zlib.decompressobj(bits)
        unpacked = unpacking.decompress(data, PAGE_BYTES)
        if unpacking.unconsumed_tail:
            raise self._watch.is_page_too_large()
        return unpacked


class _Answer(http.client.HTTPResponse):
    """An answer of a server, whose every byte is counted."""

    def __init__(self, watch: Watch, sock: socket.socket, *rest: Any, **settings: Any) -> None:
        super().__init__(sock, *rest, **settings)
        self._watch = watch
        self.fp: Any = io.BufferedReader(_Counted(self.fp.detach(), watch))

    def begin(self) -> None:
        super().begin()
        if self.length:
            self._watch.promised(self.length)

    def read(self, amt: int | None = None) -> bytes:
        if amt is not None:
            return super().read(amt)
        page = bytearray()
        while piece := super().read(READ_BYTES):
            page += piece
            if len(page) > PAGE_BYTES:
                raise self._watch.is_page_too_large()
        if self.length:
            raise http.client.IncompleteRead(bytes(page), self.length)
        return bytes(page)


class _Counted(io.RawIOBase):
    """Bytes on their way from a server; a read waits for the next ones, not for all that are wanted."""

    def __init__(self, inner: Any, watch: Watch) -> None:
        self._inner, self._watch = inner, watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._watch.check()
        began = time.monotonic()
        count = self._inner.readinto(buffer)
        self._watch.took(count or 0, time.monotonic() - began)
        return count

    def close(self) -> None:
        self._inner.close()
        super().close()


class _Reader:
    """What curl_cffi reads, counted."""

    def __init__(self, inner: Any, watch: Watch) -> None:
        self._inner, self._watch = inner, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, amount: int | None = None) -> bytes:
        pieces: list[bytes] = []
        while amount is None or not pieces:
            self._watch.check()
            began = time.monotonic()
            piece: bytes = self._inner.read(READ_BYTES if amount is None else amount)
            self._watch.took(len(piece), time.monotonic() - began)
            pieces.append(piece)
            if not piece:
                break
            if amount is None and sum(map(len, pieces)) > PAGE_BYTES:
                raise self._watch.is_page_too_large()
        return b"".join(pieces)
