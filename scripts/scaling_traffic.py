"""All collectives of torch.distributed, wrapped: how long they take, and what a worker sends."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor

SMALL = 2**16
COLLECTIVES = {
    "all_reduce": ("tensor", 2),
    "reduce": ("tensor", 1),
    "broadcast": ("tensor", 1),
    "all_gather_into_tensor": ("output_tensor", 1),
    "all_gather_single": ("output_tensor", 1),
    "all_gather": ("tensor_list", 1),
    "reduce_scatter_tensor": ("input", 1),
    "reduce_scatter": ("input_list", 1),
}
"""The argument that holds a collective's larger side, and what a worker of a ring sends of that, in (N - 1) / N."""


@dataclass
class Traffic:
    """What went through torch.distributed; bytes are what one worker sends."""

    seconds: float = 0.0
    sent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COLLECTIVES, 0.0))
    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLLECTIVES, 0))
    small: int = 0
    """Calls with less than SMALL bytes."""

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


_traffic = Traffic()


def traffic() -> Traffic:
    """What is being counted now."""
    return _traffic


def count_anew() -> Traffic:
    """What was counted until now; from here on it is counted from nothing."""
    global _traffic
    before, _traffic = _traffic, Traffic()
    return before


def watch_collectives() -> None:
    """Wrap torch.distributed before DeepSpeed takes hold of it."""
    for name, (argument, factor) in COLLECTIVES.items():
        if not hasattr(dist, name):  # of another version of torch
            continue
        setattr(dist, name, _watched(getattr(dist, name), name, argument, factor))


def _watched(collective: Callable[..., Any], name: str, argument: str, factor: int) -> Callable[..., Any]:
    signature = inspect.signature(collective)

    @functools.wraps(collective)
    def watched(*args: Any, **kwargs: Any) -> Any:
        found = signature.bind(*args, **kwargs).arguments[argument]
        size = sum(tensor.nbytes for tensor in ([found] if isinstance(found, Tensor) else found))
        _traffic.sent[name] += factor * size * (1 - 1 / dist.get_world_size())
        _traffic.calls[name] += 1
        _traffic.small += size < SMALL
        with _traffic.timed():
            running = collective(*args, **kwargs)
        return running if running is None else _Running(running)

    return watched


class _Running:
    """A collective that runs on: its time is the time that it is waited for."""

    def __init__(self, running: Any) -> None:
        self._running = running

    def wait(self) -> Any:
        with _traffic.timed():
            return self._running.wait()
