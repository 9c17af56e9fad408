"""A yt-dlp that asks by HTTP and HTTPS only, starts no programs, and never takes or waits for more than it is allowed.

Every byte from a server, of a page or of a film, also of its headers, passes a :class:`Watch`: a server that sends
without end, trickles, or promises too much is given up, whatever it is in the middle of.
"""

from __future__ import annotations

import functools
import time
import urllib.request
import zlib
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import yt_dlp
import yt_dlp.globals
from yt_dlp.networking import _urllib
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor
from yt_dlp.utils import sanitize_url
from yt_dlp.utils.networking import normalize_url

from tecogan_dist.base import transfers
from tecogan_dist.base.transfers import READ_BYTES, Answer, check_proxies
from tecogan_dist.data.prepare.limits import Watch


class WatchedYtDlp(yt_dlp.YoutubeDL):
    """yt-dlp whose requests pass a watch."""

    def __init__(self, options: dict[str, Any], watch: Watch) -> None:
        self._watch = watch
        check_proxies()
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
            self._watch.asks(normalize_url(sanitize_url(url)))
        response = super().urlopen(req)
        if not isinstance(response, _urllib.UrllibResponseAdapter):
            response.fp = _Reader(response.fp, self._watch)
        return response


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
        self._watch.asks(normalize_url(newurl))
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
        answer = staticmethod(functools.partial(Answer, self._watch))
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
        unpacked = unpacking.decompress(data, transfers.PAGE_BYTES)
        if unpacking.unconsumed_tail:
            raise self._watch.is_page_too_large()
        return unpacked


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
            if amount is None and sum(map(len, pieces)) > transfers.PAGE_BYTES:
                raise self._watch.is_page_too_large()
        return b"".join(pieces)
