"""What only the first worker does: it keeps the run's records, writes its checkpoints and speaks for all.

The other workers have its silent twin, so that the training loop is the same on all of them.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tecogan_dist.base.errors import UserError
from tecogan_dist.runs.checkpoints import TrainingState
from tecogan_dist.runs.owner import TakenOverError
from tecogan_dist.runs.writing import Snapshot
from tecogan_dist.training.reporter import Reporter
from tecogan_dist.training.saving import CheckpointWriter
from tecogan_dist.training.step import StepOutcome
from tecogan_dist.training.task import TrainingTask
from tecogan_dist.training.tracking import Tracker


class RankZero:
    """The first worker's; a context manager. ``first_step`` steps are done when it is made."""

    def __init__(self, task: TrainingTask, reporter: Reporter, *, first_step: int) -> None:
        self._reporter = reporter
        self._writer = CheckpointWriter(task.output, task.config, say=reporter.say, owner=task.owner)
        self._writer.check_owner()
        self._is_local = task.output.is_local
        self._tracker = Tracker(
            task.output, task.config, first_step=first_step, say=reporter.say, may_publish=self._writer.check_owner
        )
        self._steps = task.config.steps

    def __enter__(self) -> Self:
        self._tracker.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tracker.__exit__(kind, error, trace)

    def requests(self) -> tuple[bool, bool]:
        """Whether whoever started the run wants it to stop, and whether they want a checkpoint. Does not wait."""
        return self._reporter.asked_to_stop(), self._reporter.asked_to_save()

    def say(self, line: str) -> None:
        """An event for people."""
        self._reporter.say(line)

    def begins(self, first_step: int, workers: int, seconds: float) -> None:
        """The first windows are here, after so many seconds."""
        who = f"{workers} worker{'s' if workers > 1 else ''}"
        self.say(f"step {first_step + 1} begins on {who}, the first windows took {seconds:.0f} s")

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics after a step, and show them."""
        self._check_owner()
        self._tracker.metrics(step, metrics)
        self._reporter.log(step, metrics)

    def summary(self, step: int, scalars: dict[str, float], outcome: StepOutcome) -> None:
        """Scalars, and what the step looked like."""
        self._tracker.summary(step, scalars, outcome.animations())

    def measured(self, step: int, values: dict[str, float]) -> None:
        """The metrics of held-out scenes with the weights after a step; they decide which checkpoint is the best."""
        self._writer.score(step, values)
        named = {f"validation/{name}": value for name, value in values.items()}
        self._tracker.metrics(step, named)
        self._tracker.summary(step, named, {})
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

    def save(self, snapshot: Snapshot, *, asked: bool) -> float:
        """Write a checkpoint beside training; returns the seconds for which the one before it was waited for.

        ``asked``: it was requested, so it is waited for too.
        """
        waited = self._writer.save(snapshot)
        if asked:
            self._writer.wait()
            self._reporter.saved()
        self._tracker.publish()
        return waited

    def settle(self) -> None:
        """Wait until the checkpoint that is being written is there, or has failed."""
        self._writer.wait()

    def finish(self, state: TrainingState) -> None:
        """The last step is done. Raises :class:`UserError` if the last checkpoint could not be written."""
        self._writer.finish()
        self._tracker.publish()
        if state.bad_steps_in_a_row:
            good = state.step - state.bad_steps_in_a_row
            self.say(f"the last step was left out: the checkpoint has the weights after step {good}, the last good one")
        if state.step < self._steps:
            self.say(f"stopped after step {state.step}: the same command goes on from there")


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

    def summary(self, step: int, scalars: dict[str, float], outcome: StepOutcome) -> None:
        pass

    def measured(self, step: int, values: dict[str, float]) -> None:
        pass

    def save(self, snapshot: Snapshot, *, asked: bool) -> float:  # noqa: ARG002
        return 0.0

    def settle(self) -> None:
        pass

    def finish(self, state: TrainingState) -> None:
        pass
