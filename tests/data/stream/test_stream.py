from __future__ import annotations

import dataclasses
import hashlib
import pickle
from collections.abc import Generator, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.ray_errors import find_user_error
from tecogan_dist.data.clips import ClipStore, Scene, Scenes
from tecogan_dist.data.stream import stream
from tecogan_dist.data.stream.decoding import StreamShard, rows_of
from tecogan_dist.data.stream.fits import check_scenes
from tecogan_dist.data.stream.stream import training_stream
from tecogan_dist.data.stream.windows import WindowConfig, sample_at, scene_of_decode
from tests.support.local_ray import small_ray
from tests.support.video_files import read_code, write_store

DATA = WindowConfig(sequence_length=4, crop_size=8, scenes_in_mix=4, windows_per_decode=3)
BATCH = 4


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with small_ray(cpus=4):
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    return write_store(tmp_path_factory.mktemp("store"), scenes=3)


def open_stream(store: ClipStore, **changes: Any) -> Generator[torch.Tensor]:
    settings: dict[str, Any] = {
        "data": DATA,
        "seed": 5,
        "batch_size": BATCH,
        "rank": 0,
        "world_size": 1,
        "first_step": 0,
        "steps": 8,
        "scenes": store.scenes,
        "decoders": 2,
    }
    return training_stream(store.path, **(settings | changes))


def digests(batches: Iterator[torch.Tensor]) -> list[list[str]]:
    return [[hashlib.sha256(window.numpy().tobytes()).hexdigest() for window in batch] for batch in batches]


@pytest.mark.usefixtures("local_ray")
def test_batches_hold_the_samples_of_their_step(store: ClipStore) -> None:
    batches = list(open_stream(store, first_step=5, steps=9))
    assert len(batches) == 9
    for step, batch in enumerate(batches, start=5):
        assert batch.shape == (BATCH, 4, 40, 40, 3)
        assert batch.dtype == torch.uint8
        batch += 0  # memory of its own: writable, so that it can be pinned and reused
        for position, window in enumerate(batch):
            sample = sample_at(step * BATCH + position, seed=5, scenes=store.scenes, data=DATA)
            for time, frame in enumerate(window.numpy()):
                x, y = (0, 0) if sample.walk is None else sample.walk[time]
                shown = sample.start + (time if sample.walk is None else 0)
                expected = (sample.scene.number - 2000, shown, sample.y + y, sample.x + x, sample.flip)
                assert read_code(frame) == expected


@pytest.mark.usefixtures("local_ray")
def test_steps_do_not_depend_on_workers_or_on_where_a_run_started(
    store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = digests(open_stream(store, steps=20))
    ranks = [digests(open_stream(store, steps=20, world_size=2, rank=rank)) for rank in range(2)]
    assert [first + second for first, second in zip(*ranks, strict=True)] == alone
    assert len({digest for step in alone for digest in step}) > 60

    monkeypatch.setattr(stream, "SEGMENT_DECODES", 3)  # several executions of Ray Data, one handing over to the next
    assert digests(open_stream(store, first_step=7, steps=13)) == alone[7:]
    late = digests(open_stream(store, first_step=11, steps=9, world_size=2, rank=1))
    assert late == [step[2:] for step in alone[11:]]


@pytest.mark.usefixtures("local_ray")
def test_mixes_need_not_fit_the_batch(store: ClipStore) -> None:
    data = dataclasses.replace(DATA, scenes_in_mix=3, windows_per_decode=2)
    alone = digests(open_stream(store, data=data, batch_size=8, steps=5))
    ranks = [digests(open_stream(store, data=data, batch_size=8, steps=5, world_size=4, rank=r)) for r in range(4)]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == alone


def test_a_task_gets_its_own_scenes_only(store: ClipStore) -> None:
    one = store.scenes[0]
    scenes = [dataclasses.replace(one, number=n, file=f"clips/scene_{n:04d}.mp4") for n in range(5000)]
    tasks = [[5, 6], [7], [8, 9, 10]]
    for some in (scenes, Scenes.of(scenes)):
        rows = rows_of(tasks, some, seed=5)
        assert rows["decodes"].to_pylist() == tasks
        found = [[Scene(**facts) for facts in of_task] for of_task in rows["scenes"].to_pylist()]
        expected = [[scene_of_decode(number, seed=5, scenes=scenes) for number in numbers] for numbers in tasks]
        assert found == expected
        assert rows.nbytes < 5000
    travels = StreamShard(
        store=store.location, data=DATA, seed=5, batch_size=BATCH, rank=0, world_size=1, first_step=0, steps=8
    )
    assert len(pickle.dumps(travels)) < 2000


@pytest.mark.usefixtures("local_ray")
def test_columns_and_objects_give_the_same_batches(store: ClipStore) -> None:
    expected = digests(open_stream(store, steps=3))
    assert digests(open_stream(store, steps=3, scenes=list(store.scenes))) == expected


@pytest.mark.usefixtures("local_ray")
def test_a_stream_left_early_leaves_the_cluster_free(store: ClipStore) -> None:
    for _ in range(3):
        batches = open_stream(store, steps=10_000)
        assert len(list(islice(batches, 3))) == 3
        batches.close()
    assert len(digests(open_stream(store, steps=2))) == 2


@pytest.mark.usefixtures("local_ray")
def test_no_steps_is_an_empty_stream(store: ClipStore) -> None:
    assert list(open_stream(store, steps=0)) == []


def damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("harm", [Path.unlink, damage])
def test_a_clip_that_is_lost_while_training_is_named(tmp_path: Path, harm: Any) -> None:
    store = write_store(tmp_path, scenes=3)
    harm(tmp_path / "clips" / "scene_2001.mp4")
    with pytest.raises(UserError, match=r"scene_2001\.mp4 (does not exist|cannot be read)"):
        list(open_stream(store))

    @ray.remote
    def worker() -> None:
        list(open_stream(store))

    with pytest.raises(Exception, match="scene_2001") as caught:
        ray.get(worker.remote())
    found = find_user_error(caught.value)
    assert type(found) is UserError
    assert "\n" not in str(found)


@pytest.mark.usefixtures("local_ray")
def test_other_exceptions_are_no_user_errors() -> None:
    @ray.remote
    def worker() -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError) as caught:
        ray.get(worker.remote())
    assert find_user_error(caught.value) is None


def test_scenes_that_no_window_fits_into_are_refused_before_the_start(store: ClipStore) -> None:
    check_scenes(store.scenes, DATA)
    check_scenes(store.scenes, dataclasses.replace(DATA, sequence_length=12))
    with pytest.raises(UserError, match="no scene"):
        check_scenes((), DATA)
    with pytest.raises(UserError, match=r"3 of 3 scenes are shorter .* 13, the first is scene 2000 with 12 frames"):
        open_stream(store, data=dataclasses.replace(DATA, sequence_length=13))
    with pytest.raises(UserError, match=r"3 of 3 scenes are smaller than the 72x72 crop .* 72x64 pixels"):
        open_stream(store, data=dataclasses.replace(DATA, crop_size=16))
