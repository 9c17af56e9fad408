"""Progress of a run for people, on its way from the workers to the screen."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from tecogan_dist.base.chatter import is_verbose
from tecogan_dist.base.console import printable
from tecogan_dist.config.schema import Config
from tecogan_dist.runs.patterns import limits_of, patterns
from tecogan_dist.runs.recent import Window
from tecogan_dist.training.ray.board import Line, Lost, Measured, News, Progress, Saved
from tecogan_dist.training.ray.panel import Progressing, clock, panel, plain_line, rate_text

__all__ = ["Display", "clock"]

LONGEST = 1000
"""Characters of a line that a worker sends: names in it come from outside."""
SECONDS_BETWEEN_PANELS = 0.5
SECONDS_BETWEEN_PATTERNS = 30.0


class Display:
    """Progress for people: on a terminal a panel that refreshes itself, below lines of events; plain lines elsewhere.

    ``scores`` of held-out scenes were measured before. ``last_words`` gives what a worker's process wrote last.
    """

    def __init__(
        self,
        config: Config,
        *,
        scores: Mapping[int, dict[str, float]] | None = None,
        last_words: Callable[[int, str], list[str]] = lambda pid, ip: [],  # noqa: ARG005
        console: Console | None = None,
    ) -> None:
        self._known = Progressing(config, scores=dict(scores or {}))
        self._last_words = last_words
        self._console = console or Console(file=sys.stdout, highlight=False)
        # What others print in between, cursor movements among it, would go right through a panel.
        self._on_terminal = self._console.is_terminal and not self._console.is_dumb_terminal and not is_verbose()
        self._live: Live | None = None
        self._window = Window()
        self._told: set[str] = set()
        self._is_told_of_defect = False
        self._drawn_at = self._looked_at = float("-inf")
        self._drawn: list[Text] = []
        self._width = 0

    @property
    def rate(self) -> str:
        """Steps per second in the last display interval, in words."""
        return rate_text(self._known.rate)

    def show(self, news: list[News]) -> None:
        """Take in what the workers tell, and show it."""
        for item in news:
            if isinstance(item, Line):
                self._line(printable(item.text, limit=LONGEST))
            elif isinstance(item, Progress):
                self._progressed(item)
            elif isinstance(item, Measured):
                self._known.scores[item.step] = item.values
                self._window.validated()
            elif isinstance(item, Saved):
                self._known.checkpoint = (item.step, time.monotonic())
            elif isinstance(item, Lost):
                self._show_last_words(item)
        if self._on_terminal and (news or time.monotonic() - self._drawn_at >= SECONDS_BETWEEN_PANELS):
            self._draw()

    def close(self) -> None:
        """Leave the terminal as it was; the last progress stays there as a line. May be called again."""
        if self._live is None:
            return
        self._live.stop()
        self._live = None
        if self._known.metrics:
            self._line(plain_line(self._known))

    def _progressed(self, item: Progress) -> None:
        self._known.step, self._known.metrics = item.step, item.metrics
        self._window.add(item.step, item.metrics)
        if not self._on_terminal:
            self._line(plain_line(self._known))
        if time.monotonic() - self._looked_at >= SECONDS_BETWEEN_PATTERNS or item.step >= self._known.config.steps:
            self._looked_at = time.monotonic()
            self._look_for_patterns()

    def _look_for_patterns(self) -> None:
        limits, window = limits_of(self._known.config), self._window
        try:
            self._known.patterns = patterns(window.lines, earlier=window.earlier, scores=self._known.scores, **limits)
        except Exception as error:  # a defect in what looks on must not end what is looked at
            if not self._is_told_of_defect:
                self._line(f"warning: known patterns cannot be looked for ({type(error).__name__}: {error})")
            self._is_told_of_defect = True
            return
        for pattern in self._known.patterns:
            if not self._on_terminal and pattern.name not in self._told:
                self._line(printable(f"{pattern.severity}: {pattern.name}: {pattern.advice}", limit=LONGEST))
            self._told.add(pattern.name)

    def _show_last_words(self, lost: Lost) -> None:
        lines = self._last_words(lost.pid, lost.ip)
        if lines:
            self._line(f"what process {lost.pid} on {printable(lost.ip)} wrote last:")
        for line in lines:
            self._line(f"    {printable(line, limit=LONGEST)}")

    def _line(self, text: str) -> None:
        if self._on_terminal:
            self._console.print(Text(text), soft_wrap=True)
        else:
            print(text, file=self._console.file, flush=True)

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        width = self._console.width
        if self._live is not None and width != self._width:
            self._remove_panel(width)
        # One column less: some terminals begin a new line after a full one.
        self._drawn, self._width = panel(self._known, width=width - 1), width
        if self._live is None:
            self._live = Live(Group(*self._drawn), console=self._console, auto_refresh=False, transient=True)
            self._live.start(refresh=True)
            self._console.show_cursor(True)  # a process that is killed would leave the terminal without one
        else:
            self._live.update(Group(*self._drawn), refresh=True)

    def _remove_panel(self, width: int) -> None:
        """Erase it from a terminal that has become so narrow that it broke its lines into several."""
        more = sum(max(0, math.ceil(line.cell_len / width) - 1) for line in self._drawn)
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._console.control(Control(*[(ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)] * more))
