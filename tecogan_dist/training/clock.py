"""Where the time of training goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tecogan_dist.runs.quantities import CHECKPOINT_WAIT, STEP_TIME

Moment = float | torch.cuda.Event


class Clock:
    """Time of the steps, and how much of it was spent waiting. It starts with the first batch."""

    def __init__(self) -> None:
        self._started = self._waited = self._saved = 0.0
        self._saving_since = 0.0
        self._steps = 0

    def timed(self, batches: Iterator[Tensor], *, on_first: Callable[[float], None]) -> Iterator[Tensor]:
        """The same batches; measures the wait for each. ``on_first`` is told how many seconds the first one took."""
        asked = time.perf_counter()
        for number, batch in enumerate(batches):
            now = time.perf_counter()
            if number == 0:
                self._started = now
                on_first(now - asked)
            else:
                self._waited += now - asked
            yield batch
            asked = time.perf_counter()

    def count_step(self) -> None:
        """A step is done."""
        self._steps += 1

    def begin_saving(self) -> None:
        """Steps wait for a checkpoint: for the one before to be written, and for this one to be taken."""
        self._saving_since = time.perf_counter()

    def end_saving(self) -> None:
        """They go on."""
        self._saved += time.perf_counter() - self._saving_since

    def take_wait(self) -> float:
        """Seconds that were waited for data since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def take(self) -> tuple[int, dict[str, float]]:
        """The steps since the last call, and the seconds that each took."""
        now = time.perf_counter()
        steps, seconds, saved = self._steps, now - self._started, self._saved
        self._started, self._saved, self._steps = now, 0.0, 0
        return steps, {STEP_TIME: seconds / steps, CHECKPOINT_WAIT: saved / steps}


class Phases:
    """How long the parts of steps take, on the device's own clock: a GPU works later than it is told to.

    A part ends where the next one begins, and may come several times in a step. ``device`` is where they run.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._last: Moment = 0.0
        self._spans: list[tuple[str, Moment, Moment]] = []
        self._finished = 0
        self._steps = 0

    def begin(self) -> None:
        """A step begins."""
        self._last = self._now()

    def end(self, name: str) -> None:
        """What was done since the last call was this."""
        now = self._now()
        self._spans.append((name, self._last, now))
        self._last = now

    def finish(self) -> None:
        """A step is told to the device as a whole."""
        self._finished = len(self._spans)
        self._steps += 1

    def take(self) -> dict[str, float]:
        """Seconds of each part in a step: means of the finished steps since the last call, nothing if there is none.

        The device must have done them by now, so that it is not waited for.
        """
        sums: dict[str, float] = defaultdict(float)
        for name, begun, ended in self._spans[: self._finished]:
            sums[name] += self._seconds(begun, ended)
        means = {name: total / self._steps for name, total in sums.items()}
        self._spans = self._spans[self._finished :]
        self._finished = self._steps = 0
        return means

    def _now(self) -> Moment:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def _seconds(begun: Moment, ended: Moment) -> float:
        if isinstance(begun, torch.cuda.Event) and isinstance(ended, torch.cuda.Event):
            return begun.elapsed_time(ended) / 1000
        return float(ended) - float(begun)  # type: ignore[arg-type]  # numbers: a device has one kind
