"""Progress of a run for people, on its way from the workers to the screen."""

from __future__ import annotations

import sys
from typing import Any

from tecogan_dist.config import Config

SHOWN_LOSSES = ("content", "warp", "perceptual", "pingpong", "adversarial", "discriminator")


class Board:
    """An actor of the driver's: what workers have to say, until the driver takes it."""

    def __init__(self) -> None:
        self._news: list[tuple[int, Any]] = []
        self._sentence: str | None = None
        self._stop = self._save = False

    def say(self, line: str) -> None:
        self._news.append((0, line))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._news.append((step, metrics))

    def take(self) -> list[tuple[int, Any]]:
        news, self._news = self._news, []
        return news

    def give_up(self, sentence: str) -> None:
        """A worker met something that only the user can put right."""
        self._sentence = sentence

    def ask_to_stop(self) -> None:
        """The run should end after its present step, with a checkpoint."""
        self._stop = True

    def ask_to_save(self) -> None:
        """A checkpoint is wanted soon, whatever the step."""
        self._save = True

    def asked_to_save(self) -> bool:
        """Whether it is still wanted."""
        return self._save

    def saved(self) -> None:
        """It has been written, or cannot be."""
        self._save = False

    def asked(self) -> tuple[bool, bool]:
        """To stop, and to save."""
        return self._stop, self._save

    def given_up(self) -> str | None:
        return self._sentence


class Display:
    """Progress for people: one line that refreshes itself on a terminal, plain lines elsewhere."""

    def __init__(self, config: Config) -> None:
        self.rate = "no step measured"
        self._steps = config.steps
        self._on_terminal = sys.stdout.isatty()
        self._open_line = 0

    def show(self, news: list[tuple[int, Any]]) -> None:
        for step, item in news:
            if isinstance(item, str):
                self._print(item)
            else:
                self._print(self._progress(step, item), refresh=step < self._steps)

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
