"""What control costs as workers become more: start-up, heartbeat, agreement, checkpoints, logging.

    python scripts/bench_scaling.py --control [--workers 4 8 16]

Each number of workers is a real run of Ray Train on an embedded Ray, with a tiny network, one window a worker and gloo;
see ``control_run.py``. N processes on a few cores take N times as long whatever they do, so what is compared is
what one process pays: a worker's CPU time for what all workers do, the CPU time of the process that does it for what
one does for all, and counts. Times on the clock are given as time * cores / N, a worker's share of the cores, which
shows waiting that costs no CPU, and is inflated by whatever else runs. A cost that grows as N ** p has the exponent p;
it is fitted to all runs, and taken of the last two alone, where a constant part hides less.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import os
import queue
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from control_run import OUTPUT, Found, run
from control_worker import IDLE
from sample_store import write_store

LIMIT = 1.3
"""Exponent beyond which a cost counts as growing faster than linearly. The 2 (N - 1) messages of a ring are linear and
have 1.16 from 4 to 16 workers, 1.22 from 4 to 8; the rest is for noise."""
BYTES_OF_WORKER = 800e6
"""Memory that a worker and its decoding process hold alone."""
SECONDS, SECONDS_OF_WORKER = 300.0, 60.0
"""A run may take so long, with so much more for each worker; then its processes are ended."""
CORES = os.cpu_count() or 1
WORKERS = [4, 8, 16]


@dataclass(frozen=True)
class Row:
    """A cost, and how to find it in a run."""

    part: str
    name: str
    cost: Callable[[Found], float]
    form: str = ".2f"


def _mean(found: Found, value: Callable[[dict[str, Any]], float]) -> float:
    return statistics.mean(value(worker) for worker in found.workers)


def _between(begin: str, end: str) -> Callable[[Found], float]:
    """CPU seconds of a worker between two marks."""
    return lambda found: _mean(found, lambda one: one["marks"][end][1] - one["marks"][begin][1])


def _of_all(part: str, clock: str, factor: float = 1e3) -> Callable[[Found], float]:
    """What each worker pays for a part that all do; on the clock, its share of the cores."""

    def cost(found: Found) -> float:
        share = CORES / len(found.workers) if clock == "wall" else 1.0
        return factor * share * _mean(found, lambda one: one["parts"][part][clock])

    return cost


def _of_first(part: str, *processes: str, factor: float = 1e3) -> Callable[[Found], float]:
    """What the first worker measured: "cpu" and "wall" are its own, the others those of central processes."""
    return lambda found: factor * sum(found.workers[0]["parts"][part][name] for name in processes)


def _central(*processes: str) -> Callable[[Found], float]:
    """CPU seconds of central processes until training ended, without what so long a time costs them anyway: it is long
    because the workers share a few cores."""

    def cost(found: Found) -> float:
        idle = sum(found.workers[0]["parts"]["idle"][name] for name in processes) / IDLE
        return sum(found.workers[0]["central"][name] for name in processes) - idle * found.trained

    return cost


def _calls(found: Found) -> float:
    calls, steps = found.workers[0]["calls"], found.workers[0]["steps"]
    return sum(count for name, count in calls.items() if name != "take") / steps


ROWS = (
    Row("start-up", "launch to step 1 done, s x cores / N", lambda found: found.start * CORES / len(found.workers)),
    Row("", "a worker: process, imports, group, CPU s", _between("process", "function")),
    Row("", "a worker: engines, CPU s", _between("function", "engines")),
    Row("", "a worker: first windows, CPU s", _between("engines", "windows")),
    Row("", "controller, beyond idling, CPU s", _central("controller")),
    Row("", "raylet and GCS, beyond idling, CPU s", _central("raylet", "gcs")),
    Row("", "driver and board, beyond idling, CPU s", _central("driver", "board")),
    Row("heartbeat", "an idle worker, CPU ms a second", _of_all("idle", "cpu", 1e3 / IDLE)),
    Row("", "controller, which asks all, CPU ms a second", _of_first("idle", "controller", factor=1e3 / IDLE)),
    Row("", "raylet and GCS, CPU ms a second", _of_first("idle", "raylet", "gcs", factor=1e3 / IDLE)),
    Row("", "board and driver, CPU ms a second", _of_first("idle", "board", "driver", factor=1e3 / IDLE)),
    Row("questions", "first worker, CPU ms each", _of_first("questions", "cpu")),
    Row("", "board, CPU ms each", _of_first("questions", "board")),
    Row("", "calls that the board gets, a step", _calls),
    Row("", "steps from the answer to stop until the end", lambda found: found.workers[0]["steps_to_stop"], ".0f"),
    Row("agreement", "a worker, CPU ms a step", _of_all("agreement", "cpu")),
    Row("", "on the clock, ms a step x cores / N", _of_all("agreement", "wall")),
    Row("checkpoint", "gathering, a worker, CPU ms", _of_all("gathering", "cpu"), ".1f"),
    Row("", "gathering on the clock, ms x cores / N", _of_all("gathering", "wall"), ".1f"),
    Row("", "gathering, collectives", lambda found: found.workers[0]["sent"]["collectives"], ".0f"),
    Row("", "gathering, MB reduced", lambda found: found.workers[0]["sent"]["bytes"] / 1e6),
    Row("", "writing, first worker, CPU ms", _of_first("writing", "cpu"), ".1f"),
    Row("logging", "a progress line, first worker, CPU ms", _of_first("lines", "cpu")),
    Row("", "a progress line, board and driver, CPU ms", _of_first("lines", "board", "driver")),
    Row("", "Ray's log files, KB a worker", lambda found: found.log_bytes / 1e3 / len(found.workers), ".1f"),
    Row("held", "files open in a worker", lambda found: _mean(found, lambda one: one["files"]), ".0f"),
    Row("", "memory of a worker alone, MB", lambda found: _mean(found, lambda one: one["unique_bytes"] / 1e6), ".0f"),
)


def measured(workers: int) -> Found:
    """One run in a process of its own; whatever it leaves is ended by its process id."""
    spawn = multiprocessing.get_context("spawn")
    answer: Any = spawn.Queue()
    with tempfile.TemporaryDirectory(prefix="tc_", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        process = spawn.Process(target=run, args=(workers, write_store(folder), folder, answer))
        process.start()
        deadline = time.monotonic() + SECONDS + workers * SECONDS_OF_WORKER
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    found: Found = answer.get(timeout=1)
                    break
                if not process.is_alive() or time.monotonic() > deadline:
                    print("\n".join((folder / OUTPUT).read_text(errors="replace").splitlines()[-20:]))
                    raise SystemExit(f"the run of {workers} workers failed, or took too long; above is its end.")
            process.join(60)
        finally:
            _end(process)
    return found


def _end(process: Any) -> None:
    """End a process and all below it, by id."""
    with contextlib.suppress(psutil.NoSuchProcess):
        driver = psutil.Process(process.pid)
        for one in [*driver.children(recursive=True), driver]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.join()


def exponent(numbers: Sequence[int], costs: Sequence[float]) -> float:
    """The least-squares slope of log cost over log number."""
    xs, ys = [math.log(n) for n in numbers], [math.log(max(cost, 1e-9)) for cost in costs]
    return statistics.linear_regression(xs, ys).slope


def print_table(runs: dict[int, Found]) -> list[str]:
    """The rows, and the names of those that grow faster than linearly."""
    numbers, superlinear = list(runs), []
    print(f"\n{'':12}{'workers':46}" + "".join(f"{n:>9}" for n in numbers) + f"{'exponent':>11}{'last two':>10}")
    part = ""
    for row in ROWS:
        part = row.part or part
        costs = [row.cost(found) for found in runs.values()]
        both = exponent(numbers, costs), exponent(numbers[-2:], costs[-2:])
        if max(both) > LIMIT:
            superlinear.append(f"{part}: {row.name}")
        print(
            f"{row.part:12}{row.name:46}"
            + "".join(f"{cost:9{row.form}}" for cost in costs)
            + "".join(f"{slope:{width}.2f}" for slope, width in zip(both, (11, 10), strict=True))
        )
    return superlinear


def main(workers: Sequence[int]) -> None:
    """Run and compare; ``workers`` are at least two different numbers, from 2 on: one has nobody to agree with."""
    numbers = sorted(set(workers))
    if len(numbers) < 2 or numbers[0] < 2:
        raise SystemExit("--workers: give at least two numbers, each of 2 or more.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the run is ended too
    print(f"{CORES} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}", flush=True)
    problem, runs = lack_of_memory(numbers[-1]), dict[int, Found]()
    for number in numbers:
        problem = problem or lack_of_memory(number)
        if problem:
            break
        runs[number] = measured(number)
        print(f"{number} workers: done, load {os.getloadavg()[0]:.1f}", flush=True)
    if len(runs) > 1:
        superlinear = print_table(runs)
        verdict = "nothing" if not superlinear else "; ".join(superlinear)
        print(f"from {min(runs)} to {max(runs)} workers, what grows faster than linearly: {verdict}")
    if problem:
        raise SystemExit(problem)


def lack_of_memory(workers: int) -> str:
    """Why so many workers are not started, lest other processes of the machine suffer; empty if they may be."""
    needed, free = workers * BYTES_OF_WORKER, psutil.virtual_memory().available
    if free >= needed:
        return ""
    return (
        f"{workers} workers need {needed / 1e9:.0f} GB of memory and {free / 1e9:.0f} GB are free: ask for fewer "
        "(--workers)."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    main(parser.parse_args().workers)
