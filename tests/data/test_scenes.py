"""Scenes as columns are what they are as objects."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.schema import Config, DataConfig
from tecogan_dist.data.clips import ClipStore, missing_clips
from tecogan_dist.data.index import packed, unpacked
from tecogan_dist.data.scenes import Scene, SceneMap, Scenes, clip_name, low_clip_name
from tecogan_dist.data.stream.fits import check_scenes
from tecogan_dist.data.stream.windows import WindowConfig, scene_of_decode
from tecogan_dist.training.task import select_scenes
from tests.support.properties import EXAMPLES
from tests.support.video_files import write_store

MILLION = 1_000_000


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    number = draw(st.integers(0, 30) | st.just(2**63 - 1))
    has_low = draw(st.booleans())
    sha256 = st.binary(min_size=32, max_size=32).map(bytes.hex)
    texts = st.text(st.characters(codec="utf-8"), max_size=5)
    return Scene(
        number=number,
        file=clip_name(number, draw(st.sampled_from([".mp4", ".mkv"]))),
        frames=draw(st.integers(1, 2**31 - 1)),
        height=draw(st.integers(1, 99)),
        width=draw(st.integers(1, 99)),
        rate=draw(st.sampled_from(["24/1", "30000/1001"])),
        source=draw(texts),
        source_start=draw(st.integers(0, 2**31 - 1)),
        downscale=draw(st.integers(1, 4)),
        sha256=draw(sha256),
        encoding=draw(st.sampled_from(["lossy", "lossless", "original"])),
        lr_file=low_clip_name(number) if has_low else None,
        lr_sha256=draw(sha256) if has_low else None,
        content=draw(st.none() | texts),
    )


lists = st.lists(scenes(), max_size=12, unique_by=lambda scene: scene.number)


@EXAMPLES
@given(lists, lists, st.slices(12), st.sets(st.integers(0, 30)))
def test_columns_are_the_list_of_objects(ours: list[Scene], later: list[Scene], part: slice, numbers: set[int]) -> None:
    expected = sorted(ours, key=lambda scene: scene.number)
    table = Scenes.of(ours)
    assert table == expected == list(table) == [table[index] for index in range(len(ours))]
    assert table == tuple(expected)
    assert table != [*expected, *expected[:1], None]
    assert table[part] == expected[part]
    assert pickle.loads(pickle.dumps(table)) == expected
    assert table.between(3, 20) == [scene for scene in expected if 3 <= scene.number <= 20]
    assert table.without(list(numbers)) == [scene for scene in expected if scene.number not in numbers]
    assert table.files().to_pylist() == [scene.file for scene in expected]
    assert table.files(low_resolution=True).to_pylist() == [scene.lr_file for scene in expected]

    merged = {scene.number: scene for scene in [*ours, *later]}
    assert table.merged(Scenes.of(later)) == [merged[number] for number in sorted(merged)]
    by_number = SceneMap(table, {scene.number: scene for scene in later}, numbers)
    assert by_number == {number: scene for number, scene in merged.items() if number not in numbers}
    assert (list(by_number), len(by_number)) == (sorted(merged.keys() - numbers), len(merged.keys() - numbers))

    data = packed(table)
    read = unpacked(data, Location("index"))
    assert read == expected
    assert packed(read) == packed(pickle.loads(pickle.dumps(read))) == packed(table.merged(read)) == data


def million() -> Scenes:
    """Scenes of 1,000 films."""
    one = dataclasses.asdict(
        Scene(
            number=0, file="clips/scene_0000.mp4", frames=120, height=360, width=640, rate="24/1", source="",
            source_start=0, downscale=1, sha256="0" * 64,
        )
    )  # fmt: skip
    few = Scenes.of([Scene(**one | {"number": index, "source": f"films/{index}.mp4"}) for index in range(1000)])
    arrays = [column.take(pa.array(np.arange(MILLION) % 1000)) for column in few.columns.columns]
    arrays[0] = pa.array(np.arange(MILLION))
    return Scenes(pa.RecordBatch.from_arrays(arrays, schema=few.columns.schema))


def test_a_million_scenes_are_small_and_stay_so_on_their_way() -> None:
    table = million()
    assert len(pickle.dumps(table, protocol=5)) < 100e6
    held_out = table.between(500_000, 500_039)
    assert [scene.number for scene in held_out] == list(range(500_000, 500_040))
    assert len(pickle.dumps(held_out, protocol=5)) < 20_000  # not the columns that they are of
    before = pa.total_allocated_bytes()
    training = table.without(held_out.numbers())
    check_scenes(training, WindowConfig())
    assert (len(training), pa.total_allocated_bytes() - before < 120e6) == (MILLION - 40, True)
    assert {scene_of_decode(index, seed=1, scenes=training).number for index in range(50)}.isdisjoint(
        held_out.numbers()
    )


def test_the_first_scene_that_does_not_fit_is_named() -> None:
    table = Scenes.of(million()[:3])
    rows = [*table, dataclasses.replace(table[0], number=7, file="clips/scene_0007.mp4", frames=9, height=20)]
    for scenes in (rows, Scenes.of(rows)):
        with pytest.raises(UserError, match=r"1 of 4 scenes are shorter .* the first is scene 7 with 9 frames"):
            check_scenes(scenes, WindowConfig())
        with pytest.raises(UserError, match=r"1 of 4 scenes are smaller .* scene 7 with 640x20 pixels"):
            check_scenes(scenes, WindowConfig(sequence_length=5))
        with pytest.raises(UserError, match="4 of 4 scenes have no low resolution of their own, the first is scene 0"):
            check_scenes(scenes, WindowConfig(degradation="pairs"))


def test_missing_clips_are_found_by_one_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a run lists them once: what its workers get is what the command has read."""
    store = write_store(tmp_path / "store", scenes=3)
    listed: list[str] = []
    for name in ("names", "entries"):
        monkeypatch.setattr(Location, name, _noting(getattr(Location, name), listed))
    config = Config(data=DataConfig(sequence_length=4, crop_size=8, validation_scenes=(2001, 2001)))
    training, validation = select_scenes(store.location, config)
    assert ([scene.number for scene in training], [scene.number for scene in validation]) == ([2000, 2002], [2001])
    assert sorted(Path(place).name for place in listed) == ["clips", "index_parts"]
    for file in ("scene_2000.mp4", "scene_2002.mp4"):
        (store.path / "clips" / file).unlink()
    assert missing_clips(store.location, store.scenes) == {2000: [store.scenes[0].file], 2002: [store.scenes[2].file]}
    with pytest.raises(UserError, match=r"lacks 2 of its clips, the first is clips/scene_2000\.mp4"):
        ClipStore.open(store.path)


def _noting(action: Any, places: list[str]) -> Any:
    def noted(place: Location) -> Any:
        places.append(str(place))
        return action(place)

    return noted
