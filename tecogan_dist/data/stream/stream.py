"""The training stream: batches of windows in step order, cut from clips by Ray Data tasks beside the workers.

Every worker builds its own stream inside its training function. What it yields is a function of (seed, step, rank)
alone, so it can start at any step, on any number of workers. A task does a few decodes (see :mod:`windows`) and
returns their windows as one block; the stream puts windows of several decodes together into batches, so that a worker
holds the windows of one mix, and of the tasks that made them, at most.

Why blocks of one row, in segments: with ``preserve_order`` only tasks of *different* blocks run ahead of each other,
and a large block holds the next ones back until it is used up. Measured on 2 busy cores with 3 decoders, a decode of
4.4 MB every 26 ms being the ideal: 62 ms a decode with blocks of one row from ``repartition`` (20,000 decodes planned,
first batch after 7 s), 85 ms with read blocks of 16 rows. That repartition is one task, which on a single free CPU
finishes before the first decoding starts (63 s for 20,000 rows): hence segments. The next segment is started shortly
before the end of the current one, so nothing waits for it to start up.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import ray
import ray.data
import torch

from tecogan_dist.base.chatter import is_verbose, quieten
from tecogan_dist.base.invariants import require
from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.ray_errors import find_user_error
from tecogan_dist.data.clips import Scene
from tecogan_dist.data.stream.decoding import StreamShard, decode, rows_of
from tecogan_dist.data.stream.fits import check_scenes
from tecogan_dist.data.stream.scheduling import WANTED, Unhurried
from tecogan_dist.data.stream.windows import WindowConfig, crop_side, decode_of

SEGMENT_DECODES = 1024
OVERLAP_DECODES = 64
"""Decodes before the end of a segment at which the next is started; while both run they share the decoders' CPUs."""
MAX_DECODERS = 8
TASKS_AHEAD = 4
"""Tasks of each decoder whose windows may wait in the object store."""
SMALLEST_STORE_SHARE = 64 * 2**20
WINDOWS_OF_TASK = 32
"""Windows that a task returns at least, from as many decodes as that takes: a task costs some 25 ms of Ray's own CPU.
With 8 windows a decode and batches of 4 that was 14 ms a batch when every decode was a task, and is 4 ms now; and
enough windows are waiting when a mix ends."""


def training_stream(
    store: str | Path | Location,
    *,
    data: WindowConfig,
    seed: int,
    batch_size: int,
    rank: int,
    world_size: int,
    first_step: int,
    steps: int,
    scenes: Sequence[Scene],
    decoders: int | None = None,
) -> Generator[torch.Tensor]:
    """This rank's share of the batches of steps ``first_step`` to ``first_step + steps - 1``, in order.

    ``batch_size`` is that of a step over all ranks and a multiple of ``world_size``; rank r has its samples
    ``r * N`` to ``r * N + N - 1`` with N = batch_size / world_size. Yields (N, T, H, W, 3) uint8 RGB tensors on the
    CPU, each in memory of its own (pin it at will), H and W being ``crop_side(data)``. A validation stream is the same
    thing with other scenes and another seed. The first windows are made from the call on.

    ``decoders``: decoding tasks at a time, one CPU each; by default this rank's share of the cluster's CPUs less one
    for the worker itself, at most 8. The workers must leave at least one CPU of the cluster free. Needs an initialised
    Ray. Raises :class:`UserError` for unfit scenes, and later for a clip that is missing or damaged.
    """
    require(batch_size % world_size == 0, f"{batch_size} windows are shared out evenly among {world_size} workers")
    require(0 <= rank < world_size, f"{rank} is a rank of {world_size} workers")
    check_scenes(scenes, data)
    quieten("ray.data")  # it reports the start and end of every segment
    if decoders is None:
        decoders = max(1, min(MAX_DECODERS, int(ray.cluster_resources()["CPU"]) // world_size - 1))
    shard = StreamShard(
        store=Location.of(store).absolute(),
        data=data,
        seed=seed,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        first_step=first_step,
        steps=steps,
    )
    return _batches(shard, iter(_Decodes(shard, scenes, decoders)))


def _batches(shard: StreamShard, decoded: Iterator[tuple[int, np.ndarray]]) -> Generator[torch.Tensor]:
    held: dict[int, list[np.ndarray]] = {}  # windows of each decode that are still to be used, the next one last
    for step in range(shard.first_step, shard.first_step + shard.steps):
        windows = []
        for index in shard.samples_of_step(step):
            number = decode_of(index, shard.data)
            while number not in held:
                WANTED.set()
                try:
                    arrived, block = next(decoded)
                finally:
                    WANTED.clear()
                held[arrived] = list(block[::-1])
            windows.append(held[number].pop())
            if not held[number]:
                del held[number]
        yield torch.from_numpy(np.stack(windows))


class _Decodes:
    """(decode, its windows (K, T, H, W, 3)) in the order of ``shard.decodes()``, made before they are asked for.

    The first segment starts when this is made: while a worker builds its networks, tasks start and decode.
    """

    def __init__(self, shard: StreamShard, scenes: Sequence[Scene], decoders: int) -> None:
        self._shard, self._scenes, self._decoders = shard, scenes, decoders
        self._numbers = shard.decodes()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="next-segment")
        self._segment = _take(self._numbers)
        self._upcoming = self._thread.submit(self._start, self._segment) if self._segment else None

    def __iter__(self) -> Generator[tuple[int, np.ndarray]]:
        try:
            with self._thread:
                while self._upcoming is not None:
                    pair, decoded = self._upcoming.result()
                    self._upcoming, following = None, []
                    for position in range(len(self._segment)):
                        if position == max(0, len(self._segment) - OVERLAP_DECODES):
                            following = _take(self._numbers)
                            self._upcoming = self._thread.submit(self._start, following) if following else None
                        yield pair
                        if position + 1 < len(self._segment):
                            pair = next(decoded)
                    self._segment = following
        except Exception as error:
            user_error = find_user_error(error)
            if user_error is None:
                raise
            raise user_error from error

    def _start(self, segment: list[int]) -> tuple[tuple[int, np.ndarray], Iterator[tuple[int, np.ndarray]]]:
        decoded = _segment(segment, self._shard, self._scenes, self._decoders)
        return next(decoded), decoded


def _take(numbers: Iterator[int]) -> list[int]:
    return [number for _, number in zip(range(SEGMENT_DECODES), numbers, strict=False)]


def _segment(
    numbers: list[int], shard: StreamShard, scenes: Sequence[Scene], decoders: int
) -> Iterator[tuple[int, np.ndarray]]:
    """One Ray Data execution: a row and block for each task, in order; yields (decode, its windows)."""
    decodes_of_task = max(1, WINDOWS_OF_TASK // shard.data.windows_per_decode)
    tasks = [numbers[first : first + decodes_of_task] for first in range(0, len(numbers), decodes_of_task)]
    rows = ray.data.from_arrow(rows_of(tasks, scenes, seed=shard.seed))
    dataset = rows.repartition(target_num_rows_per_block=1).map_batches(
        functools.partial(decode, shard=shard),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        compute=ray.data.TaskPoolStrategy(size=min(decoders, len(tasks))),
    )
    side = crop_side(shard.data)
    decode_bytes = shard.data.windows_per_decode * shard.data.sequence_length * side * side * 3
    context = dataset.context
    context.enable_progress_bars = is_verbose()
    context.custom_execution_callback_classes = [Unhurried]
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray.data.ExecutionResources(
        object_store_memory=max(SMALLEST_STORE_SHARE, TASKS_AHEAD * decoders * decodes_of_task * decode_bytes)
    )
    for row in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2):
        ends = np.cumsum(row["counts"][0])
        yield from zip(row["decodes"][0].tolist(), np.split(row["windows"][0], ends[:-1]), strict=True)
