"""The index and its parts: whatever happens while scenes are entered, a store has those that were."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data import parts
from tecogan_dist.data.clips import ClipStore, Scene, Scenes, read_index
from tecogan_dist.data.index import INDEX_NAME, OLDER_SCHEMA, packed, unpacked
from tecogan_dist.data.parts import MOST_PARTS, PART_ROWS, PARTS, part_name
from tecogan_dist.data.writing import ClipStoreWriter
from tests.data.test_index import PAIR, SCENE, table
from tests.support.paths import REPOSITORY
from tests.support.s3_server import S3Server


@pytest.fixture(params=["local", "s3", "gs"])
def location(request: pytest.FixtureRequest, tmp_path: Path, server: S3Server, gs_address: str) -> Location:
    uris = {"local": str(tmp_path / "store"), "s3": server.uri(tmp_path.name), "gs": gs_address.format(tmp_path.name)}
    return Location(uris[request.param])


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3 rows, and an index after every second."""
    monkeypatch.setattr(parts, "PART_ROWS", 3)
    monkeypatch.setattr(parts, "MOST_PARTS", 2)


def scene(number: int, **facts: Any) -> Scene:
    return dataclasses.replace(SCENE, number=number, file=f"clips/scene_{number:04d}.mp4", **facts)


def numbers(location: Location) -> list[int]:
    return [scene.number for scene in read_index(location) or ()]


def of_index_only(location: Location) -> list[int]:
    """What versions that know no parts see."""
    index = location / INDEX_NAME
    return unpacked(index.read_bytes(), index).numbers().tolist()


def checksum(location: Location) -> str:
    return parts._checksum((location / INDEX_NAME).read_bytes())


@contextlib.contextmanager
def killed(location: Location) -> Iterator[ClipStoreWriter]:
    """A writer that ends without closing; its lock is gone with it."""
    writer = ClipStoreWriter(location)
    writer.__enter__()
    try:
        yield writer
    finally:
        writer._lock.__exit__(None, None, None)


@pytest.mark.usefixtures("small_parts")
def test_scenes_are_entered_into_parts_which_become_the_index(location: Location) -> None:
    with ClipStoreWriter(location) as writer:
        for number in range(5):
            writer.enter(scene(10 - number))
        assert len((location / PARTS).names()) == 2
        assert (of_index_only(location), numbers(location)) == ([], [6, 7, 8, 9, 10])
        again = scene(10, frames=7)  # of the first part, and replaced in the second
        writer.enter(again)
        writer.enter(scene(5))
        assert of_index_only(location) == [6, 7, 8, 9, 10]  # the parts were full
        assert (location / PARTS).names() == [part_name(checksum(location), 1).rpartition("/")[2]]
        assert read_index(location) == [*map(scene, range(5, 10)), again] == list(writer.scenes.values())
        writer.enter_all([scene(6, frames=8), scene(3)])
        assert of_index_only(location) == [3, *range(5, 11)]
        writer.enter(scene(4))
    assert of_index_only(location) == list(range(3, 11))
    assert (read_index(location) or Scenes.of(()))[3].frames == 8
    assert (location / PARTS).names() == []
    if location.is_local:
        assert not (location.path / PARTS).exists()
    with ClipStoreWriter(location) as writer:
        assert writer.scenes[10] == again


@pytest.mark.usefixtures("small_parts")
def test_removed_scenes_stay_away(location: Location) -> None:
    with ClipStoreWriter(location) as writer:
        writer.enter_all([scene(1), scene(2)])
        before = (location / INDEX_NAME).read_bytes()
        writer.enter(scene(3))
        writer.enter(scene(2, frames=9))
        writer.enter(scene(2))
        writer.remove([3, 77])
        assert (location / INDEX_NAME).read_bytes() == before  # for which there were parts
        assert (numbers(location), list(writer.scenes)) == ([1, 2], [1, 2])
    with killed(location) as writer:
        writer.enter(scene(5))
        writer.remove([2])
        writer.enter(scene(6))
    assert numbers(location) == [1, 5, 6]


def test_a_killed_writers_parts_become_the_index(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tecogan_dist.base.lock.STALE_SECONDS", 0.0)
    with killed(location) as writer:
        writer.enter(scene(1))
        writer.enter(scene(2))
    assert (of_index_only(location), numbers(location)) == ([], [1, 2])
    with ClipStoreWriter(location) as writer:
        assert of_index_only(location) == list(writer.scenes) == [1, 2]
        assert (location / PARTS).names() == []


def test_an_earlier_versions_store_and_its_writer(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    (tmp_path / INDEX_NAME).write_bytes(table({}, schema=OLDER_SCHEMA))
    with killed(location) as writer:
        writer.enter(scene(1))
        assert (tmp_path / INDEX_NAME).read_bytes() == table({}, schema=OLDER_SCHEMA)
    assert read_index(location) == [scene(1), SCENE]
    # Its writer sees one scene, makes the other again, and one more.
    (tmp_path / INDEX_NAME).write_bytes(packed(Scenes.of([SCENE, scene(1, frames=8), scene(3)])))
    assert len(list((tmp_path / PARTS).iterdir())) == 1
    assert read_index(location) == [scene(1, frames=8), scene(3), SCENE]
    # Or it takes one out.
    (tmp_path / INDEX_NAME).write_bytes(packed(Scenes.of([scene(3)])))
    assert read_index(location) == [scene(3)]
    with ClipStoreWriter(location) as writer:
        assert list(writer.scenes) == [3]
    assert not (tmp_path / PARTS).exists()


@pytest.mark.usefixtures("small_parts")
def test_a_store_is_whole_between_any_two_steps_of_its_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill comes between two steps, each of which is a renaming or a removal."""
    location, moments = Location.of(tmp_path / "store"), list[tuple[set[int], set[int]]]()
    entered: set[int] = set()
    entering: set[int] = set()

    def step(action: Callable[..., None]) -> Callable[..., None]:
        def taken(place: Location, *data: bytes) -> None:
            if place.name == INDEX_NAME or PARTS in place.uri:
                shutil.copytree(tmp_path / "store", tmp_path / f"moment_{len(moments)}")
                moments.append((entered - removing, entered | entering))
            action(place, *data)

        return taken

    removing: set[int] = set()
    with ClipStoreWriter(location) as writer:
        for name in ("write_bytes", "delete", "delete_folder"):
            monkeypatch.setattr(Location, name, step(getattr(Location, name)))
        for number in range(16):
            entering = {number}
            writer.enter(scene(number))
            entered, entering = entered | entering, set()
        removing = {3, 15}
        writer.remove(removing)
        entered, removing = entered - removing, set()
        writer.enter(scene(20))
        entered.add(20)
    monkeypatch.undo()
    assert numbers(location) == sorted(entered)
    assert len(moments) > 30
    for index, (surely, perhaps) in enumerate(moments):
        place = Location.of(tmp_path / f"moment_{index}")
        found = numbers(place)
        assert surely <= set(found) <= perhaps
        assert set(of_index_only(place)) <= perhaps
        with ClipStoreWriter(place) as writer:
            assert list(writer.scenes) == found
            writer.enter(scene(99))
        assert of_index_only(place) == [*found, 99]
        assert sorted(os.listdir(place.path)) == [".lock", ".tecogan_store", INDEX_NAME]


KILLED_WRITER = """
import itertools, sys
from tecogan_dist.data import parts
from tecogan_dist.data.writing import ClipStoreWriter
from tests.data.test_parts import scene

parts.PART_ROWS, parts.MOST_PARTS = 2, 2
with ClipStoreWriter(sys.argv[1]) as writer:
    for number in itertools.count():
        writer.enter(scene(number))
        print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("milliseconds", range(0, 40, 5))
def test_kill_9_while_parts_become_the_index(tmp_path: Path, milliseconds: int) -> None:
    location = Location.of(tmp_path / "store")
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, str(location)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    while child.stdout.readline() != "11\n":  # the next one finds two full parts
        assert child.poll() is None
    time.sleep(milliseconds / 1e3)
    child.kill()
    last = int((child.stdout.read().split() or ["11"])[-1])
    assert child.wait(timeout=30) == -signal.SIGKILL
    found = numbers(location)
    assert found == list(range(len(found)))
    assert last + 1 <= len(found) <= last + 2
    with ClipStoreWriter(location) as writer:
        writer.enter(scene(len(found)))
    assert of_index_only(location) == [*found, len(found)]
    assert sorted(os.listdir(location.path)) == [".lock", ".tecogan_store", INDEX_NAME]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("when", [PARTS, INDEX_NAME, "part_"])
@pytest.mark.parametrize("count", [1, 7, 20])
def test_a_reader_meets_a_new_index_at_any_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, count: int
) -> None:
    """Before it lists the parts, before it reads the index, and before it reads the first part."""
    location = Location.of(tmp_path / "store")
    with killed(location) as writer:
        for number in range(5):
            writer.enter(scene(number))
        entered = iter(range(5, 5 + count))

        def step(action: Callable[..., Any]) -> Callable[..., Any]:
            def taken(place: Location, *limits: int) -> Any:
                if place.name.startswith(when):
                    with monkeypatch.context() as writers:
                        for name, original in originals.items():
                            writers.setattr(Location, name, original)
                        for number in entered:
                            writer.enter(scene(number))
                return action(place, *limits)

            return taken

        originals = {name: getattr(Location, name) for name in ("names", "read_bytes")}
        for name, original in originals.items():
            monkeypatch.setattr(Location, name, step(original))
        found = numbers(location)
    assert found == list(range(len(found)))
    assert 5 <= len(found) <= 5 + count
    if when == PARTS:
        assert len(found) == 5 + count


@pytest.mark.usefixtures("small_parts")
def test_a_reader_beside_a_busy_writer(location: Location) -> None:
    entered, ended = [0], threading.Event()

    def write() -> None:
        with ClipStoreWriter(location) as writer:
            while not ended.is_set():
                writer.enter(scene(entered[0]))
                entered[0] += 1

    with ClipStoreWriter(location):
        pass
    thread = threading.Thread(target=write)
    thread.start()
    try:
        reads, deadline = 0, time.monotonic() + 3
        while time.monotonic() < deadline or (reads < 3 and thread.is_alive()):
            before = entered[0]
            found = numbers(location)
            assert found == list(range(len(found)))
            assert before <= len(found) <= entered[0] + 1
            reads += 1
    finally:
        ended.set()
        thread.join(60)
    assert numbers(location) == list(range(entered[0]))
    assert entered[0] > 7


def test_a_full_store_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MOST_SCENES", 3)
    with ClipStoreWriter(tmp_path / "s") as writer:
        writer.enter_all([scene(1), scene(2)])
        writer.enter(scene(3))
        writer.enter(scene(3))
        for enter in (lambda: writer.enter(scene(4)), lambda: writer.enter_all([scene(1), scene(4)])):
            with pytest.raises(UserError, match="has no room for more than 3 scenes: begin another store"):
                enter()
    assert numbers(writer.location) == [1, 2, 3]


def store_with_parts(folder: Path, *contents: bytes) -> Location:
    location = Location.of(folder)
    with ClipStoreWriter(location):
        pass
    for number, data in enumerate(contents, 1):
        (location / part_name(checksum(location), number)).write_bytes(data)
    return location


@pytest.mark.parametrize(
    "row",
    [
        *({"file": name} for name in ("clips/../../a.mp4", "/etc/passwd", "clips/scene_2001.mp4", None)),
        *({"number": -1}, {"frames": 0}, {"height": 2**20, "width": 2**20}, {"rate": "1/0"}, {"sha256": "x"}),
        *({"encoding": "shell"}, PAIR | {"lr_file": "../a.mp4"}, {"source": "a" * 10**6}),
    ],
)
def test_rows_of_parts_are_checked_as_those_of_the_index(tmp_path: Path, row: dict[str, Any]) -> None:
    location = store_with_parts(tmp_path / "s", table({}), table(row))
    for use in (read_index, ClipStore.open, lambda place: ClipStoreWriter(place).__enter__()):
        with pytest.raises(UserError, match=r"part_[0-9a-f]{16}_0002\.parquet is damaged"):
            use(location)


def test_hostile_parts_are_one_sentence(tmp_path: Path) -> None:
    def refused(name: str, sentence: str, *contents: bytes) -> Location:
        location = store_with_parts(tmp_path / name, *contents)
        with pytest.raises(UserError, match=sentence) as caught:
            read_index(location)
        assert "\n" not in str(caught.value)
        return location

    rows = [{"number": number, "file": f"clips/scene_{number}.mp4"} for number in range(3000, 3001 + PART_ROWS)]
    assert len(read_index(store_with_parts(tmp_path / "full", table(*rows[1:]))) or ()) == PART_ROWS
    refused("rows", rf"claims {PART_ROWS + 1} scenes, and it has {PART_ROWS} at most", table(*rows))
    refused("twice", "two rows of one number", table({}, {}))
    refused("packed", "not packed as ours", table({"source": "a" * 30_000}, compression="zstd"))
    refused("noise", "cannot be read", b"PAR1 no parquet")
    refused("large", f"more than the {2**24} bytes", bytes(2**24 + 1))
    assert len(read_index(store_with_parts(tmp_path / "most", *[table({})] * MOST_PARTS)) or ()) == 1
    refused("many", "too few or too many files", *[table({})] * (MOST_PARTS + 1))
    gap = store_with_parts(tmp_path / "gap", table({}), table({}))
    (gap / part_name(checksum(gap), 1)).delete()
    with pytest.raises(UserError, match="too few or too many files"):
        read_index(gap)
    fifo = store_with_parts(tmp_path / "fifo")
    (fifo.path / PARTS).mkdir()
    os.mkfifo((fifo / part_name(checksum(fifo), 1)).path)
    with pytest.raises(UserError, match="a FIFO"):
        read_index(fifo)
    nowhere = store_with_parts(tmp_path / "nowhere")
    (nowhere.path / PARTS).mkdir()
    (nowhere / part_name(checksum(nowhere), 1)).path.symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="or they change all the time: try again, or remove it"):
        read_index(nowhere)


def test_only_files_of_our_naming_are_read_or_removed(tmp_path: Path) -> None:
    location = store_with_parts(tmp_path / "s", table({}))
    ours = ["part_0123456789abcdef_0001.parquet", ".part_0123456789abcdef_0001.parquet.0123abcd.partial"]
    others = ["part_1.parquet", "part_0123456789ABCDEF_0001.parquet", ".notes.partial", "notes.txt"]
    for name in (*ours, *others):
        (location.path / PARTS / name).write_bytes(b"something")
    (location.path / f".{INDEX_NAME}.0123abcd.partial").write_bytes(b"half")
    (location.path / f".{INDEX_NAME}.mine").write_bytes(b"mine")
    assert numbers(location) == [2000]
    with ClipStoreWriter(location) as writer:
        assert list(writer.scenes) == [2000]
    assert sorted(os.listdir(location.path / PARTS)) == sorted(others)
    assert [name for name in os.listdir(location.path) if name.startswith(f".{INDEX_NAME}")] == [f".{INDEX_NAME}.mine"]

    shutil.move(location.path / PARTS, tmp_path / "elsewhere")
    (location.path / PARTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"{PARTS} is a symbolic link"):
        ClipStoreWriter(location).__enter__()
