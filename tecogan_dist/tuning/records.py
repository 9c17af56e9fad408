"""What a sweep knows of its trials: plain values for tables, pages and rankings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tecogan_dist.base.storage import Location
from tecogan_dist.tuning.space import Space

TrialState = Literal["waiting", "running", "complete", "stopped", "failed"]
"""stopped: by the scheduler, before its last step. failed: ``TrialRecord.reason`` says why."""
DECIDED = "decided"
"""Key of what a trial reports: what the scheduler decided in an earlier command, STOP or CONTINUE of Ray Tune's."""


def trial_name(number: int) -> str:
    """Name of a trial of the search."""
    return f"{number:04d}"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of a trial with one set of values. Trials have one, but for those of PBT and PB2."""

    values: dict[str, Any]
    """The searched settings, by dotted name."""
    first_step: int
    """Steps done when it begins."""
    donor: int | None = None
    """The trial whose weights it begins from; None: the sweep's starting weights, for the first, or its own."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One training of a sweep."""

    number: int
    """From 0 on, in the order of starting, within ``role``."""
    role: Literal["search", "preset", "repeat"] = "search"
    """preset: the settings as they are without the search. repeat: with another seed, of ``repeats``."""
    repeats: int | None = None
    """Of a repeat: the number of the search's trial whose values it has; None: the preset's."""
    seed: int
    segments: tuple[Segment, ...]
    state: TrialState
    reason: str = ""
    """Why it failed, in one sentence; for a stopped one what stopped it."""
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    """What was measured of the held-out scenes, by step, by name of the metric (``psnr``, ``tof`` ...)."""
    times: dict[int, float] = field(default_factory=dict)
    """When it was measured, in seconds since 1970, by step."""
    began: float | None = None
    """When its training began first, in seconds since 1970."""
    folder: Location | None = None
    """Its (last segment's) run folder, as of ``tecogan train``."""

    @property
    def name(self) -> str:
        """Of its folder and in all that is printed; names of the search's trials sort as numbers do."""
        if self.role == "search":
            return trial_name(self.number)
        candidate = "preset" if self.repeats is None else trial_name(self.repeats)
        return candidate if self.role == "preset" else f"{candidate}_seed{self.seed}"

    @property
    def values(self) -> dict[str, Any]:
        """The searched settings that it ended with."""
        return self.segments[-1].values

    @property
    def step(self) -> int:
        """The last step that was measured; 0 for none."""
        return max(self.scores, default=0)

    @property
    def last(self) -> dict[str, float]:
        """What was measured last; empty for nothing."""
        return self.scores.get(self.step, {})


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """A trial of the search, or the preset, trained again with other seeds."""

    number: int | None
    """The search's trial; None: the preset."""
    seeds: tuple[int, ...]
    """Those whose training came to its end; the search's own seed, by which it was chosen, is not among them."""
    mean: dict[str, float]
    """Of the last scores over the seeds, by metric."""
    deviation: dict[str, float]
    """Sample standard deviation (divisor n - 1) over the seeds, by metric; not a number for a single one."""


@dataclass(frozen=True, kw_only=True)
class SweepResults:
    """All that a sweep has found out. Made by :func:`tecogan_dist.tuning.ranking.summarise`."""

    space: Space
    preset_values: dict[str, Any]
    """The searched settings as the preset has them."""
    trials: tuple[TrialRecord, ...]
    """Of the search, by number."""
    preset: TrialRecord | None
    """The unchanged preset, trained for as many steps with the search's seed."""
    repeats: tuple[TrialRecord, ...]
    ranking: tuple[int, ...]
    """Numbers of the search's trials, best first; those that failed, or were never measured, are left out."""
    front: tuple[int, ...]
    """With ``score.combine: pareto``: the trials that no other one is better than in everything; else empty."""
    repeated: tuple[Repeated, ...]
    """The preset first, then the best trials, by rank."""
    verdict: str
    """Whether the winner differs from the preset by more than chance, in words; empty without repeats."""
    bicubic: dict[str, float]
    """The same scenes, only interpolated; empty where it was not measured."""
