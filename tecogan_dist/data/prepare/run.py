"""Sources made into clips, in this process or by Ray tasks, with equal results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

import ray

from tecogan_dist.data.clips import Scene
from tecogan_dist.data.prepare.cutting import Event, Finished, Scenes, Settings, prepare_source
from tecogan_dist.data.prepare.jobs import Job

LOST_WORKERS = 3
"""Times that a source is begun anew because the process that read it died."""


def in_this_process(
    jobs: Sequence[Job], scenes: Callable[[], Scenes], settings: Settings
) -> Generator[tuple[Job, Event]]:
    """What happens to each job, one after the other. ``scenes``: those that the index has at the time."""
    for job in jobs:
        for event in prepare_source(job, _of(job, scenes()), settings):
            yield job, event


def by_ray_tasks(
    jobs: Sequence[Job], scenes: Callable[[], Scenes], settings: Settings, *, workers: int
) -> Generator[tuple[Job, Event]]:
    """What happens to the jobs, up to ``workers`` at a time, each a task of one CPU on the connected Ray.

    Downloads wait for the network and decoders take what cores there are: the CPU only bounds their number. A source
    whose process dies is begun anew, without the scenes that were finished.
    """
    task = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(prepare_source)
    waiting = deque((job, 0) for job in jobs)
    running: dict[Any, tuple[Job, int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job, lost = waiting.popleft()
                running[task.remote(job, _of(job, scenes()), settings)] = (job, lost)
            ready: Any = ray.wait(list(running), num_returns=1)[0]
            events = ready[0]
            job, lost = running[events]
            try:
                yield job, ray.get(next(events))
            except StopIteration:
                del running[events]
            except ray.exceptions.RayTaskError:
                raise  # a defect of ours
            except ray.exceptions.RayError as error:
                del running[events]
                if lost + 1 < LOST_WORKERS:
                    waiting.append((job, lost + 1))
                else:
                    reason = f"the process that read it died {LOST_WORKERS} times ({type(error).__name__})"
                    yield job, Finished(problem=f"{reason}: is there enough memory?")
    finally:
        for events in running:
            ray.cancel(events, force=True)


def _of(job: Job, scenes: Scenes) -> dict[int, Scene]:
    return {number: scenes[number] for number in job.numbers if number in scenes}
