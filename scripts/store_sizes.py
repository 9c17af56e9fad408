"""What grows with a clip store, and what does not: stores of any number of scenes, all of one real clip."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
from sample_store import write_store

from tecogan_dist.cluster.connect import connected
from tecogan_dist.data.clips import ClipStore, Scene
from tecogan_dist.data.scenes import clip_name
from tecogan_dist.data.stream.stream import training_stream
from tecogan_dist.data.stream.windows import WindowConfig
from tecogan_dist.data.writing import ClipStoreWriter

LINKS = 30_000
"""Names of one file; ext4 allows 65,000."""
OPENED, ENTERED = 3, 300
WARM_UP, MEASURED = 128, 512
"""Batches."""
LOOKS = 20
"""At a task's memory."""
TASK = "ray::MapBatches(decode)"


@dataclasses.dataclass(frozen=True)
class IndexTimes:
    """Seconds."""

    open: float
    enter: float


@dataclasses.dataclass(frozen=True)
class StreamCosts:
    first_batch: float
    """Seconds."""
    batch: float
    """Seconds, at full speed."""
    training: float
    task: float
    """Megabytes that the process has for itself."""


def compare(sizes: Sequence[int], *, batch_size: int, decoders: int) -> None:
    """Print a line for each size, measured in a process of its own."""
    print(
        f"{'scenes':>8}{'open':>10}{'enter one':>11}{'first batch':>13}{'a batch':>10}{'training process':>18}"
        f"{'decoding task':>15}"
    )
    processes = multiprocessing.get_context("spawn")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            store = make_store(Path(folder), size)
            with ProcessPoolExecutor(1, mp_context=processes) as pool:
                index, scenes = pool.submit(measure_index, store).result()
            # As a worker gets them.
            with ProcessPoolExecutor(1, mp_context=processes) as pool:
                stream = pool.submit(measure_stream, store, scenes, batch_size=batch_size, decoders=decoders).result()
        print(
            f"{len(scenes):8}{index.open * 1e3:7.0f} ms{index.enter * 1e3:8.1f} ms{stream.first_batch:11.1f} s"
            f"{stream.batch * 1e3:7.1f} ms{stream.training:15.0f} MB{stream.task:12.0f} MB",
            flush=True,
        )


def make_store(folder: Path, size: int) -> Path:
    """A store of ``size`` scenes whose clips are links to a few copies of one."""
    store = write_store(folder)
    (scene,) = ClipStore.open(store).scenes
    clip = source = store / scene.file
    for number in range(2, size + 1):
        if number % LINKS == 0:
            clip = Path(shutil.copyfile(source, folder / f"copy_{number}.mp4"))
        os.link(clip, store / clip_name(number, clip.suffix))
    with ClipStoreWriter(store) as writer:
        writer.enter_all(
            dataclasses.replace(scene, number=number, file=clip_name(number, clip.suffix), source=f"films/{number}.mp4")
            for number in range(2, size + 1)
        )
    return store


def measure_index(store: Path) -> tuple[IndexTimes, Sequence[Scene]]:
    """Also returns the store's scenes."""
    opened = median_seconds(lambda: ClipStore.open(store), OPENED)
    with ClipStoreWriter(store) as writer:
        scenes = itertools.cycle([writer.scenes[number] for number in range(1, min(ENTERED, len(writer.scenes)) + 1)])
        entered = median_seconds(lambda: writer.enter(next(scenes)), ENTERED)
    return IndexTimes(opened, entered), ClipStore.open(store).scenes


def measure_stream(store: Path, scenes: Sequence[Scene], *, batch_size: int, decoders: int) -> StreamCosts:
    of_tasks: list[float] = []
    with connected(None, cpus=decoders + 2):
        began = time.perf_counter()
        stream = training_stream(
            store, data=WindowConfig(), seed=1, batch_size=batch_size, rank=0, world_size=1, first_step=0,
            steps=10**6, scenes=scenes, decoders=decoders,
        )  # fmt: skip
        next(stream)
        first = time.perf_counter() - began
        for _ in range(WARM_UP):
            next(stream)
        began = time.perf_counter()
        for _ in range(MEASURED):
            next(stream)
        batch = (time.perf_counter() - began) / MEASURED
        while len(of_tasks) < LOOKS:
            next(stream)
            of_tasks += [own_megabytes(child) for child in psutil.Process().children(recursive=True) if is_task(child)]
        training = own_megabytes(psutil.Process())
        stream.close()
    return StreamCosts(first, batch, training, max(of_tasks))


def median_seconds(action: Callable[[], object], count: int) -> float:
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def is_task(process: psutil.Process) -> bool:
    try:
        return " ".join(process.cmdline()).strip() == TASK
    except psutil.NoSuchProcess:
        return False


def own_megabytes(process: psutil.Process) -> float:
    return float(process.memory_full_info().uss / 1e6)
