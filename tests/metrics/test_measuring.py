"""Opening sequences, cutting them into chunks, and measuring those here or by Ray tasks."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray
from PIL import Image
from ray.exceptions import RayTaskError

from tecogan_dist.base.errors import UserError
from tecogan_dist.metrics.measuring import (
    Chunk,
    OpenSequence,
    Settings,
    chunk_size,
    cut_into_chunks,
    measure_sequences,
    open_sequences,
    total_frames,
)
from tecogan_dist.metrics.protocol import OFFICIAL
from tecogan_dist.metrics.ray_tasks import by_ray_tasks, measuring
from tecogan_dist.metrics.sequence import measure
from tecogan_dist.video.open import open_video
from tests.support.local_ray import small_ray

Images = NDArray[np.uint8]
SIMPLE = ("psnr", "ssim", "tof")
SETTINGS = Settings(OFFICIAL, SIMPLE, None)


def texture(frames: int, *, height: int = 50, width: int = 68, seed: int = 0) -> Images:
    """(T, H, W, 3): smooth noise that moves a pixel a frame."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 2, (width + frames) // 4 + 2, 3))
    wide = np.asarray(Image.fromarray(noise.astype(np.uint8)).resize((noise.shape[1] * 4, noise.shape[0] * 4), 3))
    return np.stack([wide[:height, t : t + width] for t in range(frames)])


def noisy(images: Images) -> Images:
    noise = np.random.default_rng(1).integers(-9, 10, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def write_folder(folder: Path, images: Images) -> Path:
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"frame_{index:04}.png")
    return folder


def test_chunks_share_one_frame_and_change_nothing() -> None:
    frames = texture(11)
    for size in (1, 4, 9, 20):
        chunks = list(cut_into_chunks(iter(zip(noisy(frames), frames, strict=True)), size))
        assert [chunk.has_context for chunk in chunks] == [False] + [True] * (len(chunks) - 1)
        measured = np.concatenate([chunk.targets[int(chunk.has_context) :] for chunk in chunks])
        assert np.array_equal(measured, frames)
        assert all(np.array_equal(chunk.targets[0], before.targets[-1]) for before, chunk in itertools.pairwise(chunks))
    assert isinstance(chunks[0], Chunk)


def test_chunk_size_is_bounded_by_memory_and_shared_by_workers() -> None:
    assert chunk_size(720 * 576 * 3, total=10_000, workers=2) == 16
    assert chunk_size(720 * 576 * 3, total=64, workers=2) == 8
    assert chunk_size(3840 * 2160 * 3, total=None, workers=2) == 4


def test_a_wrong_count_in_a_container_is_found_by_reading(tmp_path: Path) -> None:
    """Counting goes by the frames that are there, whatever was promised."""
    long, short = texture(12), texture(10)
    for name, images in (("a", noisy(long)), ("b", short)):
        write_folder(tmp_path / name, images)
    sequence = OpenSequence("", open_video(tmp_path / "a"), open_video(tmp_path / "b"), OFFICIAL)
    with pytest.raises(UserError, match=r"a has 12 frames and .*b has 10"):
        list(sequence.pairs(lambda: None))


def test_a_sequence_is_named_after_its_target_unless_that_is_unclear(tmp_path: Path) -> None:
    hr, other = (write_folder(tmp_path / name / "walk", texture(6)) for name in ("hr", "other"))
    ours, theirs = (write_folder(tmp_path / name, texture(6)) for name in ("ours", "theirs"))
    (one,) = open_sequences([str(ours)], [str(hr)], OFFICIAL)
    assert one.name == "walk"
    assert total_frames([one]) == 6
    both = open_sequences([str(ours), str(theirs)], [str(hr), str(other)], OFFICIAL)
    assert [sequence.name for sequence in both] == ["ours", "theirs"]
    assert total_frames(both) == 12


Measured = tuple[dict[str, list[float]], int, bool]
"""The values of a sequence, by how many processes, and whether Ray was running meanwhile."""


def measured(folder: Path, *, workers: int) -> Measured:
    (sequence,) = open_sequences([str(folder / "results")], [str(folder / "targets")], OFFICIAL)
    with measuring(SETTINGS, workers=workers, address=None) as (measure_chunks, processes):
        (values,) = measure_sequences([sequence], measure_chunks, processes=processes, metrics=SIMPLE)
        return values.values, processes, ray.is_initialized()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, frames = tmp_path_factory.mktemp("sequence"), texture(21)
    write_folder(folder / "results", noisy(frames))
    write_folder(folder / "targets", frames)
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> Measured:
    """By a single worker, before there is any Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        assert not ray.is_initialized()
        return measured(folder, workers=1)


@pytest.fixture(scope="module")
def cluster(alone: Measured) -> Iterator[None]:  # noqa: ARG001 - the order matters
    with small_ray(cpus=2, megabytes=150):
        yield


@pytest.mark.usefixtures("cluster")
def test_a_single_process_needs_no_ray_and_gives_the_values_of_tasks(alone: Measured, folder: Path) -> None:
    values, processes, had_ray = alone
    assert (processes, had_ray) == (1, False)
    for workers in (1, 2):
        assert measured(folder, workers=workers) == (values, workers, True)
    assert ray.is_initialized()  # it was there before: it stays
    expected = measure(noisy(texture(21)), texture(21), metrics=SIMPLE)
    for metric in SIMPLE:
        assert values[metric] == pytest.approx(expected[metric], rel=1e-6)


def run_tasks(*chunks: Chunk) -> None:
    list(by_ray_tasks(SETTINGS, workers=2)(iter(chunks)))


@pytest.mark.usefixtures("cluster")
def test_an_error_in_a_task_reaches_the_user_as_one_sentence() -> None:
    small = np.zeros((2, 40, 40, 3), np.uint8)
    with pytest.raises(UserError) as caught:
        run_tasks(Chunk(small, small, has_context=False))
    assert str(caught.value) == (
        "frames of 40x40 are too small to be measured: the official protocol needs 48 pixels in each side."
    )


@pytest.mark.usefixtures("cluster")
def test_a_defect_in_a_task_keeps_its_trace() -> None:
    frames = np.zeros((2, 48, 48, 3), np.uint8)
    with pytest.raises(RayTaskError, match="zip"):
        run_tasks(Chunk(frames, frames[:1], has_context=False))


class Deadly:
    """Ends the process that receives it, as a machine without memory would."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


@pytest.mark.usefixtures("cluster")
def test_processes_that_die_are_one_sentence() -> None:
    frames: Any = Deadly()
    with pytest.raises(UserError, match=r"died again and again \(WorkerCrashedError\): .* fewer --workers"):
        run_tasks(Chunk(frames, frames, has_context=False))
