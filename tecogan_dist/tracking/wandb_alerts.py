"""What of a run's records is worth waking somebody for: steps that are left out, and known patterns of failure."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tecogan_dist.config.schema import Config
from tecogan_dist.runs import quantities
from tecogan_dist.runs.patterns import limits_of, patterns
from tecogan_dist.runs.recent import Window

LEFT_OUT_IN_A_ROW = 3
"""Steps left out as not finite in records that follow each other, from which on it is worth an alert."""
LOOK_SECONDS = 60.0
"""Between two looks for known patterns."""


class Alerts:
    """Fed with a run's records, in their order."""

    def __init__(self, config: Config) -> None:
        self._limits = limits_of(config)
        self._window = Window()
        self._bad: float | None = None
        self._good = 0.0
        """How many were left out up to the last record since which one was, or that was told of."""
        self._next_look = time.monotonic() + LOOK_SECONDS

    def of(
        self, step: int, values: Mapping[str, float], scores: Mapping[int, Mapping[str, float]]
    ) -> list[tuple[str, str]]:
        """Title and text of each alert after a record of ``step``; none, as a rule."""
        self._window.add(step, values)
        if any(name.startswith(f"{quantities.VALIDATION}/") for name in values):
            self._window.validated()
        return [*self._left_out(step, values), *self._known(scores)]

    def _left_out(self, step: int, values: Mapping[str, float]) -> list[tuple[str, str]]:
        bad = values.get(quantities.BAD_STEPS)
        if bad is None:
            return []
        before, self._bad = self._bad, bad
        if before is None or bad == before:  # the first record may count those of earlier attempts
            self._good = bad
        new = bad - self._good
        if new < LEFT_OUT_IN_A_ROW:
            return []
        self._good = bad
        return [
            (
                "steps are left out",
                f"Up to step {step}, {new:.0f} steps had losses or gradients that were not finite.",
            )
        ]

    def _known(self, scores: Mapping[int, Mapping[str, float]]) -> list[tuple[str, str]]:
        if time.monotonic() < self._next_look:
            return []
        self._next_look = time.monotonic() + LOOK_SECONDS
        found = patterns(self._window.lines, scores=scores, earlier=self._window.earlier, **self._limits)
        return [(pattern.name, pattern.advice) for pattern in found if pattern.severity == "failure"]
