"""What is counted while training: losses over all workers, the discriminator's lead, and time."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

STOP, SAVE, MEASURED = "stop", "save", "measured"
BALANCE_DECAY = 0.99
"""Of the running average of the discriminator's lead (lib/Teco.py: tf.train.ExponentialMovingAverage)."""


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
    """Averages each step's losses over the workers and follows the discriminator's lead.

    A step's values are fetched when they are needed, usually one step later, so that a GPU is not waited for.
    """

    def __init__(self, balance_average: float) -> None:
        self.balance_average = balance_average
        """Running average of ``losses["balance"]``, over the steps settled so far, without bias correction."""
        self.for_display = Mean()
        self.for_summary = Mean()
        self.not_finite = ""
        """The last loss that was not finite, with its step, for the sentence that ends a run."""
        self.stop = False
        """Whether the first worker had been asked to stop by the step settled last: the same on all workers."""
        self.save = False
        """Whether it had been asked for a checkpoint."""
        self.measured = False
        """Whether all workers had measured their held-out scenes."""
        self._pending: tuple[int, list[str], Tensor, torch.cuda.Event | None] | None = None

    def record(
        self, step: int, losses: dict[str, Tensor], *, stop: bool, save: bool = False, measured: bool = False
    ) -> None:
        """Start averaging the losses (0-dim tensors) of the step with this 0-based number. All workers call it."""
        assert self._pending is None, "settle the step before first"
        flags = torch.tensor([stop, save, measured], dtype=torch.float32, device=next(iter(losses.values())).device)
        named = losses | dict(zip((STOP, SAVE, MEASURED), flags, strict=True))
        self._pending = (step, list(named), *_fetch(average_over_workers(named)))

    def settle(self) -> None:
        """Take in the recorded step; one with a loss that is not finite counts for nothing."""
        if self._pending is None:
            return
        step, names, host, arrived = self._pending
        self._pending = None
        if arrived is not None:
            arrived.synchronize()
        values = dict(zip(names, host.tolist(), strict=True))
        self.stop, self.save, self.measured = values.pop(STOP) > 0, values.pop(SAVE) > 0, values.pop(MEASURED) == 1
        strange = [name for name, value in values.items() if not math.isfinite(value)]
        if strange:
            self.not_finite = f"the loss {strange[0]!r} became {values[strange[0]]} in step {step + 1}"
            return
        if "balance" in values:
            self.balance_average += (1 - BALANCE_DECAY) * (values["balance"] - self.balance_average)
        self.for_display.add(values)
        self.for_summary.add(values)


def mean_of(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each loss over the parts of a step."""
    if len(parts) == 1:
        return parts[0]
    return {name: torch.stack([part[name].detach() for part in parts]).mean() for name in parts[0]}


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


class Clock:
    """Time of the steps, and how much of it was spent waiting for data. It starts when the first batch is there."""

    def __init__(self) -> None:
        self.first_wait: float | None = None
        """Seconds until the first batch; None before it."""
        self._started = self._waited = self._saved = 0.0
        self._steps = 0

    def waiting(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same batches; measures the wait for each."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            now = time.perf_counter()
            if batch is None:
                return
            if self.first_wait is None:
                self.first_wait, self._started = now - asked, now
            else:
                self._waited += now - asked
            yield batch

    def count_step(self) -> None:
        self._steps += 1

    def count_saving(self, seconds: float) -> None:
        """Time that was waited for a checkpoint to be written."""
        self._saved += seconds

    def take(self, batch_size: int) -> dict[str, float]:
        """Rates since the last call; ``data_wait`` and ``checkpoint_wait`` are fractions of the time."""
        now = time.perf_counter()
        seconds = now - self._started
        rates = {
            "steps_per_second": self._steps / seconds,
            "samples_per_second": self._steps * batch_size / seconds,
            "data_wait": self._waited / seconds,
            "checkpoint_wait": self._saved / seconds,
        }
        self._started, self._waited, self._saved, self._steps = now, 0.0, 0.0, 0
        return rates
