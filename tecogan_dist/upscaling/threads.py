"""Threads on both sides of a loop: one draws its input ahead of it, one writes its output behind it."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

QUEUE = 4
"""Items that wait, at most, between two threads."""

T = TypeVar("T")


def read_ahead(items: Iterable[T], *, depth: int = QUEUE) -> Generator[T]:
    """The same items, drawn up to ``depth`` ahead by a thread; an error in drawing one surfaces in its place."""
    iterator = iter(items)

    def draw() -> list[T]:
        return list(itertools.islice(iterator, 1))  # nothing at the end

    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        waiting = deque(pool.submit(draw) for _ in range(depth))
        try:
            while drawn := waiting.popleft().result():
                waiting.append(pool.submit(draw))
                yield drawn[0]
        finally:
            pool.shutdown(cancel_futures=True)


class WriteBehind(Generic[T]):
    """Calls ``write`` in a thread, in order, with up to ``depth`` calls waiting.

    A context manager. An error in a call surfaces in a later :meth:`put` or, at the latest, at the end of the block;
    when the block itself fails, the calls that wait are dropped.
    """

    def __init__(self, write: Callable[[T], None], *, depth: int = QUEUE) -> None:
        self._write = write
        self._depth = depth
        self._waiting: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")

    def __enter__(self) -> WriteBehind[T]:
        return self

    def put(self, item: T) -> None:
        """Have ``write(item)`` called; waits while the queue is full."""
        if len(self._waiting) == self._depth:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._write, item))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._waiting and error is None:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
