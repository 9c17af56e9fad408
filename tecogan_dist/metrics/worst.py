"""Which frames of a sequence are its worst."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tecogan_dist.metrics.names import HIGHER_IS_BETTER

WORST_GAP = 24
"""Frames between two of the worst where the sequence is long enough: about a second."""


def worst_frames(frames: Sequence[int], values: Sequence[float], metric: str, *, count: int) -> list[int]:
    """The ``count`` worst of ``frames`` by their ``values``, the worst first; the earlier of equal ones.

    They lie apart from each other by WORST_GAP values, or by less in a sequence too short for it: neighbours are
    mostly bad for the same reason.
    """
    # Each choice rules out less than 2 * gap values, all of them together half of the sequence: some are always left.
    gap = max(1, min(WORST_GAP, len(values) // (4 * count + 1)))
    badness = -np.asarray(values) if metric in HIGHER_IS_BETTER else np.asarray(values)
    chosen: list[int] = []
    for position in np.argsort(-badness, kind="stable"):
        if len(chosen) < count and all(abs(position - other) >= gap for other in chosen):
            chosen.append(int(position))
    return [frames[position] for position in chosen]
