"""Clips compared with the checksums of their store's index, in this process or by Ray tasks, with equal results."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import ray

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.connect import cluster_address, connected
from tecogan_dist.cluster.ray_errors import find_user_error
from tecogan_dist.data.clips import Scene, Scenes, problem_of

TASKS_AT_A_TIME = 4
"""Where clips come from elsewhere, or on a cluster. One process alone keeps a disk busy."""
SCENES_OF_TASK = 64
ATTEMPTS = 3
"""To read some clips, if processes die of it."""

Verdict = tuple[Scene, str | None]
"""A scene, and what is wrong with its clips."""


def verified(
    store: Location, scenes: Scenes, *, workers: int | None = None, address: str | None = None
) -> Generator[Verdict]:
    """All of these scenes, in order, each with what is wrong with its clips: missing, or not what was written.

    Reads everything. ``workers``: tasks at a time; 1: in this process, more: on the cluster at ``address`` (by default
    that of $RAY_ADDRESS, else on this machine). None: 4 if the store is remote or on a cluster, else 1. Raises
    :class:`UserError` for what cannot be read.
    """
    has_ray = bool(cluster_address(address)) or ray.is_initialized()
    if workers is None:
        workers = TASKS_AT_A_TIME if has_ray or not store.is_local else 1
    workers = min(workers, max(1, -(-len(scenes) // SCENES_OF_TASK)))
    if workers == 1 and not has_ray:
        yield from ((scene, problem_of(store, scene)) for scene in scenes)
        return
    with connected(address, cpus=workers), contextlib.closing(_by_ray_tasks(store, scenes, workers)) as verdicts:
        yield from verdicts


def _by_ray_tasks(store: Location, scenes: Scenes, workers: int) -> Generator[Verdict]:
    store = store.absolute()  # tasks have other working directories
    task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_problems)
    parts: Iterator[Scenes] = (
        scenes[first : first + SCENES_OF_TASK] for first in range(0, len(scenes), SCENES_OF_TASK)
    )
    running: deque[tuple[Scenes, Any]] = deque()
    try:
        while True:
            while len(running) < workers and (part := next(parts, None)) is not None:
                running.append((part, task.remote(store, part)))
            if not running:
                return
            part, answer = running[0]
            problems = ray.get(answer)
            running.popleft()
            yield from zip(part, problems, strict=True)
    except ray.exceptions.RayTaskError as error:
        user_error = find_user_error(error)
        if user_error is None:
            raise
        raise user_error from error
    except ray.exceptions.RayError as error:
        reason = f"a process that read them died {ATTEMPTS} times ({type(error).__name__})"
        raise UserError(f"the clips of {store} cannot be verified, {reason}: is there enough memory?") from error
    finally:
        for _, answer in running:
            ray.cancel(answer, force=True)


def _problems(store: Location, scenes: Scenes) -> list[str | None]:
    return [problem_of(store, scene) for scene in scenes]
