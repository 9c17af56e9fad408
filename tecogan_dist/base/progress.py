"""How far a long command is: a bar on a terminal, an occasional line elsewhere (a log file, a job's output)."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Count ``unit``s out of ``total`` (None: unknown) with their rate and the time left. A context manager.

    ``what`` stands before them. ``begun`` of them were done earlier, and do not count for the rate. ``realtime`` is how
    many are shown in a second, as of a video: how far the rate is from that is shown, too.
    """

    def __init__(
        self,
        total: int | None,
        *,
        unit: str = "frame",
        what: str = "",
        begun: int = 0,
        realtime: float | None = None,
        stream: TextIO | None = None,
        seconds_between_lines: float = SECONDS_BETWEEN_LINES,
    ) -> None:
        self._total = total
        self._unit = unit
        self._what, self._begun, self._realtime = what, begun, realtime
        self._stream = stream or sys.stderr
        self._seconds_between_lines = seconds_between_lines
        self._count = begun

    def __enter__(self) -> Progress:
        self._started = self._last_line = time.monotonic()
        on_terminal = self._stream.isatty()
        self._bar = None
        if on_terminal:
            what = self._what or None
            self._bar = tqdm(total=self._total, unit=self._unit, file=self._stream, desc=what, initial=self._begun)
        return self

    def advance(self, count: int = 1) -> None:
        """Count so many more."""
        self._count += count
        if self._bar is not None:
            if self._realtime:
                self._bar.set_postfix_str(self._times_realtime(), refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= self._seconds_between_lines:
            self._line(done=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._line(done=True)

    def _line(self, *, done: bool) -> None:
        self._last_line = time.monotonic()
        seconds = self._last_line - self._started
        rate = self._rate()
        of_total = f" of {self._total}" if self._total is not None else ""
        what = f"{self._what}: " if self._what else ""
        text = f"{what}{self._count}{of_total} {self._unit}s, {rate:.3g} {self._unit}s/s"
        if self._realtime:
            text += f" ({self._times_realtime()})"
        if done:
            text += f", {_clock(seconds)} in all"
        elif self._total is not None and rate:
            text += f", {_clock(max(0, self._total - self._count) / rate)} left"
        print(text, file=self._stream, flush=True)

    def say(self, text: str) -> None:
        """A line of its own, which leaves the bar whole."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def _rate(self) -> float:
        return (self._count - self._begun) / max(time.monotonic() - self._started, 1e-9)

    def _times_realtime(self) -> str:
        return f"{self._rate() / (self._realtime or 1):.3g}x real time"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
