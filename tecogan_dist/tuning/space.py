"""A search as its YAML file describes it: ranges of settings, the score, and how much is tried in which order."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import pydantic

from tecogan_dist.config.scalars import Count, Fraction, Number, PositiveFloat, PositiveInt, Resources, Steps

STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
Metric = Literal["psnr", "ssim", "lpips", "tof", "tlp"]
Direction = Literal["min", "max"]
Kind = Literal["uniform", "loguniform", "quniform", "randint", "choice", "grid"]


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Where the values of one setting come from, by the names of Ray Tune.

    ``uniform``, ``loguniform``: (low, high). ``quniform``: (low, high, step), both ends included. ``randint``: (low,
    high), whole numbers, high excluded. ``choice``, ``grid``: the values themselves; a grid tries each of them.
    """

    kind: Kind
    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """How trials are ranked by what ``evaluate`` measures of the held-out scenes, official protocol."""

    __pydantic_config__ = STRICT

    metrics: dict[Metric, Direction]
    """What counts, each with its better direction. The first is the one that limits and ties are settled by."""
    combine: Literal["one", "ranks", "pareto"] = "one"
    """one: the only metric. ranks: the weighted sum of the ranks in each. pareto: all at once."""
    weights: dict[Metric, PositiveFloat] = dataclasses.field(default_factory=dict)
    """Of the metrics' ranks; 1 for those that are not named."""
    limits: dict[Metric, Number] = dataclasses.field(default_factory=dict)
    """What a trial has to keep: at most this of tOF, tLP, LPIPS, at least this of PSNR, SSIM. Those that do not come
    after all that do, by how far they are off."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fifo:
    """Every trial runs to its end."""

    __pydantic_config__ = STRICT

    kind: Literal["fifo"] = "fifo"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asha:
    """Asynchronous successive halving: at each rung only the best part of the trials that came so far goes on."""

    __pydantic_config__ = STRICT

    kind: Literal["asha"]
    metric: Metric | None = None
    """What it compares; none: the score's only metric, with its limits."""
    grace_steps: Steps | None = None
    """Steps before the first rung; none: one measuring interval."""
    reduction: Annotated[Number, pydantic.Field(gt=1)] = 3.0
    """One in so many goes on; rungs are this factor of steps apart."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Median:
    """A trial stops when its best so far is worse than the median of the others' means up to that step."""

    __pydantic_config__ = STRICT

    kind: Literal["median"]
    metric: Metric | None = None
    grace_steps: Steps | None = None
    minimum_trials: PositiveInt = 3
    """Trials that must have got as far before one is stopped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pbt:
    """Population based training: the worst go on from the best ones' weights, with settings changed a little."""

    __pydantic_config__ = STRICT

    kind: Literal["pbt"]
    metric: Metric | None = None
    interval_steps: Steps | None = None
    """Steps between exchanges; none: one measuring interval. A multiple of it otherwise."""
    quantile: Annotated[PositiveFloat, pydantic.Field(le=0.5)] = 0.25
    """Part of the population that is replaced, and that is copied from."""
    resample: Fraction = 0.25
    """Probability that a setting is drawn anew instead of being multiplied by 1.2 or 0.8."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pb2:
    """Population based bandits: PBT whose changes are chosen by a Gaussian process. Settings must be uniform ranges."""

    __pydantic_config__ = STRICT

    kind: Literal["pb2"]
    metric: Metric | None = None
    interval_steps: Steps | None = None
    quantile: Annotated[PositiveFloat, pydantic.Field(le=0.5)] = 0.25


Scheduler = Annotated[Fifo | Asha | Median | Pbt | Pb2, pydantic.Field(discriminator="kind")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random:
    """Values are drawn independently."""

    __pydantic_config__ = STRICT

    kind: Literal["random"] = "random"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Every combination of the settings' grids."""

    __pydantic_config__ = STRICT

    kind: Literal["grid"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optuna:
    """Values are chosen by what earlier trials scored."""

    __pydantic_config__ = STRICT

    kind: Literal["optuna"]
    metric: Metric | None = None
    sampler: Literal["tpe", "nsga2"] = "tpe"
    startup_trials: PositiveInt = 10
    """Of ``tpe``: random trials before it begins to choose. Of ``nsga2``: the population."""


Searcher = Annotated[Random | Grid | Optuna, pydantic.Field(discriminator="kind")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialResources:
    """What one trial takes of the cluster."""

    __pydantic_config__ = STRICT

    workers: Count = 1
    """1: it trains in one process, the trial's own. More: Ray Train's workers."""
    cpus_per_worker: Count = 1
    gpus_per_worker: Fraction | None = None
    """Below 1, of a trial with one worker: so many trials share a GPU. none: 1 where the cluster has GPUs."""
    resources_per_worker: Resources = dataclasses.field(default_factory=dict)
    """Further Ray resources, by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repeat:
    """The best trials, and the preset as it is, trained again with other seeds."""

    __pydantic_config__ = STRICT

    top: PositiveInt = 3
    seeds: Annotated[PositiveInt, pydantic.Field(ge=2)] = 3
    """Trainings of each, with seeds that the search did not use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """A search. ``settings`` and ``fixed`` are dotted names of training settings."""

    __pydantic_config__ = STRICT

    settings: dict[str, Distribution]
    """What is searched."""
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings that are the same in all trials and in the preset that they are compared with."""
    score: Score
    scheduler: Scheduler = Fifo()
    searcher: Searcher = Random()
    trials: PositiveInt | None = None
    """How many; none: as many as a grid has."""
    concurrent: Count | None = None
    """How many at a time; none: as many as the cluster has room for."""
    trial: TrialResources = TrialResources()
    steps: Steps
    """Steps of a trial that is not stopped early."""
    measure_every: Steps
    """Steps between measurements of the held-out scenes; ``steps`` is a multiple of it."""
    repeat: Repeat | None = None
