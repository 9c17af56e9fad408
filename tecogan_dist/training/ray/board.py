"""The board: an actor of the driver's, through which the driver and its workers reach each other."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """An event for people."""

    text: str


@dataclass(frozen=True)
class Progress:
    """The training metrics of the last steps."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Measured:
    """The metrics of the held-out scenes with the weights after a step."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Saved:
    """The checkpoint of a step is complete."""

    step: int


@dataclass(frozen=True)
class Lost:
    """A worker's process is gone: its number, and its machine's address."""

    pid: int
    ip: str


class FirstWorker(enum.Enum):
    """Where the first worker is, which keeps the records for all."""

    TRAINS = enum.auto()
    ENDS = enum.auto()
    """It brings its last records where they belong."""
    HAS_ENDED = enum.auto()


News = Line | Progress | Measured | Saved | Lost


class Board:
    """What workers have to say, until the driver takes it; and what the driver and Ray's controller ask of them."""

    def __init__(self) -> None:
        self._news: list[News] = []
        self._sentence: str | None = None
        self._stop = self._save = False
        self._first = FirstWorker.TRAINS

    def say(self, line: str) -> None:
        self._news.append(Line(line))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._news.append(Progress(step, metrics))

    def measured(self, step: int, values: dict[str, float]) -> None:
        self._news.append(Measured(step, values))

    def checkpoint(self, step: int) -> None:
        self._news.append(Saved(step))

    def lost(self, pid: int, ip: str) -> None:
        """What it wrote last should be shown."""
        self._news.append(Lost(pid, ip))

    def take(self) -> list[News]:
        news, self._news = self._news, []
        return news

    def give_up(self, sentence: str) -> None:
        """A worker met something that only the user can put right."""
        self._sentence = sentence

    def first_is(self, where: FirstWorker) -> None:
        """Told by the first worker of each attempt."""
        self._first = where

    def first(self) -> FirstWorker:
        return self._first

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
