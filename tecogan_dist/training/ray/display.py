"""Progress of a run for people, on its way from the workers to the screen."""

from __future__ import annotations

import sys

from tecogan_dist.base.console import printable
from tecogan_dist.config.schema import Config
from tecogan_dist.training.ray.board import Line, News, Progress

SHOWN_LOSSES = ("content", "warp", "perceptual", "pingpong", "adversarial", "discriminator")
LONGEST = 1000
"""Characters of a line that a worker sends: names in it come from outside."""


class Display:
    """Progress for people: one line that refreshes itself on a terminal, plain lines elsewhere."""

    def __init__(self, config: Config) -> None:
        self.rate = "no step measured"
        self._steps = config.steps
        self._on_terminal = sys.stdout.isatty()
        self._open_line = 0

    def show(self, news: list[News]) -> None:
        for item in news:
            if isinstance(item, Line):
                self._print(printable(item.text, limit=LONGEST))
            elif isinstance(item, Progress):
                self._print(self._progress(item.step, item.metrics), refresh=item.step < self._steps)

    def close(self) -> None:
        if self._open_line:
            print(flush=True)
        self._open_line = 0

    def _progress(self, step: int, metrics: dict[str, float]) -> str:
        self.rate = f"{metrics['steps_per_second']:.3g} steps/s"
        left = clock((self._steps - step) / metrics["steps_per_second"])
        losses = "  ".join(f"{name} {metrics[name]:.4g}" for name in SHOWN_LOSSES if name in metrics)
        return f"step {step}/{self._steps}  {self.rate}  left {left}  {losses}  wait {metrics['data_wait']:.0%}"

    def _print(self, line: str, *, refresh: bool = False) -> None:
        if not self._on_terminal:
            print(line, flush=True)
            return
        print("\r" + line.ljust(self._open_line), end="" if refresh else "\n", flush=True)
        self._open_line = len(line) if refresh else 0


def clock(seconds: float) -> str:
    """Hours (if any), minutes and seconds: 1:02:03, 4:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
