"""Whether a search makes sense for a config: every mistake is one sentence, before anything starts."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pydantic

from tecogan_dist.base.console import printable
from tecogan_dist.base.documents import QUOTED, quoted, validated
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.spelling import meant
from tecogan_dist.config.leaves import leaves
from tecogan_dist.config.load import check
from tecogan_dist.config.schema import Config
from tecogan_dist.metrics.names import HIGHER_IS_BETTER, NEED_WEIGHTS
from tecogan_dist.tuning.configs import (
    compared_trainings,
    full_config,
    needed_metrics,
    number_of_trials,
    trial_config,
    trial_tree,
)
from tecogan_dist.tuning.space import Asha, Fifo, Grid, Optuna, Pb2, Pbt, Space
from tecogan_dist.tuning.values import can_give, corners, ends, setting_type, type_problem

SEARCHABLE = ("loss", "optimizer", "discriminator")
"""Sections of settings that may differ between trials; all else, samples and starting weights above all, is alike."""
OWN_KEYS = {
    "seed": "give --seed to the command",
    "steps": "write the space's steps",
    "cluster.workers": "write the space's trial.workers",
    "cluster.min_workers": "a trial waits for all of the space's trial.workers",
    "cluster.cpus_per_worker": "write the space's trial.cpus_per_worker",
    "cluster.resources_per_worker": "write the space's trial.resources_per_worker",
    "cluster.address": "give --cluster.address to the command",
    "initial_weights": "give --initial-weights to the command",
    "tracking.validate_every": "write the space's measure_every",
    "tracking.save_every": "write the space's measure_every",
    "tracking.keep_checkpoints": "a sweep keeps what its scheduler needs",
    "tracking.best": "the first of the space's score.metrics decides",
}
"""Settings that ``fixed`` cannot have, and what to do instead."""
SMALLEST_POPULATION = 4
MOST_TRAININGS = 10_000
"""Of a sweep: each has a folder, and Ray Tune keeps all of them in mind."""
SMALLEST_REDUCTION = 1.1
"""Of ASHA: nearer to 1 it has rungs without number."""
SMALLEST_SHARE = 0.01
"""Of a GPU."""
LARGEST_SEED = 2**32 - 1
"""What Ray Tune draws values with takes no larger one."""

_CONFIG = pydantic.TypeAdapter(Config)


def check_weights(space: Space, *, source: str = "the space") -> None:
    """Raise :class:`UserError` if LPIPS or tLP count and the weights of their network are not here."""
    from tecogan_dist.metrics.perceptual import TRUNK_FILES, WEIGHTS_VARIABLE, find_trunk  # torch takes seconds

    names = [name for name in needed_metrics(space) if name in NEED_WEIGHTS]
    if not names:
        return
    try:
        find_trunk()
    except UserError as error:
        advice = (
            f"download https://download.pytorch.org/models/{TRUNK_FILES['alex']} and name it in ${WEIGHTS_VARIABLE}"
        )
        if os.environ.get(WEIGHTS_VARIABLE):
            advice = str(error).rstrip(".")
        raise UserError(
            f"{source}: {' and '.join(names)} {'needs' if len(names) == 1 else 'need'} the weights of LPIPS's network: "
            f"{advice}; or score by tof alone."
        ) from error


def check_space(space: Space, base: Config, *, source: str = "the space") -> None:
    """Raise :class:`UserError` for a search that cannot be done, or not as it is written, with ``base``'s settings.

    Settings are tried with the ends of their ranges and with each of their choices. ``source`` begins the sentence.
    """
    problems = itertools.chain(
        _name_problems(space),
        _score_problems(space),
        _step_problems(space),
        _searcher_problems(space),
        _scheduler_problems(space),
        _trial_problems(space),
        _number_problems(space, base),
        _value_problems(space, base, source),
    )
    for problem in problems:
        raise UserError(f"{source}: {problem}.")


def check_values(space: Space, base: Config, values: dict[str, Any]) -> None:
    """Raise :class:`UserError` for values that no trial of a checked space can have."""
    if values.keys() != space.settings.keys():
        raise UserError("it has other settings than the space.")
    for name, value in values.items():
        if not can_give(space.settings[name], value):
            raise UserError(f"{name} {quoted(value)} is not one of the space's values.")
    trial_config(base, space, values)


def _name_problems(space: Space) -> Iterator[str]:
    names = [name for name, _ in leaves(Config())]
    for section, name in [*(("settings", n) for n in space.settings), *(("fixed", n) for n in space.fixed)]:
        if name not in names:
            shown = printable(name, limit=QUOTED) or "without a name"
            yield f"{section}: there is no setting {shown}{meant(name, names)} 'tecogan train --help' lists all"
    for name in space.settings:
        if name in space.fixed:
            yield f"{name} is in settings and in fixed: take it out of one"
        if name.partition(".")[0] not in SEARCHABLE:
            advice = OWN_KEYS.get(name, "set it under fixed or on the command line")
            yield f"settings: {name} has to be the same in all trials, so that they compare: {advice}"
    for name in space.fixed:
        if name in OWN_KEYS:
            yield f"fixed: {name} is not set here: {OWN_KEYS[name]}"


def _score_problems(space: Space) -> Iterator[str]:
    score = space.score
    for name, direction in score.metrics.items():
        better, word = ("max", "higher") if name in HIGHER_IS_BETTER else ("min", "lower")
        if direction != better:
            yield f"score.metrics: {name} is better the {word} it is: write {name}: {better}"
    if not score.metrics:
        yield "score.metrics is empty: name what counts, such as tof: min"
    if score.combine == "one" and len(score.metrics) > 1:
        yield (
            f"score.combine one ranks by one metric, and score.metrics has {len(score.metrics)}: keep one, or set "
            "score.combine to ranks or pareto"
        )
    if score.combine != "one" and len(score.metrics) < 2:
        yield f"score.combine {score.combine} needs two metrics or more: add to score.metrics, or leave combine out"
    if score.weights and score.combine != "ranks":
        yield f"score.weights are of ranks, and score.combine is {score.combine}: set it to ranks or leave them out"
    for name in score.weights:
        if name not in score.metrics:
            yield f"score.weights: {name} is not among score.metrics: add it there, or take it out"


def _step_problems(space: Space) -> Iterator[str]:
    every = space.measure_every
    if space.steps % every:
        yield f"steps {space.steps} is not a multiple of measure_every {every}, so its end is not measured: change one"
    if isinstance(space.scheduler, Fifo):
        return
    name = "interval_steps" if isinstance(space.scheduler, (Pbt, Pb2)) else "grace_steps"
    given = getattr(space.scheduler, name)
    steps = every if given is None else given
    key = "measure_every" if given is None else f"scheduler.{name}"
    if steps % every:
        yield f"{key} {steps} is not a multiple of measure_every {every}, when {space.scheduler.kind} acts: change one"
    if steps >= space.steps:
        yield f"{key} {steps} has to be below steps {space.steps}: {space.scheduler.kind} would never act"


def _searcher_problems(space: Space) -> Iterator[str]:
    searcher, trials = space.searcher, space.trials
    for name, distribution in space.settings.items():
        if isinstance(searcher, Grid) and distribution.kind != "grid":
            yield f"settings: {name} is {distribution.kind}, and searcher grid takes grids only: write {{grid: [...]}}"
        if not isinstance(searcher, Grid) and distribution.kind == "grid":
            yield (
                f"settings: {name} is a grid, and searcher {searcher.kind} draws values: write choice, or set searcher "
                "to {kind: grid}"
            )
    if not isinstance(searcher, Grid) and trials is None:
        yield "trials is missing: say how many are tried; only a grid has a number of its own"
    number = number_of_trials(space)
    if trials is not None and number > trials:
        sizes = " x ".join(str(len(distribution.values)) for distribution in space.settings.values())
        yield f"the grid has {number} combinations ({sizes}), and trials is {trials}: raise it, or take values out"
    if isinstance(searcher, Optuna):
        if space.score.combine == "ranks" and searcher.metric is None:
            yield (
                "a sum of ranks is known only when all trials are there: name the metric that optuna is told "
                "(searcher.metric), or set score.combine to pareto"
            )
        if space.score.combine == "pareto" and searcher.metric is not None:
            yield "with score.combine pareto, optuna is told all of score.metrics: leave searcher.metric out"
        if number <= searcher.startup_trials:
            begins = "are its population" if searcher.sampler == "nsga2" else "are random"
            yield (
                f"{searcher.sampler} would never choose: the first {searcher.startup_trials} trials "
                f"(searcher.startup_trials) {begins}, and trials is {number}: raise trials or lower startup_trials"
            )


def _scheduler_problems(space: Space) -> Iterator[str]:
    scheduler, settings = space.scheduler, space.settings
    if isinstance(scheduler, Fifo):
        return
    kind = scheduler.kind
    if scheduler.metric is None and space.score.combine != "one":
        ranks = "a sum of ranks is known only when all trials are there"
        why = ranks if space.score.combine == "ranks" else f"{kind} compares one number, and score.metrics has more"
        yield f"{why}: name the metric that {kind} compares (scheduler.metric)"
    if not isinstance(scheduler, (Pbt, Pb2)):
        return
    if space.searcher.kind != "random":
        yield f"{kind} changes settings itself, from random ones on: leave searcher {space.searcher.kind} out"
    if number_of_trials(space) < SMALLEST_POPULATION:
        yield f"trials is {kind}'s population, which needs {SMALLEST_POPULATION} at least, not {space.trials}"
    if "discriminator.temporal_only" in settings:
        yield f"{kind} goes on with other trials' weights, which fit one discriminator.temporal_only: fix it"
    if "loss.adversarial" in settings and 0 in ends(settings["loss.adversarial"]):
        yield (
            f"{kind} goes on with other trials' weights, and with loss.adversarial 0 there is no discriminator among "
            "them: keep it above 0"
        )
    if isinstance(scheduler, Pb2):
        for name, distribution in settings.items():
            if distribution.kind != "uniform" or setting_type(name) is not float:
                yield f"settings: {name}: pb2 takes uniform ranges of fractional numbers only: write one, or use pbt"
        if space.score.limits:
            yield "pb2 models a metric's change, which limits would make jump: leave score.limits out, or use pbt"


def _trial_problems(space: Space) -> Iterator[str]:
    trial, number = space.trial, number_of_trials(space)
    own = sorted({"CPU", "GPU", "memory"} & trial.resources_per_worker.keys())
    if own:
        yield f"trial.resources_per_worker: {own[0]}: cpus_per_worker and gpus_per_worker say that, leave it out"
    if trial.workers > 1 and trial.gpus_per_worker is not None and 0 < trial.gpus_per_worker < 1:
        yield (
            f"trial.gpus_per_worker {trial.gpus_per_worker:g} goes with one worker, and trial.workers is "
            f"{trial.workers}: leave gpus_per_worker out, or set workers to 1"
        )
    if trial.gpus_per_worker is not None and 0 < trial.gpus_per_worker < SMALLEST_SHARE:
        yield f"trial.gpus_per_worker {trial.gpus_per_worker:g} is too small a share: take {SMALLEST_SHARE} or more"
    if space.repeat is not None and space.repeat.top > number:
        yield f"repeat.top {space.repeat.top} is above the {number} trials that there are: lower it"


def _number_problems(space: Space, base: Config) -> Iterator[str]:
    number, compared = number_of_trials(space), compared_trainings(space)
    if number > MOST_TRAININGS:
        yield f"it has {number} trials, more than the {MOST_TRAININGS} that a sweep may have: try fewer"
    if compared > MOST_TRAININGS:
        yield f"repeat asks for {compared} trainings, more than {MOST_TRAININGS}: lower repeat.seeds or repeat.top"
    if isinstance(space.scheduler, Asha) and space.scheduler.reduction < SMALLEST_REDUCTION:
        yield f"scheduler.reduction {space.scheduler.reduction} is too near to 1: take {SMALLEST_REDUCTION} or more"
    last = base.seed + (0 if space.repeat is None else space.repeat.seeds)
    if last > LARGEST_SEED:
        yield f"--seed {base.seed} is too large for a sweep, whose seeds go to {LARGEST_SEED}: take a smaller one"


def _value_problems(space: Space, base: Config, source: str) -> Iterator[str]:
    known = "'tecogan train --help' lists all"
    fixed = validated(_CONFIG, trial_tree(base, space, {}), source=f"{source}: fixed", known=known)
    for name, distribution in space.settings.items():
        if problem := type_problem(name, distribution):
            yield f"settings: {name} {problem}"
        for end in ends(distribution):
            validated(_CONFIG, trial_tree(base, space, {name: end}), source=f"{source}: settings", known=known)
    for values in [{}, *corners(space.settings)]:
        try:
            check(validated(_CONFIG, trial_tree(base, space, values), source=source, known=known))
        except UserError as error:
            sentence = str(error).rstrip(".")
            named = [f"{name} {printable(value, limit=QUOTED)}" for name, value in values.items() if name in sentence]
            if "cluster.workers" in sentence:
                named.append(f"trial.workers {space.trial.workers}")
            yield f"with {' and '.join(named)}, {sentence}" if named else sentence
    try:
        full_config(base, space, {})
    except UserError as error:
        yield f"the best trial could not be trained at full length: {str(error).rstrip('.')}"
    if fixed.data.validation_scenes is None:
        yield "trials are scored by held-out scenes: say which with --data.validation-scenes FIRST LAST"
