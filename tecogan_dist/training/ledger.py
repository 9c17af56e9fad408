"""What workers tell each other with every step: losses, and what they agree on."""

from __future__ import annotations

import math
from collections import defaultdict
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


class Mean:
    """Means of named values since they were last taken."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._count = 0

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] += value
        self._count += 1

    def take(self) -> dict[str, float]:
        """The means, and a new beginning; nothing if nothing was added."""
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums.clear()
        self._count = 0
        return means


class Ledger:
    """Losses and flags of each step, brought together over the workers in one all-reduce.

    They are fetched when they are needed, usually one step later, so that a GPU is not waited for.
    """

    def __init__(self) -> None:
        self.for_display = Mean()
        self.for_summary = Mean()
        self.problem = ""
        """Which loss of the step settled last was not finite; empty if none was."""
        self.agreed = Flags()
        """The flags of the step settled last, the same on all workers."""
        self._pending: tuple[int, list[str], Tensor, torch.cuda.Event | None] | None = None

    def record(self, step: int, losses: dict[str, Tensor], requests: Flags = Flags()) -> None:
        """Send off the losses (0-dim tensors) of the step with this 0-based number. All workers call it.

        A request that has just been agreed on is not sent again: it is about to be met.
        """
        require(self._pending is None, "the step before is settled first")
        flags = {
            name: wanted and not agreed
            for name, wanted, agreed in zip(Flags._fields, requests, self.agreed, strict=True)
        }
        device = next(iter(losses.values())).device
        sent = losses | dict(
            zip(flags, torch.tensor([*flags.values()], dtype=torch.float32, device=device), strict=True)
        )
        self._pending = (step, list(losses), *_fetch(average_over_workers(sent)))

    def settle(self) -> dict[str, float]:
        """The means over the workers of the recorded step's losses; nothing if there is none, or one is not finite."""
        if self._pending is None:
            return {}
        step, names, host, arrived = self._pending
        self._pending = None
        if arrived is not None:
            arrived.synchronize()
        values = host.tolist()
        losses, (stop, save, measured) = dict(zip(names, values, strict=False)), values[len(names) :]
        self.agreed = Flags(stop=stop > 0, save=save > 0, measured=measured == 1)
        strange = [name for name, value in losses.items() if not math.isfinite(value)]
        self.problem = f"the loss {strange[0]!r} became {losses[strange[0]]} in step {step + 1}" if strange else ""
        if strange:
            return {}
        self.for_display.add(losses)
        self.for_summary.add(losses)
        return losses


def mean_of(micro_batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each loss over the micro-batches of a step."""
    if len(micro_batches) == 1:
        return micro_batches[0]
    return {name: torch.stack([losses[name].detach() for losses in micro_batches]).mean() for name in micro_batches[0]}


def average_over_workers(losses: dict[str, Tensor]) -> Tensor:
    """The losses in one fp32 vector on their device, averaged over the workers."""
    vector = torch.stack([value.detach().float() for value in losses.values()])
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(vector)
        vector /= dist.get_world_size()
    return vector


def _fetch(vector: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    if not vector.is_cuda:
        return vector, None
    host = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
    host.copy_(vector, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived
