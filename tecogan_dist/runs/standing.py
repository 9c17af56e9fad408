"""Whether a run lives, and how far it is, as can be told from its folder alone: from another shell or machine."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Any, Literal

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import writers_of
from tecogan_dist.base.storage import Location, UnreachableError
from tecogan_dist.runs.checkpoints import checkpoint_step, newest_checkpoint
from tecogan_dist.runs.folder import RUN_FILE, holds_run, read_run_file
from tecogan_dist.runs.status import SILENT_SECONDS, Status, now_utc, read_status

Verdict = Literal["running", "starting", "finished", "stopped", "failed", "gone", "silent"]
GOES_ON = "the same command goes on"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a run stands."""

    verdict: Verdict
    """``starting``: a command is at work, of whose steps nothing is on record yet. ``gone``: the process is dead.
    ``silent``: nothing was heard for longer than ``SILENT_SECONDS`` of a process on another machine."""
    text: str
    """The verdict in words, half a sentence."""
    step: int
    """Steps done, by its status, else its newest checkpoint."""
    steps: int
    """Steps wanted."""
    status: Status | None
    """None: the run has no ``status.json`` yet, or is of a version that wrote none."""

    @property
    def is_alive(self) -> bool:
        """Whether there is something to wait for."""
        return self.verdict in ("running", "starting")

    @property
    def seconds_left(self) -> float | None:
        """To the last step, for a run that goes on; None if that is not known."""
        return self.status.seconds_left() if self.verdict == "running" and self.status is not None else None


def standing_of(run: Location, *, now: datetime.datetime | None = None) -> Standing:
    """Look at a run's folder; changes nothing there.

    Raises :class:`UserError` for a folder that is not a run's, and for damaged files.
    """
    now = now or now_utc()
    check_run(run)
    wanted = settings_of(run)[0]["steps"]
    status = read_status(run)
    at_work = _command_at_work(run, now)
    if status is None:
        newest = newest_checkpoint(run)
        step = 0 if newest is None else checkpoint_step(newest)
        verdict, text = _without_status(step, wanted, at_work=at_work)
        return Standing(verdict=verdict, text=text, step=step, steps=wanted, status=None)
    verdict, text = _judged(status, now, at_work=at_work)
    # A command that goes on with more steps writes them into the run's file first.
    if verdict == "finished" and wanted > status.step:
        verdict, text = "stopped", f"stopped: {wanted} steps are wanted by now, {GOES_ON}"
    return Standing(verdict=verdict, text=text, step=status.step, steps=max(wanted, status.steps), status=status)


def check_run(run: Location) -> None:
    """Raise :class:`UserError` for what is not a run's folder."""
    if run.is_bucket:
        raise UserError(f"{run} is a whole bucket: name a run's folder in it.")
    if run.is_local and run.exists() and not run.path.is_dir():
        raise UserError(f"{run} is not a folder: name one that 'tecogan train' writes.")
    if not holds_run(run):
        if not run.exists():
            raise UserError(f"{run} does not exist: name a folder that 'tecogan train' writes.")
        raise UserError(
            f"{run} is not a run's folder (no {RUN_FILE}): name one that 'tecogan train' writes; 'tecogan list' shows "
            "those below a folder."
        )


def settings_of(run: Location) -> tuple[dict[str, Any], str, str | None]:
    """:func:`read_run_file` for those who only look at the run. Raises :class:`UserError`."""
    try:
        return read_run_file(run / RUN_FILE)
    except FileNotFoundError as error:
        raise UserError(f"{run / RUN_FILE} was removed meanwhile: is that still a run?") from error
    except UserError as error:
        if isinstance(error.__cause__, UnreachableError):
            raise error.__cause__ from error
        # Of what else could be done, those who train are told.
        raise UserError(re.sub(r"give \S+ a new folder", "move the run's folder away", str(error))) from error


def spoken(seconds: float) -> str:
    """A span of time as people say it: "12 seconds", "5 minutes", "3.5 hours", "2 days"."""
    for unit, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= 1.5 * size or (unit == "minute" and seconds >= size):
            count = seconds / size
            text = f"{count:.0f}" if count >= 10 or unit == "minute" else f"{count:.1f}".removesuffix(".0")
            return f"{text} {unit}{'' if text == '1' else 's'}"
    return f"{seconds:.0f} second{'' if round(seconds) == 1 else 's'}"


def _command_at_work(run: Location, now: datetime.datetime) -> bool | None:
    """Whether a command has this run's lock; None where it is another machine's, of which that is not known.

    The trials of a sweep have none of their own.
    """
    known = [writer.lives(now) for writer in writers_of(run)]
    if any(known):
        return True
    return None if None in known else False


def _without_status(step: int, steps: int, *, at_work: bool | None) -> tuple[Verdict, str]:
    if at_work:
        return "starting", "starting: its command is at work, and no step is on record yet"
    if step >= steps:
        return "finished", "finished, by its newest checkpoint"
    if at_work is None:
        return "silent", f"nothing is known of the machine that had its lock: if it is gone, {GOES_ON}"
    return "stopped", f"not running: no {'further ' if step else ''}step is on record, {GOES_ON}"


def _judged(status: Status, now: datetime.datetime, *, at_work: bool | None) -> tuple[Verdict, str]:
    owner, age = status.owner, status.age(now)
    where = f"pid {status.pid} on {status.host}"
    if status.state == "finished":
        return "finished", f"finished {spoken(age)} ago"
    if status.state != "running":
        if at_work and age > 0:
            return "starting", f"starting again: the last attempt {status.state} {spoken(age)} ago"
        why = f": {status.problem}" if status.problem else ""
        return status.state, f"{status.state} {spoken(age)} ago{why.rstrip('.')}; {GOES_ON}"
    if owner is not None and owner.is_dead():
        if at_work:
            return "starting", f"starting again: its first worker ({where}) is gone, its command is at work"
        return "gone", f"not running: its process ({where}) is gone since {spoken(age)} at most; {GOES_ON}"
    if owner is not None and owner.is_at_work():
        return "running", f"running ({where})"
    if age < SILENT_SECONDS:
        return "running", f"running ({where}), heard of {spoken(age)} ago"
    return "silent", f"not heard of for {spoken(age)} ({where}): its machine may be gone, and then {GOES_ON}"
