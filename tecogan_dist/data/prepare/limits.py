"""What a download may take of time, memory and disk, and a watch over what it takes."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a download may take."""

    bytes: int = 20 * GIGABYTE
    """Of the file."""
    seconds: float = 4 * 3600.0
    """From the first request to the last byte, further attempts included."""
    archive_bytes: int = 50 * GIGABYTE
    """Of all that is unpacked from an archive."""


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
        self._room = None if folder is None else int(FREE_SHARE * shutil.disk_usage(folder).free)
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
        self._fail(f"{self._name} {what}: allow more with --max-download-gigabytes, or leave it out.")

    def _no_room(self, what: str) -> None:
        self.failure = self.failure or NoSpace(
            f"the disk of the downloads is full: {what} than {self._folder} has room for; make room and run it again, "
            "it continues where it stopped."
        )

    def _fail(self, text: str) -> None:
        self.failure = self.failure or UserError(text)
