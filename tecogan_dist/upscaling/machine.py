"""The best use of a machine without a GPU: how many processes, and how many threads for the network in each.

Threads of one process wait for each other at the end of every layer; processes do not, but each needs a scene of its
own and memory. What is best depends on the processor, the network and the frames' size, so a few frames are measured.

**The number of threads is a part of a job's plan.** With another one, torch's convolutions may add in another order:
measured with torch 2.14 on 2 cores, the same frames came out bit for bit alike with 1, 2 and 3 threads at all sizes
from 37x41 to 240x320, but with 4 and more of a network of 8 channels at 37x41 up to 2.4e-7 apart. For a given number
they are the same each time. So the number is chosen once, when the work is planned, and whoever makes a segment uses
it; the number of processes changes nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from tecogan_dist.base.memory import available_memory, in_words
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling.recurrence import Recurrence
from tecogan_dist.upscaling.tiles import encoder_bytes, frame_bytes, tile_bytes

MEASURED = (96, 128)
"""Height and width, at most, of the low-resolution frames that are measured: half a second for the published network
on one core."""
FEWEST_SECONDS = 0.7
"""That each way is measured for, at least."""
CLEARLY = 1.1
"""A way with more processes has to be that much faster: they need memory, and seconds to start."""
PROCESS_BYTES = 400e6
"""Of a process before its first frame: torch, FFmpeg and the model (measured: 320 MB and a model of 20 MB)."""
SHARE = 0.7
"""Of the memory that is free, which the processes may take."""
SMALL = 2e6
"""Low-resolution pixels of a whole job for which it does not pay to look for the best way: about a minute's work."""
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Way:
    """So many processes of so many threads, and what that gives in low-resolution pixels a second."""

    processes: int
    threads: int
    speed: float = math.nan


@dataclass(frozen=True)
class Choice:
    """The way to go, and why, as a part of a sentence."""

    processes: int
    threads: int
    reason: str


def cpus_here() -> int:
    """CPUs that this process may use, by its affinity and its container's limit."""
    cpus = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = _CPU_LIMIT.read_text().split()
        if quota != "max":
            cpus = min(cpus, max(1, round(int(quota) / int(period))))
    return cpus


def process_bytes(
    model: RecurrentUpscaler, height: int, width: int, *, tile: int | None = None, precision: str = "fp32"
) -> float:
    """Of a process that upscales low-resolution frames of this size, in tiles or whole; about, rather too many."""
    at_once = min(height, tile or height) * min(width, tile or width)
    network = tile_bytes(model, device=torch.device("cpu"), precision=precision) * at_once
    return PROCESS_BYTES + frame_bytes(model, height, width) + network + encoder_bytes(model, height, width)


def most_processes(each: float, *, cpus: int, groups: int, memory: float) -> tuple[int, str]:
    """The most processes that make sense, and what limits them."""
    by_memory = max(1, int(SHARE * memory / each))
    most = max(1, min(cpus, groups, by_memory))
    if most == cpus:
        return most, f"{cpus} CPU{'s' if cpus != 1 else ''}"
    if most == groups:
        return most, f"{groups} part{'s' if groups != 1 else ''} that can be made at the same time"
    return most, f"{in_words(memory)} of free memory, {in_words(each)} each"


def ways(most: int, *, cpus: int) -> list[Way]:
    """Those that are worth a measurement, all of which use all CPUs: 1, 2, 4 processes and so on, and the most."""
    numbers = {2**power for power in range(most.bit_length()) if 2**power <= most} | {most}
    return [Way(number, max(1, cpus // number)) for number in sorted(numbers)]


def choose(
    model: RecurrentUpscaler,
    *,
    height: int,
    width: int,
    frames: int,
    groups: int,
    cpus: int | None = None,
    memory: float | None = None,
    threads: int | None = None,
    most: int | None = None,
    tile: int | None = None,
    measure: Callable[[RecurrentUpscaler, Sequence[Way], int, int], list[Way]] | None = None,
) -> Choice:
    """How to upscale so many low-resolution frames of this size whose segments are in so many ``groups``.

    ``model`` is on the CPU. ``threads``: that many, as a plan has it. ``most``: processes that are allowed. ``tile``:
    of the network; whole frames take more memory. Takes some seconds where there is a choice.
    """
    cpus = cpus or cpus_here()
    each = process_bytes(model, height, width, tile=tile)
    limit, why = most_processes(each, cpus=cpus, groups=groups, memory=available_memory() if memory is None else memory)
    if most is not None and most < limit:
        limit, why = most, f"--workers {most}"
    if threads is not None:
        number = max(1, min(limit, cpus // threads))
        return Choice(number, threads, f"with the {_count(threads, 'thread')} that the work was planned with")
    if limit == 1:
        return Choice(1, torch.get_num_threads(), f"because of {why}")
    if most is not None and limit == most:
        return Choice(limit, max(1, cpus // limit), f"as --workers {most} says")
    if frames * height * width < SMALL:
        return Choice(1, torch.get_num_threads(), "it is little work")
    candidates = ways(limit, cpus=cpus)
    measured = (measure or measured_ways)(model, candidates, min(height, MEASURED[0]), min(width, MEASURED[1]))
    best = measured[0]
    for way in measured[1:]:
        if way.speed > CLEARLY * best.speed:
            best = way
    first = measured[0]
    shown = ", ".join(f"{way.processes}x{way.threads}: {way.speed / first.speed:.2f}" for way in measured)
    return Choice(best.processes, best.threads, f"the best that was measured (processes x threads: {shown})")


def measured_ways(model: RecurrentUpscaler, candidates: Sequence[Way], height: int, width: int) -> list[Way]:
    """The candidates with their speeds on low-resolution frames of this size.

    Threads of this process stand for processes: each has OpenMP threads of its own, and Python's lock is free while
    layers are computed.
    """
    return [Way(way.processes, way.threads, _speed(model, way, height, width)) for way in candidates]


def _speed(model: RecurrentUpscaler, way: Way, height: int, width: int) -> float:
    """Low-resolution pixels a second of all together."""
    frame = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    begin = threading.Barrier(way.processes)

    def run(_: int) -> tuple[int, float]:
        with computing_with(way.threads):
            recurrence = Recurrence(model, size=(height, width), device=torch.device("cpu"))
            recurrence.step(frame)  # kernels are chosen and memory is taken
            begin.wait()
            began, frames = time.monotonic(), 0
            while frames == 0 or time.monotonic() - began < FEWEST_SECONDS:
                recurrence.step(frame)
                frames += 1
            return frames, time.monotonic() - began

    with ThreadPoolExecutor(way.processes) as pool:
        ran = list(pool.map(run, range(way.processes)))
    return sum(height * width * frames / seconds for frames, seconds in ran)


@contextlib.contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """In the block, this thread's networks are computed with so many threads; None: with as many as before."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_sentence(choice: Choice) -> str:
    """What is said of it before the work."""
    processes, threads = choice.processes, choice.threads
    return f"{_count(processes, 'process')} of {_count(threads, 'thread')}: {choice.reason}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"
