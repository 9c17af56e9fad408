"""What is given to whom, what is counted, and what happens when workers are lost: with workers that a test plays."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling.segment import SegmentResult, SegmentTask
from tecogan_dist.upscaling.spread import MOST_LOSSES, Finished, GivenUp, Spread, WorkerDefectError
from tecogan_dist.upscaling.workers import Advanced, Broke, Done, Event, Failed, Lost, Ready, Workers
from tests.support.segments import Film, film, moving_folder


class Played(Workers):
    """Workers whose events a test makes."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.events = deque[Event](Ready(worker) for worker in range(count))
        self.tasks: dict[int, SegmentTask] = {}
        self.begun: list[tuple[str, int]] = []
        self.stopped: list[int] = []

    @property
    def count(self) -> int:
        return self._count

    def begin(self, worker: int, task: SegmentTask) -> None:
        assert worker not in self.tasks
        self.tasks[worker] = task
        self.begun.append((task.output.name, task.segment.number))

    def event(self, timeout: float) -> Event | None:  # noqa: ARG002
        return self.events.popleft() if self.events else None

    def stop(self, worker: int) -> None:
        del self.tasks[worker]
        self.stopped.append(worker)
        self.events.append(Ready(worker))

    def __enter__(self) -> Played:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def done(self, worker: int) -> None:
        segment = self.tasks.pop(worker).segment
        self.events.append(
            Done(worker, SegmentResult(number=segment.number, frames=segment.frames, seconds=1, tile=None, size=9))
        )

    def lost(self, worker: int, *, is_expected: bool = False) -> None:
        del self.tasks[worker]
        self.events += [Lost(worker, "it was ended", is_expected), Ready(worker)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_folder(tmp_path_factory.mktemp("source") / "source")


def test_groups_at_once_and_each_in_order(source: Path, tmp_path: Path) -> None:
    made = film(source, tmp_path / "out")
    assert [[task.segment.number for task in group] for group in made.groups] == [[0, 1, 2], [3], [4, 5, 6]]
    workers, advanced = Played(2), list[int]()
    spread = Spread[str](workers, advance=lambda _, frames: advanced.append(frames))
    spread.add("a", made.groups)
    assert list(spread.outcomes(0)) == []
    # The longest first: 9 frames, then 8, then the scene of 3.
    assert [task.segment.number for task in workers.tasks.values()] == [0, 4]
    workers.done(1)
    assert list(spread.outcomes(0)) == []
    assert {worker: task.segment.number for worker, task in workers.tasks.items()} == {0: 0, 1: 5}
    for worker in (1, 1, 1):  # to the end of its group, and the scene that nobody has begun
        workers.done(worker)
        list(spread.outcomes(0))
    assert {worker: task.segment.number for worker, task in workers.tasks.items()} == {0: 0}
    for _ in range(2):
        workers.done(0)
        assert list(spread.outcomes(0)) == []
    workers.done(0)
    assert list(spread.outcomes(0)) == [Finished("a")]
    assert not spread.is_busy
    assert sum(advanced) == 20
    assert [number for _, number in workers.begun] == [0, 4, 5, 6, 3, 1, 2]


def test_a_lost_workers_segment_is_made_again_and_counted_once(source: Path, tmp_path: Path) -> None:
    made = film(source, tmp_path / "out")
    workers, counted, notes = Played(1), list[int](), list[str]()
    spread = Spread[str](workers, advance=lambda _, frames: counted.append(frames), note=notes.append)
    spread.add("a", made.groups)
    list(spread.outcomes(0))
    workers.events += [Advanced(0, 2)]
    list(spread.outcomes(0))
    workers.lost(0)
    list(spread.outcomes(0))
    assert workers.tasks[0].segment.number == 0  # again, before all others
    assert notes == ["it was ended while it made segment 0 (frames 0 to 2) of out; that is made again"]
    workers.events += [Advanced(0, 1), Advanced(0, 1)]
    list(spread.outcomes(0))
    assert counted == [2]
    while spread.is_busy:
        workers.done(0)
        list(spread.outcomes(0))
    assert sum(counted) == 20


def test_the_third_loss_is_not_an_accident(source: Path, tmp_path: Path) -> None:
    made = film(source, tmp_path / "out")
    workers = Played(1)
    spread = Spread[str](workers)
    spread.add("a", made.groups)
    outcomes = []
    for _ in range(MOST_LOSSES):
        outcomes += list(spread.outcomes(0))
        workers.lost(0)
    outcomes += list(spread.outcomes(0))
    (outcome,) = outcomes
    assert isinstance(outcome, GivenUp)
    assert outcome.key == "a"
    assert str(outcome.error).startswith("3 workers were lost while they made segment 0 (frames 0 to 2) of ")
    assert "fewer --workers" in str(outcome.error)
    assert not spread.is_busy


def test_machines_that_were_taken_away_are_no_losses(source: Path, tmp_path: Path) -> None:
    workers = Played(1)
    spread = Spread[str](workers)
    spread.add("a", film(source, tmp_path / "out").groups)
    for _ in range(2 * MOST_LOSSES):
        assert not list(spread.outcomes(0))
        workers.lost(0, is_expected=True)
    assert not list(spread.outcomes(0))
    assert workers.tasks[0].segment.number == 0


def test_a_failed_film_does_not_stop_the_others(source: Path, tmp_path: Path) -> None:
    first, second = film(source, tmp_path / "first"), film(source, tmp_path / "second")
    workers = Played(3)
    spread = Spread[str](workers)
    spread.add("first", first.groups)
    spread.add("second", second.groups)
    list(spread.outcomes(0))
    assert [name for name, _ in workers.begun] == 3 * ["first"]
    assert not spread.has_room
    workers.tasks.pop(1)
    workers.events.append(Failed(1, "frame 13 is damaged."))
    (outcome,) = spread.outcomes(0)
    assert isinstance(outcome, GivenUp)
    assert (outcome.key, str(outcome.error)) == ("first", "frame 13 is damaged.")
    assert workers.stopped == [0, 2]  # what they did is of no use any more
    list(spread.outcomes(0))
    assert {task.output.name for task in workers.tasks.values()} == {"second"}
    finished = list[object]()
    while spread.is_busy:
        for worker in list(workers.tasks):
            workers.done(worker)
        finished += list(spread.outcomes(0))
    assert finished == [Finished("second")]
    assert spread.has_room


def test_a_film_of_which_nothing_is_left_and_a_defect(source: Path, tmp_path: Path) -> None:
    workers = Played(1)
    spread = Spread[str](workers)
    spread.add("done", [])
    assert list(spread.outcomes(0)) == [Finished("done")]
    spread.add("a", film(source, tmp_path / "out").groups)
    list(spread.outcomes(0))
    workers.events.append(Broke(0, "Traceback: IndexError"))
    with pytest.raises(WorkerDefectError, match="IndexError"):
        list(spread.outcomes(0))


def test_run_raises_what_failed(source: Path, tmp_path: Path) -> None:
    workers = Played(1)
    spread = Spread[str](workers)
    made: Film = film(source, tmp_path / "out")
    spread.add("a", made.groups)
    workers.events.append(Failed(0, "the disk is full."))
    with pytest.raises(UserError, match="the disk is full"):
        spread.run()
