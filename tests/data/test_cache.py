from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.schema import DataConfig
from tecogan_dist.data import cache
from tecogan_dist.data.cache import Cache, scene_frames
from tecogan_dist.data.clips import INDEX_NAME, ClipStore, Scene
from tecogan_dist.data.stream.stream import training_stream
from tecogan_dist.data.stream.windows import WindowConfig
from tecogan_dist.data.writing import ClipStoreWriter, write_clip
from tecogan_dist.video.open import open_video
from tests.support.local_ray import small_ray
from tests.support.paths import REPOSITORY as ROOT
from tests.support.s3_server import S3Server
from tests.support.small_disk import small_disk
from tests.support.video_files import FRAMES_PER_SCENE, write_store

SCENE_BYTES = FRAMES_PER_SCENE * 64 * 72 * 3


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, server: S3Server) -> ClipStore:
    return write_store(str(tmp_path / "store") if request.param == "local" else server.uri(tmp_path.name), scenes=3)


@pytest.fixture
def remote(tmp_path: Path, server: S3Server) -> ClipStore:
    return write_store(server.uri(tmp_path.name), scenes=3)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    return DataConfig(cache_dir=str(tmp_path / "cache"))


def read(store: ClipStore, scene: Scene, data: DataConfig, *, low_resolution: bool = False) -> np.ndarray:
    positions = range(scene.frames)
    return np.stack(
        [frame[:, :] for frame in scene_frames(store.location, scene, positions, data, low_resolution=low_resolution)]
    )


def truth(store: ClipStore, scene: Scene, tmp_path: Path) -> np.ndarray:
    (store.location / scene.file).fetch(tmp_path / "truth.mp4")
    return np.stack(list(open_video(tmp_path / "truth.mp4").frames()))


def cached(data: DataConfig) -> list[Path]:
    folder = Path(str(data.cache_dir))
    return sorted(
        [*folder.glob("clips/*"), *folder.glob("clips/.*"), *folder.glob("decoded/*"), *folder.glob("decoded/.*")]
    )


@pytest.mark.parametrize("decoded", [False, True])
def test_frames_do_not_depend_on_the_cache(store: ClipStore, data: DataConfig, decoded: bool, tmp_path: Path) -> None:
    data = dataclasses.replace(data, decoded_cache=decoded)
    scene = store.scenes[1]
    expected = truth(store, scene, tmp_path)
    for _ in range(2):
        np.testing.assert_array_equal(read(store, scene, data), expected)
        some = [frame[:, :] for frame in scene_frames(store.location, scene, [2, 3, 7, 11, 12, 40], data)]
        np.testing.assert_array_equal(some, expected[[2, 3, 7, 11]])
    assert len(cached(data)) == (not store.location.is_local) + decoded
    if decoded or not store.location.is_local:  # what the machine has needs no store
        (store.location / scene.file).delete()
        np.testing.assert_array_equal(read(store, scene, data), expected)


@pytest.mark.parametrize("decoded", [False, True])
def test_own_low_resolution_frames_are_read_the_same_way(
    server: S3Server, data: DataConfig, decoded: bool, tmp_path: Path
) -> None:
    data = dataclasses.replace(data, decoded_cache=decoded)
    pixels = np.random.default_rng(0)
    low = pixels.integers(0, 256, (5, 12, 16, 3), np.uint8)
    for location in (Location.of(tmp_path / "store"), Location.of(server.uri(tmp_path.name))):
        high = pixels.integers(0, 256, (5, 48, 64, 3), np.uint8)
        with ClipStoreWriter(location) as writer:
            scene = write_clip(
                location, 1, high, rate=Fraction(25), source="x", source_start=0, downscale=1,
                encoding="lossless", lr_frames=low,
            )  # fmt: skip
            writer.enter(scene)
        store = ClipStore.open(location)
        np.testing.assert_array_equal(read(store, scene, data, low_resolution=True), low)
        np.testing.assert_array_equal(read(store, scene, data), high)


def test_a_clip_is_fetched_once_by_any_number_of_processes(
    remote: ClipStore, data: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    script = (
        "import sys; from tecogan_dist.config.schema import DataConfig;"
        "from tecogan_dist.data.cache import scene_frames; from tecogan_dist.data.clips import ClipStore;"
        "store = ClipStore.open(sys.argv[1]);"
        "data = DataConfig(cache_dir=sys.argv[2], decoded_cache=True);"
        "print('ready', flush=True); sys.stdin.readline();"
        "[list(scene_frames(store.location, scene, range(12), data)) for scene in store.scenes]"
    )
    words = [sys.executable, "-c", script, str(remote.location), str(data.cache_dir)]
    children = [
        subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    with caplog.at_level(logging.INFO, "werkzeug"):
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        assert [child.wait(timeout=120) for child in children] == [0, 0, 0]
    requests = [record.getMessage() for record in caplog.records]
    fetched = [
        message for message in requests if '"GET /' in message.replace("\x1b[35m\x1b[1m", "") and ".mp4" in message
    ]
    assert len(fetched) == 3, requests
    assert len(cached(data)) == 6


def test_a_clip_that_is_damaged_or_gone_is_named(store: ClipStore, data: DataConfig) -> None:
    first, second, _ = store.scenes
    clip = bytearray((store.location / first.file).read_bytes())
    clip[-1] ^= 1
    (store.location / first.file).write_bytes(bytes(clip))
    (store.location / second.file).delete()
    data = dataclasses.replace(data, decoded_cache=True)
    with pytest.raises(UserError, match=r"scene_2000\.mp4 is damaged: find all .*--verify"):
        read(store, first, data)
    with pytest.raises(UserError, match=r"scene_2001\.mp4 does not exist"):
        read(store, second, data)
    assert cached(data) == []


def test_a_clip_shorter_than_its_index_entry_is_not_cached(tmp_path: Path, data: DataConfig) -> None:
    store = write_store(tmp_path / "store", scenes=1)
    scene = dataclasses.replace(store.scenes[0], frames=13)
    with pytest.raises(UserError, match=r"scene_2000\.mp4 has 12 frames and not the 13"):
        read(store, scene, dataclasses.replace(data, decoded_cache=True))
    assert cached(data) == []


def test_the_cache_keeps_its_size_and_the_newest(
    tmp_path: Path, data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "ADMISSION", 1.0)
    store = write_store(tmp_path / "store", scenes=3)
    limit = 2.5 * SCENE_BYTES
    data = dataclasses.replace(data, decoded_cache=True, cache_gigabytes=limit / 1e9)
    first, second, third = store.scenes
    expected = [truth(store, scene, tmp_path) for scene in store.scenes]
    abandoned = tmp_path / "cache" / "decoded" / f".{'0' * 64}.npy.01234567.partial"
    abandoned.parent.mkdir(parents=True)
    abandoned.write_bytes(b"of a killed process")
    os.utime(abandoned, (0, 0))
    for scene, age in ((first, 100), (second, 200)):
        read(store, scene, data)
        os.utime(tmp_path / "cache" / "decoded" / f"{scene.sha256}.npy", (time.time() - age,) * 2)
    assert not abandoned.exists()
    held = scene_frames(store.location, second, range(12), data)
    frame = next(held)
    read(store, first, data)  # so that the second is the oldest
    np.testing.assert_array_equal(read(store, third, data), expected[2])
    assert {path.stem for path in cached(data)} == {first.sha256, third.sha256}
    assert sum(path.stat().st_size for path in cached(data)) <= limit
    np.testing.assert_array_equal([frame, *held], expected[1])  # what is in use is read to its end


def test_a_full_cache_lets_few_scenes_in_and_all_frames_are_right(
    remote: ClipStore, data: DataConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache, "ADMISSION", 0.0)
    data = dataclasses.replace(data, decoded_cache=True, cache_gigabytes=1.9 * SCENE_BYTES / 1e9)
    for scene in [*remote.scenes] * 2:
        np.testing.assert_array_equal(read(remote, scene, data), truth(remote, scene, tmp_path))
    kept = [path.stem for path in cached(data)]
    assert kept.count(remote.scenes[0].sha256) == 2  # the clip and its frames
    assert len(kept) == 4  # and the others' clips
    tiny = dataclasses.replace(data, cache_gigabytes=1e-6, cache_dir=str(tmp_path / "tiny"))
    for scene in remote.scenes:
        assert len(read(remote, scene, tiny)) == 12
    assert len(cached(tiny)) == 1  # the last clip: one has to be there to be read


def test_a_clip_in_use_is_not_removed(remote: ClipStore, data: DataConfig) -> None:
    tiny = Cache.of(dataclasses.replace(data, cache_gigabytes=1e-6))
    first, second, _ = remote.scenes
    with tiny.clip(remote.location, first) as clip, tiny.clip(remote.location, second):
        assert len(cached(data)) == 2
        assert len(list(clip.frames())) == 12
    with tiny.clip(remote.location, second):
        assert len(cached(data)) == 2
    with tiny.clip(remote.location, remote.scenes[2]):
        assert len(cached(data)) == 1


def test_a_full_disk_is_one_sentence(remote: ClipStore, data: DataConfig, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=100) as disk:
        data = dataclasses.replace(data, cache_dir=str(disk / "cache"), decoded_cache=True)
        with pytest.raises(UserError, match=r"disk/cache/.* cannot be written \(No space left on device\)") as caught:
            read(remote, remote.scenes[0], data)
        assert "\n" not in str(caught.value)
        assert all(path.suffix == ".mp4" for path in cached(data))


def test_a_folder_that_is_not_one_is_one_sentence(remote: ClipStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UserError, match=r"file cannot be written \(Not a directory\)"):
        read(remote, remote.scenes[0], DataConfig(cache_dir=str(tmp_path / "file")))


FILM = "films of a summer"
OWN = f"tecogan_cache_{os.getuid()}"


def films(folder: Path) -> list[Path]:
    """Files of the user's, some of them where a cache has its own."""
    names = ("clips/film.mp4", "decoded/notes.npy", f"clips/{'0' * 64}.mp4", "film.mkv", "clips/.film.mp4.partial")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(FILM)
        os.utime(folder / name, (0, 0))
    return [folder / name for name in names]


def test_nothing_of_the_user_s_is_ever_evicted(remote: ClipStore, tmp_path: Path) -> None:
    theirs = films(tmp_path / "videos")
    data = DataConfig(cache_dir=str(tmp_path / "videos"), decoded_cache=True, cache_gigabytes=1e-6)
    for scene in remote.scenes:
        assert len(read(remote, scene, data)) == 12
    assert all(film.read_text() == FILM for film in theirs)
    own = tmp_path / "videos" / OWN
    assert len(list((own / "clips").iterdir())) == 1
    # Nor in the cache's own folder.
    more = films(own)[:2]
    (own / "clips" / f"{'1' * 64}.mp4").symlink_to(theirs[0])
    read(remote, remote.scenes[0], data)
    assert all(film.read_text() == FILM for film in (*theirs, *more))


def test_a_clip_store_is_not_a_cache(remote: ClipStore, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", scenes=2)
    with pytest.raises(UserError, match=r"is a clip store, which is not a place for a cache: set data\.cache_dir"):
        read(remote, remote.scenes[0], DataConfig(cache_dir=str(tmp_path / "store")))
    assert sorted(path.name for path in (tmp_path / "store" / "clips").iterdir()) == [
        Path(scene.file).name for scene in store.scenes
    ]


def test_a_cache_is_in_no_link(remote: ClipStore, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "videos")
    with pytest.raises(UserError, match="link is a symbolic link, through which no cache is kept"):
        read(remote, remote.scenes[0], DataConfig(cache_dir=str(tmp_path / "link")))
    Cache.of(DataConfig(cache_dir=str(tmp_path / "cache")))
    (tmp_path / "cache" / "clips").rmdir()
    (tmp_path / "cache" / "clips").symlink_to(tmp_path / "videos")
    with pytest.raises(UserError, match="clips is a symbolic link"):
        read(remote, remote.scenes[0], DataConfig(cache_dir=str(tmp_path / "cache")))
    assert list((tmp_path / "videos").iterdir()) == []


def test_an_entry_that_is_a_link_or_damaged_is_made_again(remote: ClipStore, data: DataConfig, tmp_path: Path) -> None:
    data = dataclasses.replace(data, decoded_cache=True)
    scene = remote.scenes[0]
    expected = truth(remote, scene, tmp_path)
    cache_ = Cache.of(data).folder
    (tmp_path / "film.mp4").write_text(FILM)
    (cache_ / "clips" / f"{scene.sha256}.mp4").symlink_to(tmp_path / "film.mp4")
    for damage in (b"", b"\x93NUMPY", b"no array"):
        (cache_ / "decoded" / f"{scene.sha256}.npy").write_bytes(damage)
        np.testing.assert_array_equal(read(remote, scene, data), expected)
    assert (tmp_path / "film.mp4").read_text() == FILM


def test_a_cache_of_an_earlier_version_is_known(tmp_path: Path) -> None:
    for name in (f"clips/{'a' * 64}.mp4", f"decoded/{'b' * 64}.npy", "locks/room", "locks/clips_0f"):
        (tmp_path / "old" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "old" / name).write_bytes(b"")
    assert Cache.of(DataConfig(cache_dir=str(tmp_path / "old"))).folder == tmp_path / "old"
    (tmp_path / "old" / "film.mp4").write_text(FILM)  # it is marked now
    assert Cache.of(DataConfig(cache_dir=str(tmp_path / "old"))).folder == tmp_path / "old"


def test_the_default_cache_is_nobody_else_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "videos").mkdir()
    (tmp_path / OWN).symlink_to(tmp_path / "videos")
    with pytest.raises(UserError, match="is a symbolic link"):
        Cache.of(DataConfig())
    (tmp_path / OWN).unlink()
    (tmp_path / OWN).mkdir(mode=0o777)
    (tmp_path / OWN).chmod(0o777)
    with pytest.raises(UserError, match=r"can be written by others: remove it if it is yours, or set data\.cache_dir"):
        Cache.of(DataConfig())
    (tmp_path / OWN).rmdir()
    assert (Cache.of(DataConfig()).folder.stat().st_mode & 0o777) == 0o700


def test_a_checksum_that_is_a_path_is_refused(remote: ClipStore, data: DataConfig) -> None:
    scene = dataclasses.replace(remote.scenes[0], sha256="../../film")
    with pytest.raises(UserError, match="has a checksum or name that is none"):
        read(remote, scene, data)


def test_a_server_that_is_away_for_a_moment_is_waited_for(
    remote: ClipStore, data: DataConfig, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "FETCH_PAUSES", (0.5, 3.0, 10.0))
    server.stop()
    back = threading.Timer(5.0, server.start)
    back.start()
    try:
        assert len(read(remote, remote.scenes[0], data)) == 12
    finally:
        back.join()
    monkeypatch.setattr(cache, "FETCH_PAUSES", ())
    server.stop()
    try:
        with pytest.raises(UserError, match="its server does not answer"):
            read(remote, remote.scenes[1], data)
    finally:
        server.start()


@pytest.fixture
def local_ray(server: S3Server) -> Iterator[None]:  # noqa: ARG001 - tasks need the server's environment
    with small_ray(cpus=4):
        yield


@pytest.mark.usefixtures("local_ray")
def test_the_stream_of_a_remote_store_is_that_of_a_local_one(remote: ClipStore, tmp_path: Path) -> None:
    # A copy: x264 does not give the same bytes every time.
    for name in (INDEX_NAME, *(scene.file for scene in remote.scenes)):
        (Location.of(tmp_path / "store") / name).write_bytes((remote.location / name).read_bytes())
    local = ClipStore.open(tmp_path / "store")
    plain = WindowConfig(
        sequence_length=4, crop_size=8, scenes_in_mix=4, windows_per_decode=3, cache_dir=str(tmp_path / "cache")
    )

    def digests(store: ClipStore, data: WindowConfig) -> list[str]:
        batches = training_stream(
            store.location,
            data=data,
            seed=5,
            batch_size=4,
            rank=0,
            world_size=1,
            first_step=2,
            steps=8,
            scenes=store.scenes,
            decoders=2,
        )
        return [hashlib.sha256(window.numpy().tobytes()).hexdigest() for batch in batches for window in batch]

    expected = digests(local, plain)
    assert len(set(expected)) > 20
    assert digests(remote, plain) == expected
    assert len(cached(plain)) == 3
    decoded = dataclasses.replace(plain, decoded_cache=True)
    assert digests(remote, decoded) == expected
    assert digests(local, decoded) == expected
    assert len(cached(decoded)) == 6
    (remote.location / remote.scenes[0].file).delete()
    with pytest.raises(UserError, match=r"scene_2000\.mp4 does not exist"):
        digests(remote, dataclasses.replace(plain, cache_dir=str(tmp_path / "other")))
