"""What only the first worker does: it keeps the run's records, writes its checkpoints and speaks for all.

The other workers have its silent twin, so that the training loop is the same on all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from tecogan_dist.base.errors import UserError
from tecogan_dist.metrics.protocol import Images
from tecogan_dist.runs.checkpoints import TrainingState
from tecogan_dist.runs.facts import environment, write_environment
from tecogan_dist.runs.owner import TakenOverError, check_owner
from tecogan_dist.runs.quantities import STEP_TIME, VALIDATION
from tecogan_dist.runs.records import read_scores
from tecogan_dist.runs.status_writer import StatusWriter
from tecogan_dist.runs.writing import Snapshot
from tecogan_dist.tracking.previews import Still
from tecogan_dist.tracking.tracker import Tracker
from tecogan_dist.training.reporter import Reporter
from tecogan_dist.training.saving import CheckpointWriter
from tecogan_dist.training.step import StepOutcome
from tecogan_dist.training.task import TrainingTask

WARNING = "warning: "
"""How lines begin of which the last one is kept in the run's status."""


class RankZero:
    """The first worker's; a context manager. ``first_step`` steps are done when it is made."""

    def __init__(
        self, task: TrainingTask, reporter: Reporter, *, first_step: int, workers: int = 1, device: str = "cpu"
    ) -> None:
        self._reporter = reporter
        self._status = _status_writer(task, reporter, first_step=first_step)
        self._writer = CheckpointWriter(
            task.output, task.config, say=self.say, saved=self._checkpoint_saved, owner=task.owner
        )
        self._writer.check_owner()
        self._is_local = task.output.is_local
        self._tracker = Tracker(
            task.output,
            task.config,
            first_step=first_step,
            say=self.say,
            may_publish=self._writer.check_owner,
            searched=task.searched,
            wandb=task.wandb,
            facts=task.facts,
            environment=self._environment(task, first_step=first_step, workers=workers, device=device),
        )
        self._steps = task.config.steps

    def __enter__(self) -> Self:
        self._tracker.__enter__()
        self._status.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._tracker.__exit__(kind, error, trace)
        finally:
            self._status.__exit__(kind, error, trace)

    def _environment(self, task: TrainingTask, *, first_step: int, workers: int, device: str) -> dict[str, Any]:
        """What the attempt runs on, which is kept in the run's folder."""
        tree = environment(task.facts, first_step=first_step + 1, workers=workers, device=device)
        try:
            write_environment(task.output, tree)
        except UserError as error:
            self.say(f"{WARNING}what the run runs on could not be recorded ({str(error).rstrip('.')})")
        return tree

    def requests(self) -> tuple[bool, bool]:
        """Whether whoever started the run wants it to stop, and whether they want a checkpoint. Does not wait."""
        return self._reporter.asked_to_stop(), self._reporter.asked_to_save()

    def say(self, line: str) -> None:
        """An event for people."""
        if line.startswith(WARNING):
            self._status.warned(line.removeprefix(WARNING))
        self._reporter.say(line)

    def _checkpoint_saved(self, step: int) -> None:
        """A checkpoint is complete. In the thread that writes them."""
        self._status.saved(step)
        self._reporter.checkpoint(step)
        self._tracker.checkpoint(step)

    def begins(self, first_step: int, workers: int, seconds: float) -> None:
        """The first windows are here, after so many seconds."""
        who = f"{workers} worker{'s' if workers > 1 else ''}"
        self.say(f"step {first_step + 1} begins on {who}, the first windows took {seconds:.0f} s")

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics after a step, and show them."""
        self._check_owner()
        self._tracker.scalars(step, metrics)
        self._status.progress(step, 1 / metrics[STEP_TIME] if metrics.get(STEP_TIME) else None)
        self._reporter.log(step, metrics)

    def measured_windows(self, step: int, losses: dict[str, float]) -> None:
        """Record the losses of held-out windows after a step."""
        self._check_owner()
        self._tracker.scalars(step, losses)

    def animations(self, step: int, outcome: StepOutcome) -> None:
        """Record what the step looked like."""
        self._tracker.animations(step, outcome.animations())

    def look(
        self, step: int, still: Still, results: Images, targets: Images, values: Mapping[str, Sequence[float]]
    ) -> None:
        """Keep what a held-out scene looks like after a step. In the thread that measures it."""
        self._tracker.look(step, still, results, targets, values)

    def measured(self, step: int, values: dict[str, float]) -> None:
        """The metrics of held-out scenes with the weights after a step; they decide which checkpoint is the best."""
        self._writer.score(step, values)
        self._status.measured(step, values)
        self._tracker.scalars(step, {f"{VALIDATION}/{name}": value for name, value in values.items()})
        self._tracker.preview(step)
        self._reporter.measured(step, values)
        self.say(f"step {step}: held-out scenes  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def _check_owner(self) -> None:
        """Before a record is written. Of another output than a local one, records stay here until a checkpoint."""
        if self._is_local:
            try:
                self._writer.check_owner()
            except TakenOverError:
                raise
            except UserError:
                pass  # storage that fails for a moment costs records, not the run

    def save(self, snapshot: Snapshot, *, asked: bool) -> None:
        """Write a checkpoint beside training, after the one before it; ``asked``: it is waited for too."""
        self._writer.save(snapshot)
        if asked:
            self._writer.wait()
            self._reporter.saved()
        self._tracker.publish()

    def settle(self) -> None:
        """Wait until the checkpoint that is being written is there, or has failed."""
        self._writer.wait()

    def finish(self, state: TrainingState) -> None:
        """The last step is done. Raises :class:`UserError` if the last checkpoint could not be written."""
        self._writer.finish()
        self._status.reached(state.step)
        self._tracker.publish()
        if state.bad_steps_in_a_row:
            good = state.step - state.bad_steps_in_a_row
            self.say(f"the last step was left out: the checkpoint has the weights after step {good}, the last good one")
        if state.step < self._steps:
            self.say(f"stopped after step {state.step}: the same command goes on from there")


def _status_writer(task: TrainingTask, reporter: Reporter, *, first_step: int) -> StatusWriter:
    workers = dist.get_world_size() if dist.is_initialized() else 1
    on_gpu = torch.cuda.is_initialized()  # a worker has one GPU, or none has
    return StatusWriter(
        task.output,
        first_step=first_step,
        steps=task.config.steps,
        workers=workers,
        gpus=workers if on_gpu else 0,
        device=torch.cuda.get_device_name() if on_gpu else "cpu",
        metric=task.config.tracking.best,
        scores=read_scores(task.output),
        say=reporter.say,
        may_write=lambda: check_owner(task.output, task.owner),
    )


class SilentRank:
    """The other workers' twin of :class:`RankZero`: it does nothing and wants nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def requests(self) -> tuple[bool, bool]:
        return False, False

    def say(self, line: str) -> None:
        pass

    def begins(self, first_step: int, workers: int, seconds: float) -> None:
        pass

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        pass

    def measured_windows(self, step: int, losses: dict[str, float]) -> None:
        pass

    def animations(self, step: int, outcome: StepOutcome) -> None:
        pass

    def look(
        self, step: int, still: Still, results: Images, targets: Images, values: Mapping[str, Sequence[float]]
    ) -> None:
        pass

    def measured(self, step: int, values: dict[str, float]) -> None:
        pass

    def save(self, snapshot: Snapshot, *, asked: bool) -> None:
        pass

    def settle(self) -> None:
        pass

    def finish(self, state: TrainingState) -> None:
        pass
