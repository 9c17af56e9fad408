"""What a pool of workers is, whoever they are: it takes tasks, and tells what happens. Events can be pickled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from tecogan_dist.upscaling.segment import SegmentResult, SegmentTask


@dataclass(frozen=True)
class Ready:
    """A worker that can take a task, for the first time."""

    worker: int


@dataclass(frozen=True)
class Advanced:
    """So many more frames of the worker's task are done."""

    worker: int
    frames: int


@dataclass(frozen=True)
class Noted:
    """A sentence for the user."""

    worker: int
    text: str


@dataclass(frozen=True)
class Done:
    """The worker's task is done."""

    worker: int
    result: SegmentResult


@dataclass(frozen=True)
class Failed:
    """The worker's task cannot be done, here or elsewhere; ``text`` is the sentence for the user."""

    worker: int
    text: str


@dataclass(frozen=True)
class Broke:
    """A defect of ours in the worker; ``trace`` is for those who mend it."""

    worker: int
    trace: str


@dataclass(frozen=True)
class Lost:
    """The worker is gone, with all that it was doing. It is replaced: a :class:`Ready` of the same number follows.

    A worker's own, which it tells its pool, is that it cannot go on.
    """

    worker: int
    reason: str
    is_expected: bool = False
    """Its machine was taken away, as machines are that others may have: nothing is wrong with what it did."""


Event = Ready | Advanced | Noted | Done | Failed | Broke | Lost


class Workers(ABC):
    """Those who make segments, by numbers from 0. A context manager: when it is left, all are ended at once."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many there are to be; some may not be ready yet."""

    @abstractmethod
    def begin(self, worker: int, task: SegmentTask) -> None:
        """Give a task to a worker that is ready and has none."""

    @abstractmethod
    def event(self, timeout: float) -> Event | None:
        """What happened next; None if nothing did for ``timeout`` seconds.

        Raises :class:`UserError` if no worker can be started any more.
        """

    @abstractmethod
    def stop(self, worker: int) -> None:
        """Give up what the worker does: it is ended and replaced, without a :class:`Lost`."""

    @abstractmethod
    def __enter__(self) -> Workers: ...

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...
