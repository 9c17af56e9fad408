"""How a web server is reached: proxies, names, connections, and redirects that lead nowhere worse."""

from __future__ import annotations

import errno
import functools
import http.client
import socket
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.transfers import Answer, Watch
from tecogan_dist.base.waiting import TooSlowError, within

LOOKUP_SECONDS, CONNECT_SECONDS = 5.0, 8.0
"""For a name and for a connection: a machine without a network knows soon that it has none."""
MOST_REDIRECTS = 10


class Unavailable(UserError):
    """It cannot be had from this address now. The text is what follows the address in a sentence, without a stop."""


class Unreachable(Unavailable):
    """There was no answer at all: no network, no such name, nobody who listens."""


def opener(watch: Watch, timeout: float) -> urllib.request.OpenerDirector:
    """HTTP and HTTPS, through the environment's proxies; no cookies, passwords, files or other schemes.

    ``timeout``: seconds without a byte after which a connection counts as broken.
    """
    made = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Handler(watch, timeout),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        RedirectHandler(watch),
    ):
        made.add_handler(handler)
    made.addheaders = []
    return made


class RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows redirects; not from https to http, and not to where ``watch`` lets nothing be asked."""

    max_redirections = MOST_REDIRECTS

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        place = headers.get("Location") or headers.get("URI") or ""
        try:
            scheme = urlsplit(place).scheme
        except ValueError as error:
            raise Unavailable("leads to an address that cannot be one") from error
        if scheme not in ("", "http", "https"):
            raise Unavailable(f"leads elsewhere, to {printable(scheme, limit=40)}:")
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except urllib.error.HTTPError as error:
            if str(error.msg).startswith(self.inf_msg):
                raise Unavailable(f"leads from one address to the next, without an end ({code})") from error
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

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
