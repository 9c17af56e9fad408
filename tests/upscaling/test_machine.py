"""Processes and threads: what is chosen, and why a job keeps its number of threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling.machine import (
    Choice,
    Way,
    choose,
    computing_with,
    in_sentence,
    measured_ways,
    most_processes,
    process_bytes,
    ways,
)
from tecogan_dist.upscaling.sequence import upscale_float
from tests.support.upscaling import tiny_model

MANY: dict[str, Any] = {"height": 500, "width": 500, "frames": 10**6, "memory": 1e12}


def measuring(*speeds: float) -> Callable[[RecurrentUpscaler, Sequence[Way], int, int], list[Way]]:
    def measure(_: RecurrentUpscaler, candidates: Sequence[Way], height: int, width: int) -> list[Way]:
        assert (height, width) == (96, 128)  # a part of the frame
        return [Way(way.processes, way.threads, speed) for way, speed in zip(candidates, speeds, strict=True)]

    return measure


def test_the_fastest_way_if_it_is_clearly_so() -> None:
    assert [(way.processes, way.threads) for way in ways(16, cpus=16)] == [(1, 16), (2, 8), (4, 4), (8, 2), (16, 1)]
    assert [(way.processes, way.threads) for way in ways(6, cpus=16)] == [(1, 16), (2, 8), (4, 4), (6, 2)]
    model = tiny_model()
    found = choose(model, groups=100, cpus=4, measure=measuring(100, 150, 155), **MANY)
    assert (found.processes, found.threads) == (2, 2)  # four are not worth their memory
    assert found.reason == "the best that was measured (processes x threads: 1x4: 1.00, 2x2: 1.50, 4x1: 1.55)"
    assert in_sentence(found).startswith("2 processes of 2 threads: the best")
    found = choose(model, groups=100, cpus=4, measure=measuring(100, 90, 250), **MANY)
    assert (found.processes, found.threads) == (4, 1)


def test_what_limits_the_processes() -> None:
    assert most_processes(1e9, cpus=8, groups=100, memory=1e12) == (8, "8 CPUs")
    assert most_processes(1e9, cpus=8, groups=3, memory=1e12) == (3, "3 parts that can be made at the same time")
    assert most_processes(1e9, cpus=8, groups=100, memory=4e9) == (2, "4.0 GB of free memory, 1.0 GB each")
    assert most_processes(1e12, cpus=8, groups=100, memory=4e9)[0] == 1
    model = tiny_model()
    assert process_bytes(model, 540, 960) > process_bytes(model, 270, 480) > 400e6
    assert process_bytes(model, 540, 960) > 3.55e9  # as measured: most of it is x264's
    published = build_upscaler(ModelConfig())
    assert process_bytes(published, 540, 960) - process_bytes(published, 540, 960, tile=128) > 1e9
    film: dict[str, Any] = {"height": 540, "width": 960, "frames": 10**6, "groups": 100, "memory": 21.4e9}
    found = choose(published, cpus=8, threads=1, **film)
    tiled = choose(published, cpus=8, threads=1, tile=64, **film)
    assert (found.processes, tiled.processes) == (2, 4)
    one = choose(model, groups=1, cpus=8, **MANY)
    assert (one.processes, one.threads) == (1, torch.get_num_threads())
    assert choose(model, groups=50, cpus=8, height=24, width=32, frames=100, memory=1e12).processes == 1  # little work


def test_as_the_user_or_the_plan_says() -> None:
    model = tiny_model()
    assert choose(model, groups=50, cpus=8, most=2, **MANY) == Choice(2, 4, "as --workers 2 says")
    assert choose(model, groups=50, cpus=8, most=1, **MANY).processes == 1
    planned = choose(model, groups=50, cpus=8, threads=2, **MANY)
    assert (planned.processes, planned.threads) == (4, 2)
    assert choose(model, groups=3, cpus=8, threads=2, **MANY).processes == 3
    assert choose(model, groups=50, cpus=2, threads=16, **MANY) == Choice(
        1, 16, "with the 16 threads that the work was planned with"
    )


def test_a_real_measurement() -> None:
    before = torch.get_num_threads()
    found = measured_ways(tiny_model(), [Way(1, 1), Way(2, 1)], 16, 24)
    assert all(way.speed > 0 for way in found)
    assert torch.get_num_threads() == before


def test_for_a_number_of_threads_results_are_the_same_each_time() -> None:
    """What a plan relies on, which keeps the number: for another one they may not be."""
    model = tiny_model()
    frames = [torch.randint(0, 256, (37, 41, 3), dtype=torch.uint8) for _ in range(3)]
    for threads in (1, 2, 4):
        runs = []
        for _ in range(2):
            with computing_with(threads):
                upscaled = upscale_float(model, frames, device=torch.device("cpu"))
                runs.append(torch.stack([frame.sr_frame.clone() for frame in upscaled]))
        assert torch.equal(*runs)
    with pytest.raises(KeyError), computing_with(3):
        raise KeyError
    assert torch.get_num_threads() == 1  # tiny_model's
