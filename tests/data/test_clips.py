from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import ClipStore, Scene, open_clip, verify
from tecogan_dist.data.writing import ClipStoreWriter, write_clip
from tecogan_dist.video.open import open_video
from tests.support.paths import REPOSITORY as ROOT
from tests.support.s3_server import S3Server
from tests.support.small_disk import small_disk
from tests.support.store import add_scene
from tests.support.video_files import FRAMES_PER_SCENE, coded_frame, read_code, write_store, write_video

FACTS: dict[str, Any] = {"rate": Fraction(25), "source": "made", "source_start": 0, "downscale": 1}


@pytest.fixture(params=["local", "s3", "gs"])
def location(request: pytest.FixtureRequest, tmp_path: Path, server: S3Server, gs_address: str) -> Location:
    """Where a new store may be made, on each kind of storage."""
    uris = {"local": str(tmp_path / "store"), "s3": server.uri(tmp_path.name), "gs": gs_address.format(tmp_path.name)}
    return Location(uris[request.param])


def noise(frames: int, *, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (frames, height, width, 3), np.uint8)


def clip_names(location: Location) -> list[str]:
    return sorted(entry.base_name for entry in (location / "clips").entries())


def test_a_store_gives_back_what_was_added(location: Location, tmp_path: Path) -> None:
    store = write_store(str(location), scenes=3)
    assert [scene.number for scene in store.scenes] == [2000, 2001, 2002]
    assert [scene.number for scene in store.select(2001, 2005)] == [2001, 2002]
    assert store.select(10, 20) == ()
    scene = store.scenes[1]
    assert (scene.file, scene.frames, scene.height, scene.width) == ("clips/scene_2001.mp4", 12, 64, 72)
    assert (scene.rate, scene.source, scene.source_start) == ("25/1", "made/1", 0)
    assert (scene.encoding, scene.lr_file, scene.lr_sha256) == ("lossy", None, None)
    clip = (store.location / scene.file).read_bytes()
    assert scene.sha256 == hashlib.sha256(clip).hexdigest()
    (tmp_path / "clip.mp4").write_bytes(clip)
    codes = [read_code(frame) for frame in open_video(tmp_path / "clip.mp4").frames()]
    assert codes == [(1, index, 0, 0, False) for index in range(FRAMES_PER_SCENE)]


def test_a_failing_source_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    store = write_store(tmp_path, scenes=1)

    def broken_frames() -> Iterator[np.ndarray]:
        yield coded_frame(0, 0, height=64, width=72)
        raise UserError("the source is damaged.")

    with ClipStoreWriter(tmp_path) as writer, pytest.raises(UserError, match="damaged"):
        add_scene(writer, 2001, broken_frames())
    assert ClipStore.open(tmp_path).scenes == store.scenes
    assert [clip.name for clip in (tmp_path / "clips").iterdir()] == ["scene_2000.mp4"]


def test_a_clip_without_index_row_is_replaced(tmp_path: Path) -> None:
    """A kill between the clip's and the index's renaming leaves one."""
    write_store(tmp_path, scenes=1)
    (tmp_path / "clips" / "scene_2001.mp4").write_bytes(b"of a killed process")
    assert len(ClipStore.open(tmp_path).scenes) == 1
    with ClipStoreWriter(tmp_path) as writer:
        frames = [np.zeros((64, 64, 3), np.uint8)] * 2
        add_scene(writer, 2001, frames)
    store = ClipStore.open(tmp_path)
    assert len(list(open_clip(tmp_path, store.scenes[1]).frames())) == 2


def test_only_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        ClipStoreWriter(tmp_path / "s"),
        pytest.raises(UserError, match="another process"),
        ClipStoreWriter(tmp_path / "s"),
    ):
        pass


def test_what_is_not_a_usable_store_is_refused(tmp_path: Path) -> None:
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
    with pytest.raises(UserError, match="is not a place for files"):
        ClipStore.open("http://somewhere/store")
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


@pytest.mark.parametrize("low_resolution", [False, True])
def test_lossless_clips_give_back_every_bit(tmp_path: Path, low_resolution: bool) -> None:
    high, low = noise(5, height=48, width=64), noise(5, height=12, width=16)
    scene = write_clip(tmp_path, 7, high, **FACTS, encoding="lossless", lr_frames=low if low_resolution else None)
    assert (scene.file, scene.encoding) == ("clips/scene_0007.mp4", "lossless")
    np.testing.assert_array_equal(list(open_clip(tmp_path, scene).frames()), high)
    if low_resolution:
        assert scene.lr_file == "clips/scene_0007_lr.mp4"
        assert scene.lr_sha256 == hashlib.sha256((tmp_path / scene.lr_file).read_bytes()).hexdigest()
        np.testing.assert_array_equal(list(open_clip(tmp_path, scene, low_resolution=True).frames()), low)
    with ClipStoreWriter(tmp_path / "other") as writer:
        other = add_scene(writer, 7, high, **FACTS, encoding="lossless")
    np.testing.assert_array_equal(list(open_clip(tmp_path / "other", other).frames()), high)


@pytest.mark.parametrize(("frames", "height", "width"), [(4, 12, 16), (5, 12, 15), (5, 11, 16), (5, 96, 128)])
def test_low_resolution_frames_that_do_not_fit_are_refused(
    tmp_path: Path, frames: int, height: int, width: int
) -> None:
    low = noise(frames, height=height, width=width)
    with pytest.raises(UserError, match=rf"{frames} of {width}x{height}, do not fit its 5 frames of 64x48"):
        write_clip(tmp_path, 7, noise(5), **FACTS, lr_frames=low)
    assert clip_names(Location.of(tmp_path)) == []


def test_an_original_keeps_its_bytes(location: Location, tmp_path: Path) -> None:
    video = write_video(tmp_path / "Holiday Clip.MKV", frames=9)
    source = open_video(video)
    with ClipStoreWriter(location) as writer:
        scene = write_clip(
            location, 3, source.frames(), **FACTS | {"rate": source.rate}, encoding="original", original=video
        )
        writer.enter(scene)
    assert (scene.file, scene.frames, scene.encoding) == ("clips/scene_0003.mkv", 9, "original")
    assert (scene.height, scene.width) == (48, 64)
    assert (ClipStore.open(location).location / scene.file).read_bytes() == video.read_bytes()
    assert video.exists()


def test_a_store_grows_and_keeps_what_it_had(tmp_path: Path) -> None:
    store = write_store(tmp_path, scenes=2)
    with ClipStoreWriter(tmp_path) as writer:
        add_scene(writer, 2005, noise(3), **FACTS, encoding="lossless")
    scenes = ClipStore.open(tmp_path).scenes
    assert scenes[:2] == store.scenes
    assert [scene.encoding for scene in scenes] == ["lossy", "lossy", "lossless"]


def test_verify_names_what_is_missing_or_damaged(location: Location) -> None:
    with pytest.raises(UserError, match="is not a clip store"):
        list(verify(location))
    store = write_store(str(location), scenes=3)
    assert [(scene, problem) for scene, problem in verify(location)] == [(scene, None) for scene in store.scenes]
    with ClipStoreWriter(location) as writer:
        for number in (2003, 2004):
            writer.enter(write_clip(location, number, noise(3), **FACTS, lr_frames=noise(3, height=12, width=16)))
    damaged = location / "clips/scene_2001.mp4"
    clip = bytearray(damaged.read_bytes())
    clip[len(clip) // 2] ^= 1
    damaged.write_bytes(bytes(clip))
    (location / "clips/scene_2002.mp4").delete()
    (location / "clips/scene_2004_lr.mp4").delete()
    assert [problem for _, problem in verify(location)] == [
        None,
        "clips/scene_2001.mp4 is damaged: its bytes are not those that were written.",
        "clips/scene_2002.mp4 is missing.",
        None,
        "clips/scene_2004_lr.mp4 is missing.",
    ]
    with pytest.raises(UserError, match=r"lacks 2 of its clips, the first is clips/scene_2002\.mp4"):
        ClipStore.open(location)


def test_clips_made_elsewhere_are_entered_and_replaced(location: Location) -> None:
    """As prepare does: other processes write clips, one enters them."""
    script = (
        "import dataclasses, json, sys; from fractions import Fraction;"
        "from tecogan_dist.data.writing import write_clip; from tests.data.test_clips import noise;"
        "scene = write_clip(sys.argv[1], int(sys.argv[2]), noise(3), rate=Fraction(25), source='made', source_start=0,"
        "downscale=1); print(json.dumps(dataclasses.asdict(scene)))"
    )
    with ClipStoreWriter(location) as writer:
        words = [sys.executable, "-c", script, str(location)]
        children = [
            subprocess.Popen([*words, str(number)], cwd=ROOT, stdout=subprocess.PIPE, text=True) for number in (5, 4)
        ]
        for child in children:
            output, _ = child.communicate(timeout=120)
            writer.enter(Scene(**json.loads(output)))
        assert [scene.number for scene in ClipStore.open(location).scenes] == [4, 5]
        writer.enter(write_clip(location, 4, noise(6), **FACTS))
    assert [(scene.number, scene.frames) for scene in ClipStore.open(location).scenes] == [(4, 6), (5, 3)]
    assert not [problem for _, problem in verify(location) if problem]


KILLED_WRITER = """
import itertools, sys, time
from tecogan_dist.data.writing import ClipStoreWriter
from tests.data.test_clips import FACTS, noise
from tests.support.store import add_scene

def endless():
    for count in itertools.count():
        yield noise(1)[0]
        if count == 100:
            print("in the middle", flush=True)
        if count >= 100:
            time.sleep(0.05)

with ClipStoreWriter(sys.argv[1]) as writer:
    add_scene(writer, 1, noise(3), **FACTS)
    add_scene(writer, 2, endless(), **FACTS)
"""


def test_a_killed_writer_leaves_a_valid_store(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tecogan_dist.base.lock.STALE_SECONDS", 3.0)
    monkeypatch.setattr("tecogan_dist.base.lock.HEARTBEAT_SECONDS", 1.0)
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, str(location)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "in the middle\n"
    child.kill()
    assert child.wait(timeout=30) == -signal.SIGKILL
    if location.is_local:
        assert len(clip_names(location)) == 2  # the finished one, and what was left of the other
    assert [scene.number for scene in ClipStore.open(location).scenes] == [1]
    assert not [problem for _, problem in verify(location) if problem]
    with ClipStoreWriter(location) as writer:
        assert clip_names(location) == ["scene_0001.mp4"]
        add_scene(writer, 2, noise(3), **FACTS)
    assert [scene.number for scene in ClipStore.open(location).scenes] == [1, 2]


def test_a_full_disk_in_the_middle_leaves_a_valid_store(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=700) as disk, ClipStoreWriter(disk / "store") as writer:

        def add_all() -> None:
            for number in range(100):
                add_scene(writer, number, noise(12), **FACTS)

        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)") as caught:
            add_all()
        assert "\n" not in str(caught.value)
        store = ClipStore.open(disk / "store")
        assert 1 <= len(store.scenes) < 30
        # The last one has its clip, and not its row, if it was the row that found no room.
        count = len(store.scenes)
        assert clip_names(store.location)[:count] == [Path(scene.file).name for scene in store.scenes]
        assert clip_names(store.location)[count:] in ([], [f"scene_{count:04d}.mp4"])
        assert not [problem for _, problem in verify(store.location) if problem]

        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while filler.write(bytes(2**12)):
                pass
        with pytest.raises(UserError, match=r"part_\w+\.parquet cannot be written \(No space left on device\)"):
            writer.enter(dataclasses.replace(store.scenes[0], number=200))
        assert writer.scenes.keys() == {scene.number for scene in store.scenes}
        assert ClipStore.open(disk / "store").scenes == store.scenes


def test_a_wrong_bucket_is_one_sentence(server: S3Server) -> None:  # noqa: ARG001 - it must run
    for use in (ClipStore.open, lambda store: ClipStoreWriter(store).__enter__()):
        began = time.monotonic()
        with pytest.raises(UserError, match="there is no bucket no-such-bucket, make it or check its name") as caught:
            use("s3://no-such-bucket/store")
        assert "\n" not in str(caught.value)
        assert time.monotonic() - began < 20
