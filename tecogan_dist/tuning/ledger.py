"""What the driver knows of the trials, kept up to date by Ray Tune's callbacks."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.metrics.names import METRICS
from tecogan_dist.tuning.records import Segment, TrialRecord
from tecogan_dist.tuning.segments import SegmentFolder
from tecogan_dist.tuning.space import Space
from tecogan_dist.tuning.trial import JOB, STOP_PATIENCE, plain_values

NO_MEMORY = "the machine ran out of memory, and Ray ended its process: use smaller batches or fewer trials at a time."
DIED = "its process died: something killed it, or the machine's memory ran out."

Event = Literal["started", "measured", "ended"]


class Ledger(Callback):
    """The records of the trials of one Tuner; its callback.

    ``planned`` are the trainings of a Tuner that runs given jobs; the search's trials are added as they come.
    ``changed`` is called in Tune's thread with a record and with what has happened to it.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        board: Any,
        planned: Sequence[TrialRecord] = (),
        changed: Callable[[TrialRecord, Event], None],
    ) -> None:
        self._space, self._seed, self._board, self._changed = space, seed, board, changed
        self._planned = planned
        self._lock = threading.Lock()
        self._records = {record.name: record for record in planned}
        self._closed = False

    def records(self) -> tuple[TrialRecord, ...]:
        """As they are now, in their order."""
        with self._lock:
            return tuple(self._records[name] for name in sorted(self._records))

    def close(self) -> None:
        """From now on trials end because the sweep does: that is not theirs, and is not recorded."""
        self._closed = True

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        record = self._record(trial)
        first = not record.scores and record.state == "waiting"
        self._keep(dataclasses.replace(record, state="running"), "started" if first else None)

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Trial],  # noqa: ARG002
        trial: Trial,
        result: dict[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        record, step = self._record(trial), result["step"]
        donor = None if result["donor"] is None else int(result["donor"])
        segment = Segment(values=result["values"], first_step=result["first_step"], donor=donor)
        segments = record.segments
        if not record.scores:
            segments = (segment,)
        elif segment != segments[-1]:
            segments = (*segments, segment)
        changed = dataclasses.replace(
            record,
            segments=segments,
            scores={**record.scores, step: {name: result[name] for name in METRICS if name in result}},
            times={**record.times, step: result["measured_at"]},
            began=result["began"] if record.began is None else record.began,
            folder=Location(result["folder"]),
        )
        self._keep(changed, "measured")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        record = self._record(trial)
        if record.step == self._space.steps:
            self._keep(dataclasses.replace(record, state="complete"), "ended")
        else:
            self._note_stop(record)
            reason = f"stopped by {self._space.scheduler.kind} after step {record.step}"
            self._keep(dataclasses.replace(record, state="stopped", reason=reason), "ended")

    def _note_stop(self, record: TrialRecord) -> None:
        if self._closed or record.folder is None:
            return
        # Without the note, a sweep that goes on asks the scheduler once more.
        with contextlib.suppress(UserError):
            segment = SegmentFolder.read(record.folder)
            if segment is not None and segment.stopped != record.step:
                segment.noted(stopped=record.step)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        record = self._record(trial)
        reason = ray.get(self._board.failure.remote(record.name))
        if reason is None:
            reason = how_it_died(trial)
            self._board.trains.remote(record.name, False)
        self._keep(dataclasses.replace(record, state="failed", reason=reason), "ended")

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:  # noqa: ARG002
        # When all have ended Tune is about to end their processes, some of which still write their last checkpoint.
        deadline = time.monotonic() + STOP_PATIENCE
        while trials and all(trial.is_finished() for trial in trials) and ray.get(self._board.training.remote()):
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)

    def __reduce__(self) -> Any:
        # Tune writes its callbacks down for its own way of going on, which we do not go.
        return Callback, ()

    def _name(self, trial: Trial) -> str:
        return self._planned[trial.config[JOB]].name if JOB in trial.config else str(trial)

    def _record(self, trial: Trial) -> TrialRecord:
        name = self._name(trial)
        with self._lock:
            if name in self._records:
                return self._records[name]
        begin = Segment(values=plain_values(trial.config), first_step=0)
        return TrialRecord(number=int(name), seed=self._seed, segments=(begin,), state="waiting")

    def _keep(self, record: TrialRecord, event: Event | None) -> None:
        if self._closed:
            return
        with self._lock:
            self._records[record.name] = record
        if event is not None:
            self._changed(record, event)


def how_it_died(trial: Trial) -> str:
    """From what Ray Tune has noted of a process that could not speak for itself."""
    text = Path(trial.error_file).read_text("utf-8", "replace") if trial.error_file else ""
    if "OutOfMemoryError" in text or "running low on memory" in text:
        return NO_MEMORY
    if "process has died" in text:
        return DIED
    return f"it failed ({(text.strip() or 'no reason given').splitlines()[-1]})."
