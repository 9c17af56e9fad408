"""How far a long command is: a bar on a terminal, an occasional line elsewhere (a log file, a job's output)."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Count ``unit``s out of ``total`` (None: unknown) with their rate and the time left. A context manager."""

    def __init__(
        self,
        total: int | None,
        *,
        unit: str = "frame",
        stream: TextIO | None = None,
        seconds_between_lines: float = SECONDS_BETWEEN_LINES,
    ) -> None:
        self._total = total
        self._unit = unit
        self._stream = stream or sys.stderr
        self._seconds_between_lines = seconds_between_lines
        self._count = 0

    def __enter__(self) -> Progress:
        self._started = self._last_line = time.monotonic()
        on_terminal = self._stream.isatty()
        self._bar = tqdm(total=self._total, unit=self._unit, file=self._stream) if on_terminal else None
        return self

    def advance(self) -> None:
        """Count one more."""
        self._count += 1
        if self._bar is not None:
            self._bar.update()
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
        rate = self._count / max(seconds, 1e-9)
        of_total = f" of {self._total}" if self._total is not None else ""
        text = f"{self._count}{of_total} {self._unit}s, {rate:.3g} {self._unit}s/s"
        if done:
            text += f", {_clock(seconds)} in all"
        elif self._total is not None:
            text += f", {_clock((self._total - self._count) / rate)} left"
        print(text, file=self._stream, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
