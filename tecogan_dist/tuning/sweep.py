"""A sweep on the connected Ray: the search, then the preset and the repeats; started, watched, asked to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import ray
import ray.tune
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import BasicVariantGenerator

from tecogan_dist.base.chatter import is_verbose
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.capacity import resources_per_worker
from tecogan_dist.cluster.internals.ray_tune import trials_may_run_out_of_memory
from tecogan_dist.cluster.ray_errors import ACTOR_GONE
from tecogan_dist.training.ray.launch import storage_of
from tecogan_dist.training.task import Networks
from tecogan_dist.tuning.board import TrialNews, start_board
from tecogan_dist.tuning.configs import preset_values, trial_config
from tecogan_dist.tuning.folder import TUNE_FOLDER
from tecogan_dist.tuning.ledger import Event, Ledger
from tecogan_dist.tuning.ranking import rank
from tecogan_dist.tuning.records import Segment, TrialRecord, trial_name
from tecogan_dist.tuning.schedulers import make_scheduler, make_searcher
from tecogan_dist.tuning.segments import recorded_values
from tecogan_dist.tuning.space import Pb2, Pbt
from tecogan_dist.tuning.trial import JOB, Job, SweepTask, SweepTrial

HEAD = "node:__internal_head__"
"""A resource that Ray gives to one machine, once."""
LIMIT_SHARE = 0.95
"""What trials take of it at most: Ray Train's own actors need a little, too."""
POLL = 0.3


class Stopped(Exception):
    """The sweep was asked to stop, and has."""


class _OnRequest(tune.Stopper):
    """Ends an experiment when it is told to."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        return False

    def stop_all(self) -> bool:
        return self.requested


class Sweep:
    """A sweep that has been started. ``concurrent`` trials train at a time.

    ``changed`` is called, in a thread of its own, with the record of each trial that has started, measured or ended.
    """

    def __init__(
        self, task: SweepTask, *, networks: Networks, concurrent: int, changed: Callable[[TrialRecord, Event], None]
    ) -> None:
        self._task, self._concurrent, self._changed = task, concurrent, changed
        self._networks = ray.put(networks)
        self._board = start_board()
        self._stopper = _OnRequest()
        self._ledgers: list[Ledger] = []
        self._outcome: queue.Queue[BaseException | None] = queue.Queue()
        threading.Thread(target=self._run, name="sweep", daemon=True).start()

    def records(self) -> tuple[TrialRecord, ...]:
        """All trainings so far: the search's, then the preset's and the repeats'."""
        return tuple(record for ledger in self._ledgers for record in ledger.records())

    def ask_to_stop(self) -> None:
        """Have all trials end after their present step, with a checkpoint."""
        for ledger in self._ledgers:
            ledger.close()
        self._stopper.requested = True
        self._board.ask_to_stop.remote()

    def watch(self, show: Callable[[list[TrialNews]], None]) -> None:
        """Wait for the end, showing what trials say. Raises :class:`Stopped`, or what ended it."""
        while self._outcome.empty():
            show(self._take())
            time.sleep(POLL)
        show(self._take())
        error = self._outcome.get()
        if error is not None:
            raise error

    def _take(self) -> list[TrialNews]:
        try:
            return ray.get(self._board.take.remote())
        except ACTOR_GONE as error:
            raise UserError("the sweep's own actor has died: the same command goes on.") from error

    def _run(self) -> None:
        # Not in the main thread: there Tune would take Ctrl-C for itself.
        try:
            self._search()
            self._compare()
            self._outcome.put(None)
        except BaseException as error:
            self._outcome.put(error)

    def _search(self) -> None:
        space, seed = self._task.space, self._task.base.seed
        population = isinstance(space.scheduler, Pbt | Pb2)
        searcher, ranges = make_searcher(
            space,
            seed=seed,
            # A population is there as a whole; how many of it train at a time is a matter of resources.
            concurrent=0 if population else self._concurrent,
            recorded=recorded_values(self._task.output),
        )
        grid = space.searcher.kind == "grid"
        self._fit(
            "search",
            jobs=(),
            planned=(),
            param_space=ranges,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=make_scheduler(space, seed=seed),
                num_samples=1 if grid or space.trials is None else space.trials,
            ),
            pointers=population,
        )

    def _compare(self) -> None:
        """Train the preset, and repeat it and the best trials with other seeds."""
        space = self._task.space
        found = self._ledgers[0].records()
        best = rank(space.score, found)
        if not best:
            return
        preset = preset_values(self._task.base, space)
        planned = [planned_training(preset, role="preset", seed=self._task.base.seed)]
        if space.repeat is not None:
            seeds = [self._task.base.seed + 1 + index for index in range(space.repeat.seeds)]
            chosen = [found[number] for number in best[: space.repeat.top]]
            for seed in seeds:
                planned.append(planned_training(preset, role="repeat", seed=seed))
                planned += [planned_training(record.values, role="repeat", seed=seed, of=record) for record in chosen]
        jobs = [Job(name=record.name, seed=record.seed, values=record.values) for record in planned]
        self._fit(
            "compare",
            jobs=jobs,
            planned=planned,
            param_space={JOB: tune.grid_search(list(range(len(jobs))))},
            tune_config=tune.TuneConfig(search_alg=BasicVariantGenerator(max_concurrent=self._concurrent)),
            pointers=False,
        )

    def _fit(
        self,
        phase: str,
        *,
        jobs: Sequence[Job],
        planned: Sequence[TrialRecord],
        param_space: dict[str, Any],
        tune_config: tune.TuneConfig,
        pointers: bool,
    ) -> None:
        if self._stopper.requested:
            raise Stopped
        task = self._task
        ledger = Ledger(task.space, seed=task.base.seed, board=self._board, planned=planned, changed=self._changed)
        self._ledgers.append(ledger)
        if self._stopper.requested:  # meanwhile
            raise Stopped
        numbers: dict[str, int] = {}

        def name(trial: Trial) -> str:
            return trial_name(numbers.setdefault(trial.trial_id, len(numbers)))

        place = task.output / TUNE_FOLDER / phase
        _remove_folder(place)
        storage, folder = storage_of(place)
        # At the end always: a trial is not complete before its last checkpoint is written.
        checkpoints = tune.CheckpointConfig(checkpoint_frequency=int(pointers), checkpoint_at_end=True)
        trainable = tune.with_parameters(
            SweepTrial, task=task, networks=[self._networks], board=self._board, jobs=list(jobs)
        )
        tuner = tune.Tuner(
            tune.with_resources(trainable, self._resources(limited=pointers)),
            param_space=param_space,
            tune_config=dataclasses.replace(tune_config, trial_name_creator=name, trial_dirname_creator=name),
            run_config=tune.RunConfig(
                name=folder,
                **storage,
                stop=self._stopper,
                callbacks=[ledger],
                checkpoint_config=checkpoints,
                verbose=2 if is_verbose() else 0,
            ),
        )
        with quiet_tune(), trials_may_run_out_of_memory():
            tuner.fit()
        if self._stopper.requested:
            raise Stopped

    def _resources(self, *, limited: bool) -> tune.PlacementGroupFactory:
        """What Tune reserves for a trial. Ray Train's workers reserve for themselves, the trial only starts them.

        ``limited``: a share of a resource that is there once lets only so many run.
        """
        task = self._task
        config = trial_config(task.base, task.space, {})
        gpus = 1.0 if task.space.trial.gpus_per_worker is None else task.space.trial.gpus_per_worker
        bundles = [{"memory": 1.0}]
        if task.space.trial.workers == 1:
            kind = config.cluster.accelerator_type
            on_kind = {f"accelerator_type:{kind}": 0.001} if kind else {}
            bundles = [resources_per_worker(config, use_gpu=task.use_gpu, gpus=gpus) | on_kind]
        if limited:
            bundles.append({HEAD: int(10_000 * LIMIT_SHARE / self._concurrent) / 10_000})
        return tune.PlacementGroupFactory(bundles)


def planned_training(
    values: dict[str, Any], *, role: Literal["preset", "repeat"], seed: int, of: TrialRecord | None = None
) -> TrialRecord:
    """A training that is to come: the preset's, or a repeat of it or of a trial of the search."""
    return TrialRecord(
        number=0 if of is None else of.number,
        role=role,
        repeats=None if of is None else of.number,
        seed=seed,
        segments=(Segment(values=values, first_step=0),),
        state="waiting",
    )


@contextlib.contextmanager
def quiet_tune() -> Any:
    """Tune's own reports are for its own tables: ours say the same. Errors of trials come to the ledger."""
    if is_verbose():
        yield
        return
    # The newer output of the two prints tables at any verbosity.
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    # Of trials that Tune has given up when they end.
    os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"
    warnings.filterwarnings("ignore", message="Consider boosting PBT performance")
    warnings.filterwarnings("ignore", module="sklearn")  # PB2's fits of a handful of points
    names = ("ray.tune", "ray.tune.execution.tune_controller", "ray.tune.search", "ray.tune.tuner", "ray.tune.tune")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _remove_folder(place: Location) -> None:
    files, path = place.filesystem()
    with contextlib.suppress(FileNotFoundError):
        files.delete_dir(path)
