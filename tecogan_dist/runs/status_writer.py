"""Keeping a run's ``status.json`` and ``restarts.jsonl`` up to date while it trains."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from types import TracebackType
from typing import Any, Self

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.owners import Owner
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.owner import TakenOverError
from tecogan_dist.runs.status import (
    HEARTBEAT_SECONDS,
    REMOTE_HEARTBEAT_SECONDS,
    RESTARTS_BYTES,
    RESTARTS_FILE,
    STATUS_FILE,
    Restart,
    SavedCheckpoint,
    Status,
    Validation,
    Warned,
    now_utc,
    parse_restarts,
    read_status,
)

SECONDS, REMOTE_SECONDS = 5.0, 30.0
"""Between two writings at least, locally and on an object store."""
END_SECONDS = 30.0
"""For which the end of a run waits for its last status."""
AGAIN_SECONDS = 2.0
LONGEST = 500
"""Characters of a warning or a reason that is kept."""


class StatusWriter:
    """Keeps both files of a run up to date, in a thread of its own: a slow store delays no step. A context manager.

    Only the first worker has one. What cannot be written is told once, and tried again with what comes next. It writes
    nothing any more once ``may_write`` has raised :class:`TakenOverError`: the run is another command's.
    """

    def __init__(
        self,
        run: Location,
        *,
        first_step: int,
        steps: int,
        workers: int,
        gpus: int,
        device: str,
        metric: str,
        scores: Mapping[int, Mapping[str, float]],
        say: Callable[[str], None],
        may_write: Callable[[], None] = lambda: None,
    ) -> None:
        """``metric`` and ``scores``: ``tracking.best``, and what was measured before this attempt."""
        self._run, self._say, self._may_write = run, say, may_write
        self._metric, self._scores = metric, {step: dict(values) for step, values in scores.items()}
        self._seconds = SECONDS if run.is_local else REMOTE_SECONDS
        self._heartbeat = HEARTBEAT_SECONDS if run.is_local else REMOTE_HEARTBEAT_SECONDS
        me, now = Owner.me(holds=True), now_utc()
        self._restart: Restart | None = Restart(step=first_step, time=now, workers=workers, gpus=gpus, host=me.host)
        self._status = Status(
            state="running",
            step=first_step,
            steps=steps,
            rate=None,
            time=now,
            step_time=now,
            first_step=first_step,
            began=now,
            process=me.line().decode().strip(),
            host=me.host,
            pid=me.pid,
            workers=workers,
            gpus=gpus,
            device=printable(device),
            checkpoint=None,
            validation=None,
            warning=None,
            problem=None,
            version=_version(),
        )
        before = self._before()
        if before is not None and before.checkpoint is not None and before.checkpoint.step <= first_step:
            self._status = dataclasses.replace(self._status, checkpoint=before.checkpoint)
        if self._scores:
            self._status = dataclasses.replace(self._status, validation=self._validation(max(self._scores)))
        self._change = threading.Condition()
        self._is_changed = True
        self._is_told = False
        self._thread = threading.Thread(target=self._keep_writing, name="status", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """An attempt that ends with an exception has failed, unless :meth:`end` has said how it ended."""
        if error is not None:
            self.fail(error)
        elif self._status.state == "running":
            self.end()
        self._thread.join(END_SECONDS)

    def progress(self, step: int, rate: float | None) -> None:
        """So many steps are done, with so many steps per second lately."""
        usable = rate if rate is not None and math.isfinite(rate) and rate > 0 else None
        self._update(step=step, rate=usable, step_time=now_utc())

    def reached(self, step: int) -> None:
        """The run ends after so many steps."""
        self._update(step=step, step_time=now_utc())

    def saved(self, step: int) -> None:
        """A checkpoint is complete."""
        self._update(checkpoint=SavedCheckpoint(step=step, time=now_utc()))

    def measured(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of held-out scenes with the weights after ``step``."""
        self._scores[step] = dict(values)
        self._update(validation=self._validation(step))

    def warned(self, text: str) -> None:
        """A warning, of which the last one is shown."""
        self._update(warning=Warned(step=self._status.step, time=now_utc(), text=printable(text, limit=LONGEST)))

    def end(self) -> None:
        """The attempt is over, in order: the run has finished, or was stopped before its last step."""
        self._update(state="finished" if self._status.step >= self._status.steps else "stopped")

    def fail(self, error: BaseException) -> None:
        """The attempt is over, by this exception; a :class:`KeyboardInterrupt` stops it."""
        if isinstance(error, KeyboardInterrupt):
            self._update(state="stopped")
            return
        text = (str(error).strip() or "no reason given").splitlines()
        reason = text[0] if isinstance(error, UserError) else f"{type(error).__name__}: {text[-1]}"
        self._update(state="failed", problem=printable(reason, limit=LONGEST))

    def _before(self) -> Status | None:
        """What an earlier attempt has left; nothing where that cannot be read: it is written anew."""
        with contextlib.suppress(UserError):
            return read_status(self._run)
        return None

    def _validation(self, step: int) -> Validation:
        return Validation.of(self._scores, step, metric=self._metric)

    def _update(self, **facts: Any) -> None:
        with self._change:
            self._status = dataclasses.replace(self._status, **facts)
            self._is_changed = True
            self._change.notify_all()

    def _keep_writing(self) -> None:
        last = -math.inf
        while True:
            with self._change:
                while not self._is_due(time.monotonic() - last):
                    self._change.wait(1.0)
                status, self._is_changed = self._status, False
            last = time.monotonic()
            try:
                is_written = self._write(status)
                while not is_written and status.state != "running" and time.monotonic() - last < END_SECONDS:
                    time.sleep(AGAIN_SECONDS)
                    is_written = self._write(status)
            except TakenOverError:
                return
            if status.state != "running":
                return

    def _is_due(self, seconds: float) -> bool:
        """Whether it is to be written, so many seconds after it was."""
        if self._status.state != "running":
            return True
        return seconds >= (self._seconds if self._is_changed else self._heartbeat)

    def _write(self, status: Status) -> bool:
        try:
            self._may_write()
            if self._restart is not None:
                self._add(self._restart)
            (self._run / STATUS_FILE).write_bytes(dataclasses.replace(status, time=now_utc()).to_json())
        except TakenOverError:
            raise
        except (UserError, OSError) as error:
            if not self._is_told:
                self._say(
                    f"warning: the run's status could not be written ({str(error).rstrip('.')}); training goes on, and "
                    "so do the attempts"
                )
            self._is_told = True
            return False
        return True

    def _add(self, restart: Restart) -> None:
        """A line more. A damaged file is left as it is, which is told. Raises :class:`UserError` to be tried again."""
        file = self._run / RESTARTS_FILE
        try:
            before = file.read_bytes(limit=RESTARTS_BYTES)
        except FileNotFoundError:
            before = b""
        try:
            lines = [one.to_line() for one in parse_restarts(before, file)]
        except UserError as error:
            self._say(f"warning: {RESTARTS_FILE} has no line for this attempt: {error}")
        else:
            file.write_bytes(b"".join([*lines, restart.to_line()]))
        self._restart = None


def _version() -> str:
    try:
        return metadata.version("tecogan_dist")
    except metadata.PackageNotFoundError:
        return "not installed"
