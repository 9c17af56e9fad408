"""Segments over several workers: groups at the same time, a group's segments in order, and lost workers' again.

It knows neither processes nor Ray: :mod:`tecogan_dist.upscaling.processes` and
:mod:`tecogan_dist.upscaling.ray_actors` have the workers. What travels are tasks and small results; frames go from the
source to the work folder's files where they are made. A segment's bits do not depend on who makes it, or on how often
it was begun.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling.segment import SegmentResult, SegmentTask
from tecogan_dist.upscaling.workers import Advanced, Done, Event, Failed, Lost, Noted, Ready, Workers

MOST_LOSSES = 3
"""Workers that may be lost while they make a segment, before it is given up: the third loss is not an accident."""

Key = TypeVar("Key", bound=Hashable)
"""Of a film: its tasks are dropped together, and finished together."""


@dataclass(frozen=True)
class Finished(Generic[Key]):
    """All segments of a film are done."""

    key: Key


@dataclass(frozen=True)
class GivenUp(Generic[Key]):
    """A film that cannot be finished; ``error`` says why. Its other segments are not made."""

    key: Key
    error: UserError


class WorkerDefectError(RuntimeError):
    """A defect of ours in another process; its text is the trace there."""


@dataclass
class _Running(Generic[Key]):
    key: Key
    rest: deque[SegmentTask]
    """Of the group, the one that runs first."""
    frames: int = 0
    """That have been counted for it since it was begun."""


class Spread(Generic[Key]):
    """The tasks of one film or several, on their way through the same workers.

    ``advance`` is called with numbers of frames that are new: of a segment that is made again only with those that its
    lost worker had not reached. ``done`` is called with each result, and ``note`` with sentences for the user.
    """

    def __init__(
        self,
        workers: Workers,
        *,
        advance: Callable[[Key, int], None] = lambda _key, _frames: None,
        note: Callable[[str], None] = lambda _: None,
        done: Callable[[Key, SegmentResult], None] = lambda _key, _result: None,
    ) -> None:
        self._workers, self._advance, self._note, self._done = workers, advance, note, done
        self._idle: set[int] = set()
        self._running: dict[int, _Running[Key]] = {}
        self._waiting: dict[Key, list[deque[SegmentTask]]] = {}
        self._open: dict[Key, int] = {}
        self._losses: Counter[tuple[Key, int]] = Counter()
        self._counted: Counter[tuple[Key, int]] = Counter()

    @property
    def is_busy(self) -> bool:
        """Whether something is to be done, or being done."""
        return bool(self._open)

    @property
    def has_room(self) -> bool:
        """Whether there are fewer groups than workers, so that another film would be welcome."""
        return sum(map(len, self._waiting.values())) + len(self._running) < self._workers.count

    def add(self, key: Key, groups: Sequence[Sequence[SegmentTask]]) -> None:
        """A film's tasks: groups that may run at the same time, each in order. Films that came first go first."""
        filled = [deque(group) for group in groups if group]
        self._open[key] = sum(map(len, filled))
        # The longest first, so that at the end no worker waits for a long one.
        self._waiting[key] = sorted(filled, key=lambda group: -sum(task.segment.frames for task in group))

    def outcomes(self, timeout: float) -> Iterator[Finished[Key] | GivenUp[Key]]:
        """Give tasks to who is free, take what has happened, and yield the films that are at their end.

        Waits up to ``timeout`` seconds for something to happen. Raises :class:`WorkerDefectError` for a defect of ours.
        """
        yield from self._ended()
        self._give()
        event = self._workers.event(timeout)
        while event is not None:
            yield from self._take(event)
            self._give()
            event = self._workers.event(0)

    def run(self) -> None:
        """All that was added, until it is done. Raises :class:`UserError` for the first film that is given up."""
        while self.is_busy:
            for outcome in self.outcomes(timeout=1.0):
                if isinstance(outcome, GivenUp):
                    raise outcome.error

    def _ended(self) -> Iterator[Finished[Key]]:
        for key in [key for key, left in self._open.items() if not left]:
            del self._open[key], self._waiting[key]
            yield Finished(key)

    def _give(self) -> None:
        for worker in sorted(self._idle):
            waiting = next(((key, groups) for key, groups in self._waiting.items() if groups), None)
            if waiting is None:
                return
            key, groups = waiting
            self._begin(worker, _Running(key, groups.pop(0)))

    def _begin(self, worker: int, running: _Running[Key]) -> None:
        self._idle.discard(worker)
        self._running[worker] = running
        self._workers.begin(worker, running.rest[0])

    def _take(self, event: Event) -> Iterator[Finished[Key] | GivenUp[Key]]:
        running = self._running.get(event.worker)
        if isinstance(event, Ready):
            self._idle.add(event.worker)
        elif isinstance(event, Noted):
            self._note(event.text)
        elif running is None:  # it had nothing to do, or its film was given up
            self._idle.discard(event.worker)
        elif isinstance(event, Advanced):
            self._count(running, event.frames)
        elif isinstance(event, Done):
            self._count(running, running.rest[0].segment.frames - running.frames)
            running.rest.popleft()
            del self._running[event.worker]
            self._open[running.key] -= 1
            self._done(running.key, event.result)
            if running.rest:
                self._begin(event.worker, _Running(running.key, running.rest))
            else:
                self._idle.add(event.worker)
            yield from self._ended()
        elif isinstance(event, Lost):
            yield from self._lost(event, running)
        elif isinstance(event, Failed):
            del self._running[event.worker]
            self._idle.add(event.worker)
            yield from self._give_up(running.key, UserError(event.text))
        else:
            raise WorkerDefectError(event.trace)

    def _lost(self, event: Lost, running: _Running[Key]) -> Iterator[GivenUp[Key]]:
        del self._running[event.worker]
        segment = running.rest[0].segment
        name = f"segment {segment.number} (frames {segment.start} to {segment.stop - 1})"
        self._losses[running.key, segment.number] += not event.is_expected
        if self._losses[running.key, segment.number] < MOST_LOSSES:
            self._note(f"{event.reason} while it made {name} of {running.rest[0].output.name}; that is made again")
            self._waiting[running.key].insert(0, running.rest)
            return
        yield from self._give_up(
            running.key,
            UserError(
                f"{MOST_LOSSES} workers were lost while they made {name} of {running.rest[0].output}, the last because "
                f"{event.reason}: free memory or use fewer --workers, and start the same command again; what is "
                "finished is kept."
            ),
        )

    def _give_up(self, key: Key, error: UserError) -> Iterator[GivenUp[Key]]:
        del self._open[key], self._waiting[key]
        for worker in [worker for worker, running in self._running.items() if running.key == key]:
            del self._running[worker]
            self._workers.stop(worker)
        yield GivenUp(key, error)

    def _count(self, running: _Running[Key], frames: int) -> None:
        at = (running.key, running.rest[0].segment.number)
        running.frames += frames
        new = max(0, running.frames - self._counted[at])
        self._counted[at] += new
        if new:
            self._advance(running.key, new)


class Spreading:
    """The :class:`tecogan_dist.upscaling.job.Runner` of one film on workers, which are there only while it runs."""

    def __init__(self, workers: Callable[[int], AbstractContextManager[Workers]]) -> None:
        """``workers`` are made for a number of groups that can be made at the same time."""
        self._workers = workers

    def __call__(
        self,
        groups: Sequence[Sequence[SegmentTask]],
        *,
        done: Callable[[SegmentResult], None],
        advance: Callable[[int], None],
        note: Callable[[str], None],
    ) -> None:
        with self._workers(len(groups)) as workers:
            spread = Spread[None](
                workers,
                advance=lambda _, frames: advance(frames),
                note=note,
                done=lambda _, result: done(result),
            )
            spread.add(None, groups)
            spread.run()
