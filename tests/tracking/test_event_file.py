"""Files of events, read by TensorBoard's own reader; and a disk that is full for a while."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from tecogan_dist.tracking.event_file import EventFile
from tests.support.small_disk import small_disk


def value(number: float, *, size: int = 0) -> Summary:
    return Summary(value=[Summary.Value(tag="x" * size + "loss", simple_value=number)])


def test_events_are_read_back(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "new" / "folder")
    for step in range(1, 4):
        file.add(Event(step=step, summary=value(step / 2, size=10_000 * step)))
    (path,) = (tmp_path / "new" / "folder").iterdir()
    head, *events = EventFileLoader(str(path)).Load()
    assert head.file_version == "brain.Event:2"
    assert [event.step for event in events] == [1, 2, 3]
    assert all(event.wall_time > 1.7e9 for event in events)


def test_files_are_read_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    """TensorBoard goes by their names: an attempt may begin within a second, or on a machine whose clock lags."""
    for number in range(8):
        EventFile(tmp_path).add(Event(step=number, summary=value(1.0)))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [list(EventFileLoader(str(tmp_path / name)).Load())[1].step for name in names] == list(range(8))


def test_what_finds_no_room_is_left_out_as_a_whole(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(b"0" * 40_000)
        file = EventFile(disk / "tensorboard")
        file.add(Event(step=1, summary=value(1.0)))
        with pytest.raises(OSError, match="No space"):
            file.add(Event(step=2, summary=value(2.0, size=60_000)))
        ballast.unlink()
        file.add(Event(step=3, summary=value(3.0)))
        (path,) = (disk / "tensorboard").iterdir()
        assert [event.step for event in EventFileLoader(str(path)).Load()][1:] == [1, 3]
