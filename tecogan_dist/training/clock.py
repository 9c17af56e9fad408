"""Where the time of training goes."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tecogan_dist.runs.quantities import CHECKPOINT_WAIT, STEP_TIME, VALIDATION_WAIT

Moment = float | torch.cuda.Event
KEPT_SPANS = 500
"""Parts of some hundred steps: older ones, which the device has done, are summed up before they are asked for."""


class Clock:
    """Time of the steps, and how much of it was spent waiting. It starts with the first batch."""

    def __init__(self) -> None:
        self._started = self._waited = 0.0
        self._held_up = dict.fromkeys((CHECKPOINT_WAIT, VALIDATION_WAIT), 0.0)
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

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens meanwhile, once in a run, is no part of any step's time."""
        since = time.perf_counter()
        yield
        self._started += time.perf_counter() - since

    @contextlib.contextmanager
    def holding_up(self, name: str) -> Iterator[None]:
        """Steps wait meanwhile, for checkpoints or for held-out scenes; ``name`` is what that is recorded as."""
        since = time.perf_counter()
        yield
        self._held_up[name] += time.perf_counter() - since

    def take_wait(self) -> float:
        """Seconds that were waited for data since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def take(self) -> tuple[int, dict[str, float]]:
        """The steps since the last call, and the seconds that each took."""
        now = time.perf_counter()
        steps, seconds = self._steps, now - self._started
        held_up = {name: total / steps for name, total in self._held_up.items()}
        self._started, self._held_up, self._steps = now, dict.fromkeys(self._held_up, 0.0), 0
        return steps, {STEP_TIME: seconds / steps, **held_up}


class Phases:
    """How long the parts of steps take, on the device's own clock: a GPU works later than it is told to.

    A part ends where the next one begins, and may come several times in a step. ``device`` is where they run.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._last: Moment = 0.0
        self._spans: deque[tuple[str, Moment, Moment]] = deque()
        self._sums: dict[str, float] = defaultdict(float)
        self._finished = 0
        """Spans of whole steps."""
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
        while len(self._spans) > KEPT_SPANS and self._is_over(self._spans[0][2]):
            self._add_first()

    def take(self) -> dict[str, float]:
        """Seconds of each part in a step: means of the finished steps since the last call, nothing if there is none.

        The device must have done them by now, so that it is not waited for.
        """
        while self._finished:
            self._add_first()
        means = {name: total / self._steps for name, total in self._sums.items()}
        self._sums.clear()
        self._steps = 0
        return means

    def _add_first(self) -> None:
        name, begun, ended = self._spans.popleft()
        self._sums[name] += self._seconds(begun, ended)
        self._finished -= 1

    @staticmethod
    def _is_over(moment: Moment) -> bool:
        return not isinstance(moment, torch.cuda.Event) or moment.query()

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
