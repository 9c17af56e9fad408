"""One trial as Ray Tune runs it: an actor whose every step is a measurement of the held-out scenes.

What an earlier command measured is told again first (see :mod:`tecogan_dist.tuning.segments`), so that the scheduler
and the searcher come to know what they knew; only then the training starts, where its newest checkpoint is. Hence this
module is light: torch and DeepSpeed are imported by those trials that train.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.schema import Config
from tecogan_dist.data.clips import Scene
from tecogan_dist.runs.checkpoints import STATE_FILE, WEIGHTS_FILE, checkpoint_name, read_state
from tecogan_dist.runs.facts import Facts
from tecogan_dist.runs.folder import AUTO, open_run_folder, write_run_file
from tecogan_dist.runs.owner import claim
from tecogan_dist.runs.quantities import STEP_TIME
from tecogan_dist.tracking.wandb_variables import WandbVariables
from tecogan_dist.tuning.board import TrialLine, TrialProgress
from tecogan_dist.tuning.configs import needed_metrics, trial_config
from tecogan_dist.tuning.ranking import merit
from tecogan_dist.tuning.records import DECIDED
from tecogan_dist.tuning.segments import Pointer, SegmentFolder, open_segment
from tecogan_dist.tuning.space import Pb2, Pbt, Space
from tecogan_dist.tuning.values import within

if TYPE_CHECKING:
    from tecogan_dist.tuning.training import TrialTraining

JOB = "job"
"""Key of a trial's config that says which of the given jobs it is; the search's trials have their values instead."""
POINTER_FILE = "pointer.json"
STOP_PATIENCE = 120.0
"""Seconds in which a training that is stopped should have finished its step and its checkpoint."""
SAVE_PATIENCE = 120.0
"""Seconds for a measured step's checkpoint to be written."""
POLL = 0.5
TOLD = ("warning", "cluster.step_timeout", "waiting for machines")
"""What makes a training's line worth telling among those of many trials."""


@dataclass(frozen=True, kw_only=True)
class SweepTask:
    """A sweep as every trial gets it. Places mean the same on all machines."""

    space: Space
    base: Config
    """The preset with the command line's overrides."""
    data: Location
    output: Location
    training_scenes: Sequence[Scene]
    validation_scenes: Sequence[Scene]
    use_gpu: bool
    facts: Facts = Facts()
    wandb: WandbVariables = field(default_factory=WandbVariables, repr=False)
    """W&B's variables of the command; each trial is a run of its own there."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training that is not the search's: the preset's, or a repeat."""

    name: str
    seed: int
    values: dict[str, Any]


class SweepTrial(tune.Trainable):
    """Ray Tune's side of a trial. ``step`` is one measurement; :class:`Pointer` files are its checkpoints."""

    def setup(self, config: dict[str, Any], **shared: Any) -> None:
        """``shared`` are ``task``, ``board``, ``jobs`` (:class:`Job`), and ``networks``, a list of one reference to
        :class:`Networks`, so that those trials fetch it that train.
        """
        self._task: SweepTask = shared["task"]
        self._networks, self._board = shared["networks"], shared["board"]
        jobs: list[Job] = shared["jobs"]
        if JOB in config:
            job = jobs[config[JOB]]
            self._name, self._seed, self._values = job.name, job.seed, job.values
        else:
            self._name, self._seed, self._values = self.trial_name, self._task.base.seed, self._searched(config)
        self._segment: SegmentFolder
        self._origin: Pointer | None = None
        self._reported = 0
        self._results: Iterator[tuple[int, dict[str, float]]] | None = None
        self._training: TrialTraining | None = None
        self._warned_of = ""

    def _searched(self, config: dict[str, Any]) -> dict[str, Any]:
        values = plain_values(config)
        # PBT multiplies, and PB2's numbers are of single precision: both may leave a range.
        return within(self._task.space, values) if isinstance(self._task.space.scheduler, Pbt | Pb2) else values

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        self._origin = Pointer.from_json((Path(checkpoint_dir) / POINTER_FILE).read_bytes())
        self._reported = self._origin.step

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        checkpoint = self._segment.folder / checkpoint_name(self._reported)
        deadline = time.monotonic() + SAVE_PATIENCE
        while not (checkpoint / STATE_FILE).exists():
            if time.monotonic() > deadline:
                sentence = (
                    f"the checkpoint of its step {self._reported} was not written: that step was not finite, or the "
                    "disk is full."
                )
                ray.get(self._board.failed.remote(self._name, sentence))
                raise UserError(sentence)
            time.sleep(POLL)
        pointer = Pointer(
            trial=self._name,
            folder=str(self._segment.folder),
            checkpoint=str(checkpoint),
            step=self._reported,
            weights=read_state(checkpoint).files[WEIGHTS_FILE],
        )
        (Path(checkpoint_dir) / POINTER_FILE).write_text(pointer.to_json(), "utf-8")

    def step(self) -> dict[str, Any]:
        if self._results is None:
            self._results = self._measurements()
        elif self._reported > self._segment.passed:
            self._note(passed=self._reported)
        try:
            step, values = next(self._results)
        except UserError as error:
            ray.get(self._board.failed.remote(self._name, str(error)))
            raise
        self._reported = step
        return {
            "step": step,
            **values,
            **({"merit": merit(self._task.space.score, values)} if self._task.space.score.combine == "one" else {}),
            "done": step == self._task.space.steps,
            DECIDED: self._decided(step),
            "values": self._values,
            "folder": str(self._segment.folder),
            "measured_at": self._segment.times.get(step, time.time()),
            "began": self._segment.began,
            "first_step": self._segment.first_step,
            "donor": self._donor(),
        }

    def cleanup(self) -> None:
        if self._training is not None:
            self._training.stop(STOP_PATIENCE)
            ray.get(self._board.trains.remote(self._name, False))

    def _note(self, **facts: Any) -> None:
        with contextlib.suppress(UserError):  # storage may fail for a moment, and a trial should not for this
            self._segment = self._segment.noted(**facts)

    def _decided(self, step: int) -> str | None:
        """What the scheduler said after this step in an earlier command."""
        if step <= self._segment.passed:
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP if step == self._segment.stopped else None

    def _donor(self) -> str | None:
        """The trial whose weights the present segment began from, if it is another."""
        origin = self._segment.origin
        return None if origin is None or origin.trial == self._name else origin.trial

    def _measurements(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Step and scores: those on record, then the training's. Raises :class:`UserError` for a trial that failed."""
        task, space = self._task, self._task.space
        self._segment = open_segment(task.output, self._name, values=self._values, origin=self._origin)
        for step, values in self._segment.measured(every=space.measure_every).items():
            if step > self._reported:
                yield step, self._checked(step, values)
        if self._reported < space.steps:
            yield from self._train(self._segment)

    def _train(self, segment: SegmentFolder) -> Iterator[tuple[int, dict[str, float]]]:
        from tecogan_dist.training.ray.board import Line, Measured, Progress
        from tecogan_dist.training.task import TrainingTask
        from tecogan_dist.tuning.training import Ended, train_here, train_on_workers

        task = self._task
        config = trial_config(dataclasses.replace(task.base, seed=self._seed), task.space, self._values)
        origin = segment.origin
        if origin is not None and read_state(Location(origin.checkpoint)).files[WEIGHTS_FILE] != origin.weights:
            raise UserError(f"{origin.checkpoint} has other weights than when it was chosen: begin a new sweep.")
        resume = AUTO if origin is None else origin.checkpoint
        run = open_run_folder(segment.folder, config=config, data=task.data, resume=resume)
        write_run_file(run, config=config, data=task.data)
        training_task = TrainingTask(
            config=config,
            data=task.data,
            training_scenes=task.training_scenes,
            validation_scenes=task.validation_scenes,
            output=segment.folder,
            resume_from=run.resume_from,
            facts=task.facts,
            wandb=task.wandb,
            owner=claim(segment.folder),  # a trial of an earlier command that lives on writes nothing more
            searched=self._values,
        )
        ray.get(self._board.trains.remote(self._name, True))
        start = train_here if task.space.trial.workers == 1 else train_on_workers
        self._training = start(training_task, ray.get(self._networks[0]), use_gpu=task.use_gpu)
        while True:
            news = self._training.next(POLL)
            if ray.get(self._board.asked_to_stop.remote()):
                self.cleanup()
                raise UserError("it was stopped: the same command goes on from its checkpoint.")
            if isinstance(news, Ended):
                raise UserError(news.failure or "its training ended before its last measurement.")
            elif isinstance(news, Measured):
                if news.step > self._reported and news.step % task.space.measure_every == 0:
                    self._note(times={**self._segment.times, news.step: time.time()})
                    yield news.step, self._checked(news.step, news.values)
            elif isinstance(news, Progress):
                rate = 1 / news.metrics[STEP_TIME]
                self._board.tell.remote(TrialProgress(self._name, news.step, rate))
            elif isinstance(news, Line):
                self._warn(news.text)

    def _warn(self, line: str) -> None:
        """Pass a training's warning on, but not the same of one step after the other."""
        kind = re.sub(r"\d+", "", line)
        if any(word in line for word in TOLD) and kind != self._warned_of:
            self._warned_of = kind
            self._board.tell.remote(TrialLine(self._name, line))

    def _checked(self, step: int, values: dict[str, float]) -> dict[str, float]:
        for name in needed_metrics(self._task.space):
            if math.isnan(values.get(name, math.nan)):
                raise UserError(f"its {name} after step {step} is not a number: its training has diverged.")
        return values


def plain_values(config: dict[str, Any]) -> dict[str, Any]:
    """The searched settings as JSON has them: Ray Tune draws some as NumPy's numbers."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in config.items()}
