"""What workers tell each other with every step: losses, what they agree on, and now and then what they measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from tecogan_dist.base.invariants import require


class Flags(NamedTuple):
    """What workers tell each other with every step."""

    stop: bool = False
    """The run should end after this step: if any worker says so."""
    save: bool = False
    """A checkpoint is wanted, whatever the step: if any worker says so."""
    measured: bool = False
    """The held-out scenes have been measured: if all workers say so."""


@dataclass(frozen=True)
class Sample:
    """What a worker measured in a step that is recorded. All workers measure the same names."""

    on_device: Mapping[str, Tensor] = field(default_factory=dict)
    """0-dim tensors; workers' values are averaged."""
    of_worker: Mapping[str, float] = field(default_factory=dict)
    """Numbers of which each worker's own is kept; NaN where it has none."""


@dataclass(frozen=True)
class Gathered:
    """A sample of all workers."""

    means: Mapping[str, float] = field(default_factory=dict)
    by_worker: Mapping[str, list[float]] = field(default_factory=dict)


class Pending(NamedTuple):
    """What is on its way."""

    step: int
    losses: list[str]
    sample: Sample
    host: Tensor
    arrived: torch.cuda.Event | None


class Ledger:
    """Losses and flags of each step, brought together over the workers in one all-reduce.

    They are fetched when they are needed, usually one step later, so that a GPU is not waited for.
    """

    def __init__(self) -> None:
        self.problem = ""
        """Which loss of the step settled last was not finite; empty if none was."""
        self.agreed = Flags()
        """The flags of the step settled last, the same on all workers."""
        self.settled = 0
        """The 0-based number of the step settled last."""
        self.gathered = Gathered()
        """What was measured in the last settled step that had a sample."""
        self._pending: Pending | None = None

    def record(
        self, step: int, losses: dict[str, Tensor], requests: Flags = Flags(), *, sample: Sample = Sample()
    ) -> None:
        """Send off the losses (0-dim tensors) of the step with this 0-based number. All workers call it.

        A request that has just been agreed on is not sent again: it is about to be met.
        """
        require(self._pending is None, "the step before is settled first")
        flags = [wanted and not agreed for wanted, agreed in zip(requests, self.agreed, strict=True)]
        # Sums over the workers tell each worker's number if each has a place of its own.
        rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        places = [0.0] * (workers * len(sample.of_worker))
        places[rank * len(sample.of_worker) : (rank + 1) * len(sample.of_worker)] = sample.of_worker.values()
        tensors = [*losses.values(), *sample.on_device.values()]
        numbers = torch.tensor([*map(float, flags), *places], pin_memory=tensors[0].is_cuda)  # then nothing waits
        vector = torch.cat([_stacked(tensors), numbers.to(tensors[0].device, non_blocking=True)])
        if workers > 1:
            dist.all_reduce(vector)
        self._pending = Pending(step, list(losses), sample, *_fetch(vector))

    def settle(self) -> dict[str, float]:
        """The means over the workers of the recorded step's losses; nothing if there is none, or one is not finite."""
        if self._pending is None:
            return {}
        pending, self._pending = self._pending, None
        self.settled = pending.step
        if pending.arrived is not None:
            pending.arrived.synchronize()
        workers = dist.get_world_size() if dist.is_initialized() else 1
        sums = iter(pending.host.tolist())
        losses = {name: next(sums) / workers for name in pending.losses}
        means = {name: next(sums) / workers for name in pending.sample.on_device}
        stop, save, measured = (next(sums) / workers for _ in Flags._fields)
        self.agreed = Flags(stop=stop > 0, save=save > 0, measured=measured == 1)
        if pending.sample.on_device or pending.sample.of_worker:
            rows = [[next(sums) for _ in pending.sample.of_worker] for _ in range(workers)]
            names = pending.sample.of_worker
            self.gathered = Gathered(means, {name: [row[i] for row in rows] for i, name in enumerate(names)})
        strange = [name for name, value in losses.items() if not math.isfinite(value)]
        where = f"in step {pending.step + 1}"
        self.problem = f"the loss {strange[0]!r} became {losses[strange[0]]} {where}" if strange else ""
        return {} if strange else losses


def mean_of(micro_batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each loss over the micro-batches of a step."""
    if len(micro_batches) == 1:
        return micro_batches[0]
    return {name: torch.stack([losses[name].detach() for losses in micro_batches]).mean() for name in micro_batches[0]}


def average_over_workers(losses: dict[str, Tensor]) -> Tensor:
    """The losses in one fp32 vector on their device, averaged over the workers."""
    vector = _stacked(list(losses.values()))
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(vector)
        vector /= dist.get_world_size()
    return vector


def _stacked(values: list[Tensor]) -> Tensor:
    return torch.stack([value.detach().float() for value in values])


def _fetch(vector: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    if not vector.is_cuda:
        return vector, None
    host = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
    host.copy_(vector, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived
