"""Chunks measured by Ray tasks, and the choice between those and this process."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import deque
from collections.abc import Iterator
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.connect import cluster_address, connected
from tecogan_dist.cluster.ray_errors import find_user_error
from tecogan_dist.metrics.measuring import Chunk, MeasureChunks, Row, Settings, in_this_process, prepare_process
from tecogan_dist.metrics.perceptual import Lpips
from tecogan_dist.metrics.sequence import Meter

SOME_WORKERS, WORKERS_OF_CPU = 8, 4
"""How many processes one machine may be asked for: some on any, and so many a CPU. Each takes a third of a gigabyte."""
MOST_WORKERS = 4096
"""Of a cluster, which may grow."""


@contextlib.contextmanager
def measuring(settings: Settings, *, workers: int | None, address: str | None) -> Iterator[tuple[MeasureChunks, int]]:
    """How chunks are measured, and by how many processes.

    By Ray tasks, on the Ray of this process, on the cluster at ``address`` or that $RAY_ADDRESS names, or else on one
    that is started here; but in this process where a single one is asked for, or there is a single CPU, and no Ray.
    ``workers``: None for as many as CPUs. Raises :class:`UserError` for CUDA where there is none, if no cluster
    answers, and for many more workers than this machine has CPUs.
    """
    most = max(SOME_WORKERS, WORKERS_OF_CPU * (os.cpu_count() or 1))
    if workers and workers > most and not cluster_address(address):
        raise UserError(
            f"--workers {workers} are too many for the {os.cpu_count()} CPUs here: ask for {most} or fewer."
        )
    if settings.device == "cuda" and not cluster_address(address) and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here: use --device cpu.")
    if not cluster_address(address) and not ray.is_initialized() and (workers or os.cpu_count()) == 1:
        yield in_this_process(settings), 1
        return
    with connected(address, cpus=workers or 1):
        resources = ray.cluster_resources()
        workers = workers or max(1, int(resources.get("CPU", 1)))
        gpus = resources.get("GPU", 0) if settings.device == "cuda" else 0
        if settings.device == "cuda" and not gpus:
            raise UserError("the cluster has no GPU: use --device cpu.")
        # Optical flow keeps a CPU busy longer than a network keeps a GPU: several tasks share one.
        share = min(1.0, int(gpus / workers * 1e4) / 1e4)
        yield by_ray_tasks(settings, workers=workers, gpus_each=share), workers


def by_ray_tasks(settings: Settings, *, workers: int, gpus_each: float = 0) -> MeasureChunks:
    """Up to ``workers`` chunks at a time by tasks of one CPU each on the connected Ray; as many wait for their turn.

    Raises :class:`UserError` for one in a task, and where a chunk's process is lost as often as Ray begins a task anew.
    """

    def measure_chunks(chunks: Iterator[Chunk]) -> Iterator[list[Row]]:
        shared = ray.put(settings)
        task = ray.remote(num_cpus=1, num_gpus=gpus_each)(_measure_in_task)
        waiting: deque[Any] = deque()
        for chunk in chunks:
            if len(waiting) == 2 * workers:
                yield _rows(waiting.popleft())
            # In a list it stays a reference, whose value a process takes once, not once a task.
            waiting.append(task.remote(chunk, [shared]))
        while waiting:
            yield _rows(waiting.popleft())

    return measure_chunks


def _rows(reference: Any) -> list[Row]:
    try:
        rows: list[Row] = ray.get(reference)
    except RayError as error:
        user_error = find_user_error(error)
        if user_error is not None:
            raise user_error from error
        if isinstance(error, RayTaskError):
            raise  # a defect of ours
        raise UserError(
            f"processes that measure frames died again and again ({type(error).__name__}): free memory, or measure "
            "with fewer --workers."
        ) from error
    return rows


def _measure_in_task(chunk: Chunk, shared: list[Any]) -> list[Row]:
    settings, lpips = _taken(shared[0])
    meter = Meter(protocol=settings.protocol, metrics=settings.metrics, lpips=lpips)
    pairs = zip(chunk.results, chunk.targets, strict=True)
    if chunk.has_context:
        meter.see(*next(pairs))
    return [meter.measure(*pair) for pair in pairs]


@functools.lru_cache(maxsize=1)
def _taken(reference: Any) -> tuple[Settings, Lpips | None]:
    """The settings and their network, once a process."""
    settings: Settings = ray.get(reference)
    return settings, prepare_process(settings)
