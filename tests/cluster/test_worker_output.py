"""What workers print: kept for when they die, or with --verbose shown; never lost."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time

import pytest

from tecogan_dist.base.chatter import VERBOSE_VARIABLE, be_verbose, is_verbose, quieten
from tecogan_dist.cluster.worker_output import (
    KEPT_LINES,
    KEPT_PROCESSES,
    LONGEST,
    WorkerOutput,
    ray_logging,
)


def batch(pid: int, *lines: str, ip: str = "10.0.0.1") -> dict[str, object]:
    return {"pid": pid, "ip": ip, "is_err": True, "lines": list(lines)}


def test_the_last_lines_of_each_process_are_kept_and_given_once() -> None:
    output = WorkerOutput()
    for number in range(KEPT_LINES + 10):
        output.take(batch(1, f"line {number}"))
    output.take(batch(1, "of another machine", ip="10.0.0.2"))
    output.take(batch(2, "x" * (LONGEST + 1)))
    assert output.last(1, "10.0.0.1", patience=0) == [f"line {10 + number}" for number in range(KEPT_LINES)]
    assert output.last(1, "10.0.0.1", patience=0) == []
    assert output.last(1, "10.0.0.2", patience=0) == ["of another machine"]
    assert output.last(2, "10.0.0.1", patience=0) == ["x" * LONGEST]


def test_processes_that_printed_long_ago_are_forgotten() -> None:
    output = WorkerOutput()
    for pid in range(KEPT_PROCESSES + 1):
        output.take(batch(pid, "hello"))
        output.take(batch(1, "again"))
    assert output.last(0, "10.0.0.1", patience=0) == []
    assert len(output.last(1, "10.0.0.1", patience=0)) == KEPT_LINES


def test_lines_on_their_way_are_waited_for() -> None:
    output = WorkerOutput()
    threading.Timer(0.3, output.take, [batch(7, "Segmentation fault")]).start()
    started = time.monotonic()
    assert output.last(7, "10.0.0.1", patience=20) == ["Segmentation fault"]
    assert time.monotonic() - started < 10


def test_libraries_are_quiet_unless_all_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("a library")
    monkeypatch.setenv(VERBOSE_VARIABLE, "0")
    assert not is_verbose()
    quieten("a library")
    assert logger.level == logging.WARNING
    assert ray_logging() == {"log_to_driver": True, "logging_level": logging.ERROR}
    assert ray_logging(client=True) == {"log_to_driver": False, "logging_level": logging.ERROR}
    logger.setLevel(logging.NOTSET)
    be_verbose()
    assert is_verbose()
    quieten("a library")
    assert logger.level == logging.NOTSET
    assert ray_logging(client=True) == {"log_to_driver": True, "logging_level": logging.INFO}


WORKS = """
import os, sys, time
import ray
from tecogan_dist.cluster.connect import connected
from tecogan_dist.cluster.worker_output import last_words

@ray.remote
def work():
    print("busy with it", flush=True)
    print("an explanation that only this process has", file=sys.stderr, flush=True)
    return os.getpid()

with connected("local", cpus=2):
    ip = ray.util.get_node_ip_address()
    print("kept:", last_words(ray.get(work.remote()), ip), flush=True)
    time.sleep(2)
"""


@pytest.mark.slow
def test_with_verbose_all_is_shown_as_ray_does_it() -> None:
    """A real Ray. That nothing is shown without, and what a dead worker wrote is: ``training/ray/test_terminal.py``."""
    ended = subprocess.run(
        [sys.executable, "-c", WORKS],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        env=os.environ | {VERBOSE_VARIABLE: "1"},
    )
    assert "busy with it" in ended.stdout
    assert "an explanation that only this process has" in ended.stderr
    assert "Started a local Ray instance" in ended.stderr
    assert "kept: []" in ended.stdout
