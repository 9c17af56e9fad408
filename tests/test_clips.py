from __future__ import annotations

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tecogan_dist.data.clips import ClipStore, ClipStoreWriter, open_clip
from tecogan_dist.errors import UserError
from tests.video_files import FRAMES_PER_SCENE, coded_frame, read_code, write_store


def test_a_store_gives_back_what_was_added(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", scenes=3)
    assert [scene.number for scene in store.scenes] == [2000, 2001, 2002]
    assert [scene.number for scene in store.select(2001, 2005)] == [2001, 2002]
    assert store.select(10, 20) == ()
    scene = store.scenes[1]
    assert (scene.file, scene.frames, scene.height, scene.width) == ("clips/scene_2001.mp4", 12, 64, 72)
    assert (scene.rate, scene.source, scene.source_start) == ("25/1", "made/1", 0)
    assert scene.sha256 == hashlib.sha256((store.path / scene.file).read_bytes()).hexdigest()
    codes = [read_code(frame) for frame in open_clip(store.path, scene).frames()]
    assert codes == [(1, index, 0, 0, False) for index in range(FRAMES_PER_SCENE)]


def test_a_failing_source_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    store = write_store(tmp_path, scenes=1)

    def broken_frames() -> Iterator[np.ndarray]:
        yield coded_frame(0, 0, height=64, width=72)
        raise UserError("the source is damaged.")

    with ClipStoreWriter(tmp_path) as writer, pytest.raises(UserError, match="damaged"):
        writer.add(2001, broken_frames(), rate=Fraction(25), source="x", source_start=0, downscale=1)
    assert ClipStore.open(tmp_path).scenes == store.scenes
    assert [clip.name for clip in (tmp_path / "clips").iterdir()] == ["scene_2000.mp4"]


def test_a_clip_without_index_row_is_replaced(tmp_path: Path) -> None:
    """A kill between the clip's and the index's renaming leaves one."""
    write_store(tmp_path, scenes=1)
    (tmp_path / "clips" / "scene_2001.mp4").write_bytes(b"of a killed process")
    assert len(ClipStore.open(tmp_path).scenes) == 1
    with ClipStoreWriter(tmp_path) as writer:
        frames = [np.zeros((64, 64, 3), np.uint8)] * 2
        writer.add(2001, frames, rate=Fraction(24), source="x", source_start=0, downscale=1)
    store = ClipStore.open(tmp_path)
    assert len(list(open_clip(tmp_path, store.scenes[1]).frames())) == 2


def test_only_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        ClipStoreWriter(tmp_path / "s"),
        pytest.raises(UserError, match="another process"),
        ClipStoreWriter(tmp_path / "s"),
    ):
        pass


def test_what_is_no_usable_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        ClipStore.open(tmp_path / "missing")
    with pytest.raises(UserError, match="is not a clip store"):
        ClipStore.open(tmp_path)
    with ClipStoreWriter(tmp_path / "empty"):
        pass
    with pytest.raises(UserError, match="is empty"):
        ClipStore.open(tmp_path / "empty")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "index.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(UserError, match="cannot be read"):
        ClipStore.open(tmp_path / "broken")
    (tmp_path / "other").mkdir()
    pq.write_table(pa.table({"number": [1]}), tmp_path / "other" / "index.parquet")
    with pytest.raises(UserError, match="not the index of a clip store"):
        ClipStore.open(tmp_path / "other")
    store = write_store(tmp_path / "store", scenes=2)
    (store.path / store.scenes[1].file).unlink()
    with pytest.raises(UserError, match=r"lacks 1 of its clips, the first is clips/scene_2001\.mp4"):
        ClipStore.open(store.path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(UserError, match="not empty and not a clip store"), ClipStoreWriter(tmp_path / "photos"):
        pass


def test_a_clip_of_another_size_than_the_index_says_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a", scenes=1)
    other = write_store(tmp_path / "b", scenes=1, height=80)
    (store.path / store.scenes[0].file).write_bytes((other.path / other.scenes[0].file).read_bytes())
    with pytest.raises(UserError, match=r"scene_2000\.mp4 is not the clip"):
        open_clip(store.path, store.scenes[0])
