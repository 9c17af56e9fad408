"""The samples of step k are a function of (seed, k), whatever happens; and they are distributed as the original's."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from scipy import stats

from tecogan_dist.data.clips import ClipStore, Scene
from tecogan_dist.data.stream import stream
from tecogan_dist.data.stream.stream import training_stream
from tecogan_dist.data.stream.windows import Sample, WindowConfig, sample_at
from tecogan_dist.data.writing import ClipStoreWriter
from tecogan_dist.video.open import open_video
from tests.support.local_ray import small_ray
from tests.support.paths import REFERENCE
from tests.support.store import add_scene

SEED = 3
BATCH = 6
STEPS = 14
SCENES = 5
DATA = WindowConfig(sequence_length=4, crop_size=8, scenes_in_mix=6, windows_per_decode=5)
TASK = "ray::MapBatches(decode)"
DATACHECK = json.loads((REFERENCE / "datacheck.json").read_text("utf-8"))["loadHR"]
"""What the original's loader gave for 600 samples of 2 scenes of 12 frames of 200x170, in windows of 5 frames."""
UNLIKELY = 1e-3


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with small_ray(cpus=4):
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """Scenes of noise, long enough that their decoding can be interrupted."""
    path = tmp_path_factory.mktemp("data") / "store"
    noise = np.random.default_rng(0)
    with ClipStoreWriter(path) as writer:
        for number in range(SCENES):
            frames = noise.integers(0, 256, (24, 96, 128, 3), np.uint8)
            add_scene(writer, number, frames, source="noise")
    return ClipStore.open(path)


def open_stream(
    store: ClipStore, *, data: WindowConfig = DATA, rank: int = 0, workers: int = 1, first: int = 0, last: int = STEPS
) -> Generator[torch.Tensor]:
    return training_stream(
        store.path,
        data=data,
        seed=SEED,
        batch_size=BATCH,
        rank=rank,
        world_size=workers,
        first_step=first,
        steps=last - first,
        scenes=store.scenes,
        decoders=2,
    )


def digest(window: np.ndarray) -> str:
    return hashlib.sha256(window.tobytes()).hexdigest()


def digests(batches: Iterator[torch.Tensor]) -> list[list[str]]:
    """Of each step, in order."""
    return [[digest(window.numpy()) for window in batch] for batch in batches]


def run(
    store: ClipStore, workers: int, *, data: WindowConfig = DATA, first: int = 0, last: int = STEPS
) -> list[list[str]]:
    """Of each step, the samples of all workers, by rank."""
    ranks = [
        digests(open_stream(store, data=data, rank=rank, workers=workers, first=first, last=last))
        for rank in range(workers)
    ]
    assert all(len(batch) == BATCH // workers for batches in ranks for batch in batches)
    return [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]


@pytest.fixture(scope="module")
def expected(store: ClipStore) -> list[list[str]]:
    """The samples of each step, made one by one from all frames of their scene."""
    frames = {scene: list(open_video(store.path / scene.file).frames()) for scene in store.scenes}

    def window(number: int) -> np.ndarray:
        sample = sample_at(number, seed=SEED, scenes=store.scenes, data=DATA)
        walk = sample.walk or ((0, 0),) * DATA.sequence_length
        shown = [sample.start + (0 if sample.walk else step) for step in range(DATA.sequence_length)]
        crops = [
            frames[sample.scene][position][sample.y + y : sample.y + y + 40, sample.x + x : sample.x + x + 40]
            for position, (x, y) in zip(shown, walk, strict=True)
        ]
        return np.stack(crops)[:, :, ::-1] if sample.flip else np.stack(crops)

    steps = [[digest(window(step * BATCH + i)) for i in range(BATCH)] for step in range(STEPS)]
    assert len({digest for step in steps for digest in step}) == STEPS * BATCH
    return steps


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_each_step_has_its_samples_on_any_number_of_workers(
    store: ClipStore, expected: list[list[str]], workers: int
) -> None:
    assert run(store, workers) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_run_that_is_cut_goes_on_with_the_same_samples(
    store: ClipStore, expected: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SEGMENT_DECODES", 5)
    monkeypatch.setattr(stream, "OVERLAP_DECODES", 2)
    before = open_stream(store)
    begun = digests(itertools.islice(before, 7))
    before.close()  # left in the middle of a mix with batches on their way
    assert begun == expected[:7]
    # Other numbers of workers go on, and are cut in turn.
    assert run(store, 3, first=7, last=9) == expected[7:9]
    assert run(store, 2, first=9) == expected[9:]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_lost_decoding_tasks_change_nothing(
    store: ClipStore, expected: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WINDOWS_OF_TASK", 1)
    batches = open_stream(store)
    found, killed = [], 0
    for batch in batches:
        found += digests(iter([batch]))
        if killed < 2 and kill_a_task(seconds=1.0):
            killed += 1
    assert killed, "no task was caught at work"
    assert found == expected


def kill_a_task(*, seconds: float) -> bool:
    """Kill a worker process of Ray in the middle of a decoding task, if one is met within these seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for process in psutil.Process().children(recursive=True):
            try:
                if title(process) != TASK:
                    continue
                process.suspend()
                if title(process) == TASK:
                    process.send_signal(signal.SIGKILL)
                    process.wait(60)
                    return True
                process.resume()
            except psutil.NoSuchProcess:
                continue
    return False


def title(process: psutil.Process) -> str:
    return " ".join(process.cmdline()).strip()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_decoded_frames_give_the_same_samples(
    store: ClipStore, expected: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 2 decodes of 5 windows a task; how many of a decode are a rank's varies."""
    monkeypatch.setattr(stream, "WINDOWS_OF_TASK", 10)
    data = dataclasses.replace(DATA, decoded_cache=True, cache_dir=str(tmp_path))
    assert run(store, 1, data=data) == expected
    assert len(list((tmp_path / "decoded").iterdir())) == SCENES
    assert run(store, 3, data=data) == expected
    assert run(store, 2, data=data, first=5) == expected[5:]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """As many samples of the same set-up as the original's loader was asked for, ten times."""
    scenes = [
        Scene(
            number=number, file="", frames=12, height=170, width=200, rate="24/1", source="", source_start=0,
            downscale=1, sha256="",
        )
        for number in range(2)
    ]  # fmt: skip
    data = WindowConfig(sequence_length=5)
    return [sample_at(i, seed=7, scenes=scenes, data=data) for i in range(10 * DATACHECK["samples"])]


def test_scenes_starts_flips_and_movement_are_distributed_as_the_originals(samples: list[Sample]) -> None:
    original = DATACHECK["samples"]
    assert same_share(sum(sample.flip for sample in samples), len(samples), DATACHECK["flip_frac"], original)
    assert same_share(
        sum(sample.walk is not None for sample in samples), len(samples), DATACHECK["moving_frac"], original
    )
    scenes = Counter(sample.scene.number for sample in samples)
    assert same_share(scenes[0], len(samples), DATACHECK["scenes"]["0"] / original, original)
    starts = Counter(sample.start for sample in samples)
    # The original never starts at the last possible frame, ours does, as often as at others.
    theirs = [DATACHECK["start_frames"][str(start)] for start in range(7)]
    assert stats.chi2_contingency([[starts[start] for start in range(7)], theirs]).pvalue > UNLIKELY
    assert sorted(starts) == list(range(8))
    assert stats.chisquare(list(starts.values())).pvalue > UNLIKELY


def same_share(count: int, samples: int, share: float, other_samples: int) -> bool:
    """Whether two samples may be of one binomial distribution."""
    other = round(share * other_samples)
    return bool(stats.chi2_contingency([[count, samples - count], [other, other_samples - other]]).pvalue > UNLIKELY)


def test_moving_windows_walk_as_the_originals(samples: list[Sample]) -> None:
    walks = np.array([sample.walk for sample in samples if sample.walk is not None])
    steps = Counter(np.diff(walks, axis=1).ravel().tolist())
    assert sorted(steps) == list(range(-4, 5))
    moving = round(DATACHECK["moving_frac"] * DATACHECK["samples"])
    theirs = [round(share * moving * 8) for share in DATACHECK["move_step_hist"].values()]  # 4 steps on 2 axes
    assert sum(theirs) == pytest.approx(moving * 8, abs=5)
    assert stats.chi2_contingency([[steps[step] for step in range(-4, 5)], theirs]).pvalue > UNLIKELY
    change = np.diff(walks, axis=1).reshape(len(walks), 8)
    correlations = np.corrcoef(change, rowvar=False) - np.eye(8)
    assert np.abs(correlations).max() < 4.5 / np.sqrt(len(walks))


def test_crops_cover_the_frame_as_the_originals(samples: list[Sample]) -> None:
    still = [sample for sample in samples if sample.walk is None]
    for axis, size in (("x", 200), ("y", 170)):
        first, last = DATACHECK[f"static_crop_{axis}_minmax"]
        corners = Counter(getattr(sample, axis) for sample in still)
        # The original never crops at the last possible pixel, ours does.
        assert (min(corners), max(corners)) == (first, last + 1) == (0, size - 136)
        assert stats.chisquare([corners[corner] for corner in range(last + 2)]).pvalue > UNLIKELY
    relative = [
        position for sample in samples if sample.walk is not None for position in relative_corner(sample, sample.walk)
    ]
    assert stats.kstest(relative, "uniform").pvalue > UNLIKELY


def relative_corner(sample: Sample, walk: Sequence[tuple[int, int]]) -> list[float]:
    """Where a moving window's crop is in the room that its walk leaves it, x and y, in 0 to 1.

    One of n positions stands for an interval of 1/n, and is blurred over it.
    """
    blur = np.random.default_rng(sample.index).random(2)
    room = np.array([200 - 136, 170 - 136]) - np.max(walk, axis=0)
    return ((np.array([sample.x, sample.y]) + blur) / (room + 1)).tolist()
