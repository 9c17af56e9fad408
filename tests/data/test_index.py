"""The index of a store when it is hostile, and folders that are not a store."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import Scenes, read_index
from tecogan_dist.data.index import INDEX_NAME, OLDER_SCHEMA, SCHEMA, Scene
from tecogan_dist.data.writing import MARKER, ClipStoreWriter
from tests.support.properties import EXAMPLES

SCENE = Scene(
    number=2000,
    file="clips/scene_2000.mp4",
    frames=5,
    height=48,
    width=64,
    rate="24/1",
    source="/films/a.mp4",
    source_start=0,
    downscale=1,
    sha256="0" * 64,
)
PAIR: dict[str, Any] = {"lr_file": "clips/scene_2000_lr.mp4", "lr_sha256": "1" * 64}


def table(*rows: dict[str, Any], schema: pa.Schema = SCHEMA, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    filled = [{**dataclasses.asdict(SCENE), **row} for row in rows]
    filled = [{name: row[name] for name in schema.names} for row in filled]
    pq.write_table(pa.Table.from_pylist(filled, schema=schema), buffer, **settings)
    return buffer.getvalue()


def read(folder: Path, data: bytes) -> Scenes | None:
    (folder / INDEX_NAME).write_bytes(data)
    return read_index(Location.of(folder))


def test_rows_come_back_also_from_the_table_of_earlier_versions(tmp_path: Path) -> None:
    assert read(
        tmp_path, table({}, {**PAIR, "number": 7, "file": "clips/scene_0007.mkv", "lr_file": None, "lr_sha256": None})
    )
    assert read(tmp_path, table(PAIR)) == (dataclasses.replace(SCENE, **PAIR),)
    assert read(tmp_path, table({}, schema=OLDER_SCHEMA)) == (SCENE,)
    signed = "https://u:hidden@h/a.zip?X-Amz-Signature=hidden&v=3#walk"
    (scene,) = read(tmp_path, table({"source": signed}, schema=OLDER_SCHEMA)) or Scenes.of(())
    assert scene.source == "https://h/a.zip?v=3#walk"


@pytest.mark.parametrize(
    "row",
    [
        *(
            {"file": name}
            for name in ("clips/../../a.mp4", "/etc/passwd", "clips/scene_2001.mp4", "clips/scene_2000.x")
        ),
        *({"file": name} for name in ("scene_2000.mp4", "clips/x/scene_2000.mp4", "clips/scene_2000.mp4\n", "", None)),
        *({"file": name} for name in ("clips/scene_02000.mp4", "clips/scene_\u0662\u0660\u0660\u0660.mp4")),
        *({"number": number} for number in (-1, None)),
        *({"frames": frames} for frames in (0, -5, None, 2**40)),
        *({"height": 0}, {"height": None}, {"width": -1}, {"width": 2**62}, {"height": 2**20, "width": 2**20}),
        *({"rate": rate} for rate in ("24", "0/1", "1/0", "a/b", None, "nan/1", "1/1\n", "-1/2")),
        *({"source": None}, {"source_start": -1}, {"source_start": None}, {"downscale": 0}, {"downscale": None}),
        *({"sha256": text} for text in (None, "", "0" * 63, "g" * 64, "../" + "0" * 61)),
        *({"encoding": text} for text in (None, "", "shell")),
        *(
            PAIR | part
            for part in ({"lr_sha256": None}, {"lr_file": None}, {"lr_file": "../a.mp4"}, {"lr_sha256": "x"})
        ),
        *({"source": "a" * 10**6}, {"content": "a" * 10**6}),
    ],
)
def test_a_row_that_cannot_be_ours_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"index\.parquet is damaged") as caught:
        read(tmp_path, table(row))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_other_tables_and_bombs_are_refused_in_bounded_time_and_memory(tmp_path: Path) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(UserError, match="two rows of one number"):
        read(tmp_path, table({}, {}))
    # 50 000 rows of 30 kB each, in a few kilobytes.
    row = {**dataclasses.asdict(SCENE), **PAIR, "source": "a" * 30_000, "content": "x"}
    columns = {field.name: pa.array([row[field.name]], field.type) for field in SCHEMA}
    zeros = pa.array(np.zeros(50_000, np.int32))
    bomb = pa.table({name: pa.DictionaryArray.from_arrays(zeros, column) for name, column in columns.items()})
    buffer = io.BytesIO()
    pq.write_table(bomb, buffer, store_schema=False)
    assert len(buffer.getvalue()) < 100_000
    with pytest.raises(UserError, match="two rows of one number"):
        read(tmp_path, buffer.getvalue())
    with pytest.raises(UserError, match="not packed as ours"):
        read(tmp_path, table({"source": "a" * 30_000}, compression="zstd"))
    without_number = pa.Table.from_pylist([], schema=pa.schema(list(SCHEMA)[1:]))
    for other in (pa.table({"number": [1]}), pa.table({"number": ["a"]}), without_number):
        buffer = io.BytesIO()
        pq.write_table(other, buffer)
        with pytest.raises(UserError, match="not the index of a clip store"):
            read(tmp_path, buffer.getvalue())
    (tmp_path / INDEX_NAME).unlink()
    os.mkfifo(tmp_path / INDEX_NAME)
    with pytest.raises(UserError, match="a FIFO"):
        read_index(Location.of(tmp_path))
    assert time.monotonic() - began < 45
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


REAL = table(*({"number": number, "file": f"clips/scene_{number}.mp4"} for number in range(2000, 2006)))


@EXAMPLES
@given(
    st.lists(st.tuples(st.integers(0, len(REAL) - 1), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6),
    st.integers(0, len(REAL)),
)
def test_changed_bytes_are_rows_or_one_sentence(tmp_path: Path, changes: list[tuple[int, bytes]], length: int) -> None:
    data = bytearray(REAL)
    for position, value in changes:
        data[position : position + len(value)] = value
    for kept in (data, data[:length]):
        with contextlib.suppress(UserError):
            scenes = read(tmp_path, bytes(kept))
            assert all(scene.file.startswith("clips/scene_") for scene in scenes or ())


def test_a_folder_of_others_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    files = {".lock": b"mine", "clips/.partial_notes": b"mine", "clips/scene_2000.mp4": b"film", "clips/x.mp4": b"film"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    os.mkdir(tmp_path / "clips" / ".partial_abcdefgh")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match="is not empty and not a clip store: give a new folder"):
        ClipStoreWriter(tmp_path).__enter__()
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*")} == before
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    (tmp_path / MARKER).write_bytes(b"of somebody else")
    with pytest.raises(UserError, match="is not the mark of a clip store"):
        ClipStoreWriter(tmp_path).__enter__()
    (tmp_path / MARKER).unlink()
    (tmp_path / INDEX_NAME).write_bytes(b"my own index")
    with pytest.raises(UserError, match=r"index\.parquet cannot be read"):
        ClipStoreWriter(tmp_path).__enter__()
    assert (tmp_path / ".lock").read_bytes() == b"mine"


def test_a_store_of_an_earlier_version_is_known_by_its_index_and_marked(tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_bytes(table({}, schema=OLDER_SCHEMA))
    with ClipStoreWriter(tmp_path) as writer:
        assert writer.scenes == {2000: SCENE}
    assert (tmp_path / MARKER).is_file()


def test_only_what_a_killed_process_of_ours_left_is_removed(tmp_path: Path) -> None:
    with ClipStoreWriter(tmp_path / "s"):
        pass
    clips, films = tmp_path / "s" / "clips", tmp_path / "films"
    for folder in (clips / ".partial_0a_b1c2d", clips / ".partial_mine", clips / ".partial_abcdefgh", films):
        folder.mkdir(parents=True)
    for name in ("scene_2000.mp4", ".scene_2001_lr.partial.mp4"):
        (clips / ".partial_0a_b1c2d" / name).write_bytes(b"half")
    (films / "scene_2000.mp4").write_bytes(b"film")
    (clips / ".partial_12345678").symlink_to(films)
    (clips / ".partial_abcdefgh" / "notes.txt").write_bytes(b"notes")
    with ClipStoreWriter(tmp_path / "s"):
        pass
    assert sorted(path.name for path in clips.iterdir()) == [".partial_12345678", ".partial_abcdefgh", ".partial_mine"]
    assert (films / "scene_2000.mp4").read_bytes() == b"film"
    for path in (clips / ".partial_abcdefgh").iterdir():
        path.unlink()
    clips.rename(tmp_path / "elsewhere")
    clips.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a symbolic link"):
        ClipStoreWriter(tmp_path / "s").__enter__()
