"""Reading ahead and writing behind: order, bounds, errors, and threads that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling.threads import WriteBehind, read_ahead


def test_read_ahead_is_bounded_and_ordered() -> None:
    drawn = 0

    def numbers() -> Iterator[int]:
        nonlocal drawn
        while drawn < 20:
            drawn += 1
            yield drawn

    ahead = read_ahead(numbers(), depth=3)
    assert next(ahead) == 1
    time.sleep(0.2)
    assert drawn == 4
    assert list(ahead) == list(range(2, 21))


def test_read_ahead_passes_an_error_on_in_its_place() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise UserError("the third is broken")

    ahead = read_ahead(numbers())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(UserError, match="third"):
        next(ahead)


def test_leaving_read_ahead_early_ends_its_thread() -> None:
    before = threading.active_count()
    ahead = read_ahead(iter(range(1000)))
    next(ahead)
    ahead.close()
    assert threading.active_count() == before


def test_write_behind_runs_beside_the_caller_and_surfaces_errors() -> None:
    written: list[int] = []
    release = threading.Event()

    def write(number: int) -> None:
        release.wait(10)
        if number == 3:
            raise OSError("full")
        written.append(number)

    def put_four() -> None:
        with WriteBehind(write, depth=4) as behind:
            for number in range(1, 5):
                behind.put(number)
            assert written == []  # none has run, and no put has waited
            release.set()

    with pytest.raises(OSError, match="full"):
        put_four()
    assert written[:2] == [1, 2]


def test_write_behind_drops_what_waits_when_the_block_fails() -> None:
    written: list[int] = []

    def write(number: int) -> None:
        time.sleep(0.1)
        written.append(number)

    def fail() -> None:
        with WriteBehind(write) as behind:
            for number in range(4):
                behind.put(number)
            raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
        fail()
    assert len(written) <= 2
