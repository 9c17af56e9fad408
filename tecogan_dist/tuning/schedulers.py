"""Ray Tune's schedulers and searchers, as a space asks for them. All of them are Tune's and Optuna's own."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from tecogan_dist.cluster.internals.ray_tune import RememberingAsha, RememberingMedian, SynchronousPb2, SynchronousPbt
from tecogan_dist.metrics.names import HIGHER_IS_BETTER
from tecogan_dist.tuning.records import DECIDED
from tecogan_dist.tuning.space import Asha, Distribution, Median, Optuna, Pb2, Pbt, Space
from tecogan_dist.tuning.study import distribution
from tecogan_dist.tuning.values import within

STEP = "step"
MERIT = "merit"
"""What a trial reports besides the metrics: the score as one number, lower is better."""


def make_scheduler(space: Space, *, seed: int) -> TrialScheduler:
    """The scheduler. Our own step counts, because Tune's count of reports begins anew in every process."""
    scheduler = space.scheduler
    if isinstance(scheduler, Asha):
        metric, mode = steering(scheduler.metric)
        return RememberingAsha(
            decided=DECIDED,
            time_attr=STEP,
            metric=metric,
            mode=mode,
            max_t=space.steps,
            grace_period=scheduler.grace_steps or space.measure_every,
            reduction_factor=scheduler.reduction,
        )
    if isinstance(scheduler, Median):
        metric, mode = steering(scheduler.metric)
        return RememberingMedian(
            decided=DECIDED,
            time_attr=STEP,
            metric=metric,
            mode=mode,
            grace_period=scheduler.grace_steps or space.measure_every,
            min_samples_required=scheduler.minimum_trials,
        )
    if isinstance(scheduler, Pbt):
        metric, mode = steering(scheduler.metric)
        # Synchronous: also with a population that is larger than the cluster, and its choices can be repeated.
        return SynchronousPbt(
            seed=seed,
            time_attr=STEP,
            metric=metric,
            mode=mode,
            perturbation_interval=scheduler.interval_steps or space.measure_every,
            hyperparam_mutations={name: _mutation(ranges) for name, ranges in space.settings.items()},
            quantile_fraction=scheduler.quantile,
            resample_probability=scheduler.resample,
            custom_explore_fn=lambda values: within(space, values),
        )
    if isinstance(scheduler, Pb2):
        metric, mode = steering(scheduler.metric)
        return SynchronousPb2(
            seed=seed,
            time_attr=STEP,
            metric=metric,
            mode=mode,
            perturbation_interval=scheduler.interval_steps or space.measure_every,
            hyperparam_bounds={name: list(ranges.values) for name, ranges in space.settings.items()},
            quantile_fraction=scheduler.quantile,
        )
    return FIFOScheduler()


def make_searcher(
    space: Space, *, seed: int, concurrent: int, recorded: Sequence[dict[str, Any]]
) -> tuple[SearchAlgorithm | Searcher, dict[str, Any]]:
    """The searcher, and the space that Tune draws from (empty where the searcher has its own).

    ``recorded`` are the values of trials that an earlier command began. Optuna's choices depend on what it was told and
    when, so they are made again; drawn ones are the same anyway.
    """
    searcher = space.searcher
    if isinstance(searcher, Optuna):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pareto = space.score.combine == "pareto"
        metric, mode = steering(searcher.metric)
        search = OptunaSearch(
            {name: distribution(ranges) for name, ranges in space.settings.items()},
            metric=list(space.score.metrics) if pareto else metric,
            mode=list(space.score.metrics.values()) if pareto else mode,
            sampler=SeededSampler(searcher, seed=seed),
            points_to_evaluate=list(recorded),
        )
        return ConcurrencyLimiter(search, max_concurrent=concurrent), {}
    generator = BasicVariantGenerator(random_state=seed, max_concurrent=concurrent)
    return generator, {name: tune_domain(ranges) for name, ranges in space.settings.items()}


def steering(metric: str | None) -> tuple[str, str]:
    """Name and mode of what one number is compared by; None: the score's own."""
    if metric is None:
        return MERIT, "min"
    return metric, "max" if metric in HIGHER_IS_BETTER else "min"


def tune_domain(ranges: Distribution) -> Any:
    """A setting's range as Ray Tune draws from it."""
    if ranges.kind == "grid":
        return tune.grid_search(list(ranges.values))
    if ranges.kind == "choice":
        return tune.choice(list(ranges.values))
    draw: dict[str, Callable[..., Any]] = {
        "uniform": tune.uniform,
        "loguniform": tune.loguniform,
        "quniform": tune.quniform,
        "randint": tune.randint,
    }
    return draw[ranges.kind](*ranges.values)


def _mutation(ranges: Distribution) -> Any:
    # Of a list PBT takes a neighbour, of a range a multiple.
    return list(ranges.values) if ranges.kind == "choice" else tune_domain(ranges)


class SeededSampler(BaseSampler):
    """Optuna's sampler with the random numbers of each trial fixed by the seed and the trial's number.

    So a choice depends on the trials before it and on nothing else; a sampler's own stream of random numbers is lost
    when a sweep is killed.
    """

    def __init__(self, searcher: Optuna, *, seed: int) -> None:
        self._searcher, self._seed = searcher, seed
        self._sampler = self._sampler_of(0)

    def _sampler_of(self, number: int) -> BaseSampler:
        seed = zlib.crc32(f"{self._seed} {number}".encode())
        if self._searcher.sampler == "nsga2":
            return NSGAIISampler(population_size=self._searcher.startup_trials, seed=seed)
        return TPESampler(n_startup_trials=self._searcher.startup_trials, seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler = self._sampler_of(trial.number)
        if isinstance(self._sampler, NSGAIISampler):
            # Optuna does not ask for trials whose values are given: they would be of no generation.
            generation = self._sampler.get_trial_generation(study, trial)
            self._sampler.get_parent_population(study, generation)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler.after_trial(study, trial, state, values)
