"""FIXME docstring"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from typing import Any

import ray

from tecogan_dist.metrics.measuring import Chunk, Mapping, Row, Settings, _prepared
from tecogan_dist.metrics.perceptual import Lpips
from tecogan_dist.metrics.sequence import Meter


def by_ray_tasks(settings: Settings, *, workers: int, gpus_each: float = 0) -> Mapping:
    """Up to ``workers`` chunks at a time by tasks of one CPU each on the connected Ray; as many wait for their turn."""

    def mapping(chunks: Iterator[Chunk]) -> Iterator[list[Row]]:
        shared = ray.put(settings)
        task = ray.remote(num_cpus=1, num_gpus=gpus_each)(_measure_in_task)
        waiting: deque[Any] = deque()
        for chunk in chunks:
            if len(waiting) == 2 * workers:
                yield ray.get(waiting.popleft())
            # In a list it stays a reference, whose value a process takes once, not once a task.
            waiting.append(task.remote(chunk, [shared]))
        while waiting:
            yield ray.get(waiting.popleft())

    return mapping


def _measure_in_task(chunk: Chunk, shared: list[Any]) -> list[Row]:
    settings, lpips = _taken(shared[0])
    meter = Meter(protocol=settings.protocol, metrics=settings.metrics, lpips=lpips)
    pairs = zip(chunk.results, chunk.targets, strict=True)
    if chunk.has_context:
        meter.see(*next(pairs))
    return [meter.measure(*pair) for pair in pairs]


@functools.lru_cache(maxsize=1)
def _taken(reference: Any) -> tuple[Settings, Lpips | None]:
    settings: Settings = ray.get(reference)
    return settings, _prepared(settings)
