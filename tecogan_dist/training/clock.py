"""Where the time of training goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from torch import Tensor


class Clock:
    """Time of the steps, and how much of it was spent waiting for data. It starts with the first batch."""

    def __init__(self) -> None:
        self._started = self._waited = self._saved = 0.0
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
