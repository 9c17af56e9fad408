"""What a download may take of time, memory and disk, and a watch that sees every byte of it, headers included."""

from __future__ import annotations

import dataclasses
import http.client
import io
import shutil
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from tecogan_dist.base.addresses import checked_url, is_private
from tecogan_dist.base.errors import UserError

PAGE_BYTES = 2**24
"""Of a page, and of anything else that is read into memory, also after unpacking."""
SLOW_SECONDS, SLOWEST = 60.0, 200.0
"""A server that sends fewer bytes a second, over so many seconds of waiting for it, will not come to an end."""
FREE_SHARE = 0.9
"""Share of the disk's free space that a download may take."""
GIGABYTE = 10**9
READ_BYTES = 2**16
PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a download may take."""

    bytes: int = 20 * GIGABYTE
    """Of the file."""
    seconds: float = 4 * 3600.0
    """From the first request to the last byte, further attempts included."""


class NoSpace(UserError):
    """The disk of the downloads is full."""


class Watch:
    """What one download has taken so far. ``failure`` is why it may not go on; from then on every read fails."""

    IF_TOO_LONG: ClassVar[str] = "run it again, it continues where it stopped"
    IF_TOO_LARGE: ClassVar[str] = "that is not what is wanted here"

    def __init__(self, url: str, name: str, limits: Limits, folder: Path | None = None, *, already: int = 0) -> None:
        """``folder``: where it goes, with ``already`` so many bytes of it there."""
        self._is_private = is_private(urlsplit(url).hostname or "")
        self._name, self._limits, self._folder = name, limits, folder
        self._ends = time.monotonic() + limits.seconds
        self._bytes = self._already = already
        self._room = None if folder is None else int(FREE_SHARE * shutil.disk_usage(folder).free)
        self._slow_seconds, self._slow_bytes = 0.0, 0
        self.failure: UserError | None = None
        self.is_final = False
        """Whether it would fail again: nothing of it is worth keeping."""

    def check(self) -> None:
        """Raise ``OSError`` if the download may not go on."""
        if self.failure is None and time.monotonic() > self._ends:
            self._fail(f"{self._name} took longer than {self._limits.seconds:.0f} s: {self.IF_TOO_LONG}.")
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
        if self._room is not None and self._bytes - self._already > self._room:
            self._no_room(f"{self._name} sends more")
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
        if self._room is not None and count - self._already > self._room:
            self._no_room(f"{self._name} has {count / 1e6:.1f} MB, more")
        self.check()

    def asks(self, url: str) -> None:
        """A request is about to be sent to this URL, in which all is escaped. Raises ``OSError`` if it may not be."""
        try:
            host = urlsplit(checked_url(url)).hostname or ""
        except UserError as error:
            self.is_final = True
            self._fail(f"{self._name} leads elsewhere: {error}")
            host = ""
        if is_private(host) and not self._is_private:
            self.is_final = True
            self._fail(f"{self._name} leads to {host} on this machine or its network, where no site has to look.")
        self.check()

    def is_page_too_large(self) -> OSError:
        """The failure of something that was to be read into memory."""
        self._fail(f"{self._name} answers with more than {PAGE_BYTES >> 20} MB where a page is wanted.")
        return OSError(str(self.failure))

    def _too_large(self, what: str) -> None:
        self.is_final = True
        self._fail(f"{self._name} {what}: {self.IF_TOO_LARGE}.")

    def _no_room(self, what: str) -> None:
        self.failure = self.failure or NoSpace(
            f"the disk of the downloads is full: {what} than {self._folder} has room for; make room and run it again, "
            "it continues where it stopped."
        )

    def _fail(self, text: str) -> None:
        self.failure = self.failure or UserError(text)


class Answer(http.client.HTTPResponse):
    """An answer of a server, whose every byte is counted."""

    def __init__(self, watch: Watch, sock: socket.socket, *rest: Any, **settings: Any) -> None:
        super().__init__(sock, *rest, **settings)
        self._watch = watch
        self.fp: Any = io.BufferedReader(Counted(self.fp.detach(), watch))

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


class Counted(io.RawIOBase):
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


def check_proxies() -> None:
    """Raise :class:`UserError` for a proxy in the environment that cannot be one."""
    for name, proxy in urllib.request.getproxies().items():
        if name != "no" and proxy:
            try:
                checked_url(proxy if "://" in proxy else f"http://{proxy}", schemes=PROXY_SCHEMES)
            except UserError as error:
                raise UserError(f"the environment's {name}_proxy is no use: {error}") from error
