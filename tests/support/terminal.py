"""A terminal of any size that a process can be given, and what it shows afterwards: pyte's, on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator, Sequence

import pyte


class Terminal:
    """What a process prints, as lines of a screen and of what has scrolled off it."""

    def __init__(self, words: Sequence[str], *, columns: int, lines: int, env: dict[str, str] | None = None) -> None:
        self._screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.printed = b""
        self._ours, theirs = pty.openpty()
        self._resize(theirs, columns, lines)
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            words,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment | {"TERM": "xterm-256color"} | (env or {}),
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, columns: int, lines: int) -> None:
        """As when its window is drawn to another size."""
        with self._lock:
            self._screen.resize(lines, columns)
        self._resize(self._ours, columns, lines)

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def shown(self) -> list[str]:
        """All lines, those that have scrolled off first, without the empty ones at the end."""
        with self._lock:
            old = ["".join(line[x].data for x in range(self._screen.columns)) for line in self._screen.history.top]
            lines = [line.rstrip() for line in [*old, *self._screen.display]]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def wait_for(self, text: str, seconds: float = 120.0) -> None:
        """Until it is shown somewhere."""
        deadline = time.monotonic() + seconds
        while not any(text in line for line in self.shown()):
            assert time.monotonic() < deadline, "\n".join([f"no {text!r} in {seconds} s:", *self.shown()])
            assert self.process.poll() is None or self._reader.is_alive(), "\n".join([f"no {text!r}:", *self.shown()])
            time.sleep(0.05)

    def finish(self, seconds: float = 120.0) -> int:
        """Wait for the end of the process; its status."""
        status = self.process.wait(seconds)
        self.after = termios.tcgetattr(self._theirs)
        self.cursor_is_hidden = self.printed.rfind(b"\x1b[?25l") > self.printed.rfind(b"\x1b[?25h")
        os.close(self._theirs)
        self._reader.join(10)
        return status

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while chunk := os.read(self._ours, 65536):
                with self._lock:
                    self.printed += chunk
                    self._stream.feed(chunk)

    def _resize(self, file: int, columns: int, lines: int) -> None:
        fcntl.ioctl(file, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextlib.contextmanager
def terminal(
    words: Sequence[str], *, columns: int, lines: int, env: dict[str, str] | None = None
) -> Iterator[Terminal]:
    """A process on a terminal; killed at the end if it still runs."""
    one = Terminal(words, columns=columns, lines=lines, env=env)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.kill()
            one.finish()


def _take_terminal() -> None:
    # Of the new session, so that Ctrl-C reaches the process; a test runner in the background ignores it.
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
