"""Whether a run is alive, and how far it has got, as its folder alone tells: from another shell or machine."""

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

Verdict = Literal["running", "starting", "finished", "stopped", "failed", "gone", "silent", "unknown"]
GOES_ON = "run the same '{}' command to go on from its checkpoint"
BEGINS_AGAIN = "the same '{}' command starts over, as there is no checkpoint"
TRIALS_FOLDER, SWEEP_FILE = "trials", "sweep.yaml"
"""Of a sweep, whose trials 'tecogan tune' goes on with; as :mod:`tecogan_dist.tuning` calls them."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a run stands."""

    verdict: Verdict
    """``starting``: a command is at work, of whose steps nothing is on record yet. ``gone``: the process is dead.
    ``silent``: no sign of life for longer than ``SILENT_SECONDS`` from a process on another machine. ``unknown``: what
    would say so is damaged, and no command is at work here."""
    text: str
    """The verdict in words, half a sentence."""
    step: int
    """Steps done, by its status, else its newest checkpoint."""
    steps: int
    """Steps wanted."""
    status: Status | None
    """None: the run has no ``status.json`` yet, is of a version that wrote none, or it cannot be read."""

    @property
    def is_alive(self) -> bool:
        """Whether there is something to wait for."""
        return self.verdict in ("running", "starting")

    @property
    def seconds_left(self) -> float | None:
        """To the last step, for a run that goes on; None if that is not known."""
        return self.status.seconds_left() if self.verdict == "running" and self.status is not None else None


def standing_of(run: Location, *, now: datetime.datetime | None = None, notes: list[str] | None = None) -> Standing:
    """Look at a run's folder; changes nothing there.

    Raises :class:`UserError` for a folder that is not a run's, and for damaged files; but ``notes``, where they are
    given, are told of a ``status.json`` that cannot be read, and the rest is judged.
    """
    now = now or now_utc()
    check_run(run)
    wanted = settings_of(run)[0]["steps"]
    status, is_damaged = None, False
    try:
        status = read_status(run)
    except UnreachableError:
        raise
    except UserError as error:
        if notes is None:
            raise
        notes.append(str(error))
        is_damaged = True
    at_work = _command_at_work(run, now)
    if status is None:
        newest = newest_checkpoint(run)
        step = 0 if newest is None else checkpoint_step(newest)
        goes_on = how_it_goes_on(run, has_checkpoint=newest is not None)
        verdict, text = _without_status(step, wanted, at_work=at_work, is_damaged=is_damaged, goes_on=goes_on)
        return Standing(verdict=verdict, text=text, step=step, steps=wanted, status=None)
    verdict, text, then = _judged(status, now, at_work=at_work)
    # A command that goes on with more steps writes them into the run's file first.
    if verdict == "finished" and wanted > status.step:
        if at_work:
            verdict, text, then = "starting", f"starting again: {wanted} steps are wanted now", None
        else:
            verdict, text, then = "stopped", f"stopped at step {status.step} of {wanted}", "; "
    if then is not None:
        text += then + how_it_goes_on(run, has_checkpoint=newest_checkpoint(run) is not None)
    return Standing(verdict=verdict, text=text, step=status.step, steps=max(wanted, status.steps), status=status)


def how_it_goes_on(run: Location, *, has_checkpoint: bool) -> str:
    """What to do with a run that has ended too early, half a sentence that names the command."""
    parent = run.absolute().parent
    is_trial = parent.name == TRIALS_FOLDER and (parent.parent / SWEEP_FILE).exists()
    return (GOES_ON if has_checkpoint else BEGINS_AGAIN).format("tecogan tune" if is_trial else "tecogan train")


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
    """A span of time as people say it: "12 seconds", "5 minutes", "3.5 hours", "3 days 4 h"."""
    days = in_days(seconds)
    if days is not None:
        return days
    for unit, size in (("hour", 3600.0), ("minute", 60.0)):
        if seconds >= 1.5 * size or (unit == "minute" and seconds >= size):
            count = seconds / size
            text = f"{count:.0f}" if count >= 10 or unit == "minute" else f"{count:.1f}".removesuffix(".0")
            return f"{text} {unit}{'' if text == '1' else 's'}"
    return f"{seconds:.0f} second{'' if round(seconds) == 1 else 's'}"


def in_days(seconds: float) -> str | None:
    """A span of time of 48 hours or more, as "3 days 4 h"; None for a shorter one."""
    days, hours = divmod(round(seconds / 3600), 24)
    return None if days < 2 else f"{days} days {hours} h" if hours else f"{days} days"


def _command_at_work(run: Location, now: datetime.datetime) -> bool | None:
    """Whether a command has this run's lock; None where it is another machine's, of which that is not known.

    The trials of a sweep have none of their own.
    """
    known = [writer.lives(now) for writer in writers_of(run)]
    if any(known):
        return True
    return None if None in known else False


def _without_status(
    step: int, steps: int, *, at_work: bool | None, is_damaged: bool, goes_on: str
) -> tuple[Verdict, str]:
    if at_work and is_damaged:
        return "starting", "its command is at work; its status does not say how far it has got"
    if at_work:
        return "starting", "starting: its command is at work, and no step is on record yet"
    if step >= steps:
        return "finished", "finished, by its newest checkpoint"
    if is_damaged:
        return "unknown", f"not known: its status cannot be read; if it is not running, {goes_on}"
    if at_work is None:
        return "silent", f"nothing is known of the machine that had its lock: if it is gone, {goes_on}"
    return "stopped", f"not running: no {'further ' if step else ''}step is on record; {goes_on}"


def _judged(status: Status, now: datetime.datetime, *, at_work: bool | None) -> tuple[Verdict, str, str | None]:
    """The verdict, its words, and what joins to them how the run would go on; None where that is not to be said."""
    owner, age = status.owner, status.age(now)
    where = f"pid {status.pid} on {status.host}"
    if status.state == "finished":
        return "finished", f"finished {spoken(age)} ago", None
    if status.state != "running":
        if at_work and age > 0:
            return "starting", f"starting again: the last attempt {status.state} {spoken(age)} ago", None
        why = f": {status.problem}" if status.problem else ""
        where = f" at step {status.step} of {status.steps}" if status.state == "stopped" else ""
        return status.state, f"{status.state} {spoken(age)} ago{where}{why.rstrip('.')}", "; "
    if owner is not None and owner.is_dead():
        if at_work:
            return "starting", f"starting again: its first worker ({where}) is gone, its command is at work", None
        return "gone", f"not running: its process ({where}) has been gone for at most {spoken(age)}", "; "
    if owner is not None and owner.is_at_work():
        return "running", f"running ({where})", None
    if age < SILENT_SECONDS:
        return "running", f"running ({where}), last seen {spoken(age)} ago", None
    return "silent", f"no sign of life for {spoken(age)} ({where})", ": if its machine is gone, "
