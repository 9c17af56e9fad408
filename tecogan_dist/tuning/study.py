"""A sweep as Optuna sees it: a study in memory for its pictures, and one in a file for its dashboard."""

from __future__ import annotations

import contextlib
import datetime
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from tecogan_dist.metrics.names import COLUMN
from tecogan_dist.tuning.ranking import excesses, rank_sums
from tecogan_dist.tuning.records import SweepResults, TrialRecord
from tecogan_dist.tuning.space import Distribution, Space

STUDY_NAME = "sweep"
RANK_SUM = "rank sum"
STATES = {
    "waiting": TrialState.WAITING,
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}

OptunaDirection = Literal["minimize", "maximize"]
ValuesAt = Callable[[TrialRecord, int], list[float]]
"""Of a trial and a step that it was measured at: the value of each objective."""


@dataclass(frozen=True)
class _Objectives:
    names: Sequence[str]
    directions: Sequence[OptunaDirection]
    at: ValuesAt

    @property
    def is_single(self) -> bool:
        return len(self.names) == 1


def study_of(results: SweepResults) -> optuna.Study:
    """The search's trials, with their numbers, as a study in memory: for ``optuna.visualization``.

    Its objectives are the score's metrics by their names in tables (``tOF``); of ``ranks`` it is one, to be minimised:
    the weighted sum of ranks among all trials that were measured at the same step. Limits are Optuna's constraints. A
    trial that the scheduler stopped is PRUNED; with one objective its measurements are intermediate values. Parameters
    are those that a trial ended with, other metrics are attributes.
    """
    space = results.space
    objectives = _ranks(results) if space.score.combine == "ranks" else _metrics(space)
    with _quiet():
        study = _create(InMemoryStorage(), objectives)
        study.add_trials([_frozen(record, space, objectives, values=record.values) for record in results.trials])
    return study


class StudyFile:
    """The search's study in a local file while the sweep runs: ``optuna-dashboard FILE`` shows it live.

    The file is begun anew each time, for a sweep that goes on is told from its beginning. Each trial is given to
    :meth:`started` first, or, if it ended without that, to :meth:`ended` alone. Optuna numbers trials as they come, and
    they may come in any order: what happens to one is kept back until all with lower numbers have come, so that its
    numbers are ours. What has been told cannot be changed, so that ``ranks`` are kept as their metrics, an objective
    each, and a trial of PBT has the parameters that it began with (and what it has now as the attribute ``values``). A
    dashboard that shows an earlier command's file has to be started again.

    For one thread. A file that cannot be written costs the file, not the sweep: ``say`` gets a warning, once.
    """

    def __init__(self, path: Path, space: Space, *, say: Callable[[str], None]) -> None:
        self._path, self._space, self._say = path, space, say
        self._objectives = _metrics(space)
        self._came = 0
        """Trials with lower numbers than this have come."""
        self._kept_back: dict[int, list[Callable[[optuna.Study], None]]] = {}
        self._running: dict[int, optuna.Trial] = {}
        self._reported: set[tuple[int, int]] = set()
        self._study: optuna.Study | None = None
        with self._not_fatal():
            path.parent.mkdir(parents=True, exist_ok=True)
            for old in (path, *path.parent.glob(f"{path.name}.lock*")):  # a killed command leaves its lock
                old.unlink(missing_ok=True)
            self._study = _create(JournalStorage(JournalFileBackend(str(path))), self._objectives)

    def started(self, record: TrialRecord) -> None:
        """The trial runs. What was measured of it before is told as well."""
        self._tell(record, lambda study: self._started(study, record))

    def measured(self, record: TrialRecord, step: int) -> None:
        """``record`` has new scores at ``step``. With several objectives only the newest are kept."""
        self._tell(record, lambda _: self._measured(record, step))

    def ended(self, record: TrialRecord) -> None:
        """The trial is complete, stopped or failed."""
        self._tell(record, lambda study: self._ended(study, record))

    def _tell(self, record: TrialRecord, deed: Callable[[optuna.Study], None]) -> None:
        """Do it now, or when all trials with lower numbers have come."""
        study = self._study
        if study is None:
            return
        with self._not_fatal():
            if record.number < self._came:
                deed(study)
            else:
                self._kept_back.setdefault(record.number, []).append(deed)
            while self._came in self._kept_back:
                for kept in self._kept_back.pop(self._came):
                    kept(study)
                self._came += 1

    def _started(self, study: optuna.Study, record: TrialRecord) -> None:
        study.enqueue_trial(_parameters(record.segments[0].values, self._space))
        self._running[record.number] = study.ask(_distributions(self._space))
        for step in sorted(record.scores):
            self._measured(record, step)

    def _ended(self, study: optuna.Study, record: TrialRecord) -> None:
        trial = self._running.pop(record.number, None)
        if trial is None:
            values = record.segments[0].values
            study.add_trial(_frozen(record, self._space, self._objectives, values=values))
            return
        for name, value in _attributes(record, record.step).items():
            trial.set_user_attr(name, value)
        for name, value in _constraints(record, self._space).items():
            trial.set_constraint(name, value)
        told = self._objectives.at(record, record.step) if record.state == "complete" else None
        study.tell(trial, told, STATES[record.state])

    def _measured(self, record: TrialRecord, step: int) -> None:
        trial = self._running[record.number]
        # A trial whose process died repeats steps, with equal scores.
        if self._objectives.is_single and (record.number, step) not in self._reported:
            trial.report(self._objectives.at(record, step)[0], step)
            self._reported.add((record.number, step))
        for name, value in _attributes(record, step).items():
            trial.set_user_attr(name, value)

    @contextlib.contextmanager
    def _not_fatal(self) -> Iterator[None]:
        try:
            with _quiet():
                yield
        except OSError as error:
            self._study = None
            self._say(f"warning: {self._path} cannot be written ({error.strerror or error}): it ends here")


def distribution(values: Distribution, *, perturbed: bool = False) -> BaseDistribution:
    """Optuna's name for where a setting's values come from.

    ``perturbed``: by PBT or PB2, which multiply values and leave the steps of ``quniform``, though not its range.
    """
    if values.kind in ("choice", "grid"):
        return CategoricalDistribution(values.values)
    if values.kind == "randint":
        low, high = values.values
        return IntDistribution(low, high - 1)
    low, high, *steps = values.values
    return FloatDistribution(
        low, high, log=values.kind == "loguniform", step=steps[0] if steps and not perturbed else None
    )


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    perturbed = space.scheduler.kind in ("pbt", "pb2")
    return {name: distribution(values, perturbed=perturbed) for name, values in space.settings.items()}


def _parameters(values: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """A trial's values as their distributions take them."""
    parameters = {}
    for name, where in _distributions(space).items():
        value = values[name]
        if isinstance(where, FloatDistribution | IntDistribution):
            value = min(max(value, where.low), where.high)  # logarithms and steps may leave it by the last digit
        parameters[name] = value
    return parameters


def _metrics(space: Space) -> _Objectives:
    directions: dict[str, OptunaDirection] = {"min": "minimize", "max": "maximize"}
    return _Objectives(
        names=[COLUMN[metric] for metric in space.score.metrics],
        directions=[directions[direction] for direction in space.score.metrics.values()],
        at=lambda record, step: [record.scores[step][metric] for metric in space.score.metrics],
    )


def _ranks(results: SweepResults) -> _Objectives:
    trials = [record for record in results.trials if record.state != "failed"]
    steps = {step for record in trials for step in record.scores}
    sums = {
        step: rank_sums(
            results.space.score, {record.number: record.scores[step] for record in trials if step in record.scores}
        )
        for step in steps
    }
    return _Objectives([RANK_SUM], ["minimize"], lambda record, step: [sums[step][record.number]])


def _create(storage: BaseStorage, objectives: _Objectives) -> optuna.Study:
    study = optuna.create_study(
        study_name=STUDY_NAME,
        storage=storage,
        directions=objectives.directions,
        sampler=optuna.samplers.RandomSampler(),  # it is asked for nothing: all values are given
    )
    study.set_metric_names(list(objectives.names))
    return study


def _frozen(record: TrialRecord, space: Space, objectives: _Objectives, *, values: Mapping[str, Any]) -> FrozenTrial:
    """A trial with all that is known of it."""
    state = STATES[record.state]
    measured = {} if state == TrialState.FAIL else {at: objectives.at(record, at) for at in record.scores}
    # As Optuna does for a trial that is told: a pruned one has the last of its intermediate values.
    valued = state == TrialState.COMPLETE or (state == TrialState.PRUNED and objectives.is_single)
    trial = optuna.trial.create_trial(
        state=state,
        values=measured.get(record.step) if valued else None,
        params=_parameters(values, space),
        distributions=_distributions(space),
        user_attrs=_attributes(record, record.step),
        intermediate_values={at: found[0] for at, found in measured.items()} if objectives.is_single else None,
        constraints=_constraints(record, space),
    )
    if record.began is not None:
        trial.datetime_start = datetime.datetime.fromtimestamp(record.began)
        if trial.datetime_complete is not None:
            ended = max(record.times.values(), default=record.began)
            trial.datetime_complete = datetime.datetime.fromtimestamp(ended)
    return trial


def _attributes(record: TrialRecord, step: int) -> dict[str, Any]:
    """What Optuna shows of a trial beside its objectives and parameters."""
    shown: dict[str, Any] = {COLUMN[metric]: value for metric, value in record.scores.get(step, {}).items()}
    shown |= {"step": step, "seed": record.seed}
    if len(record.segments) > 1:
        shown["values"] = record.values
    if record.reason:
        shown["reason"] = record.reason
    return shown


def _constraints(record: TrialRecord, space: Space) -> dict[str, float]:
    """How far each limit is overstepped by what was measured last."""
    if record.state == "failed" or not record.scores:
        return {}
    return {f"limit of {COLUMN[metric]}": over for metric, over in excesses(space.score, record.last).items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna reports every trial, and that names of metrics are an experiment."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
