"""Where a run stands, for whoever looks from another shell or machine: ``status.json``, and its ``restarts.jsonl``.

The first worker of a run writes both, beside its steps (:mod:`tecogan_dist.runs.status_writer`). ``status.json`` is
replaced as a whole; ``restarts.jsonl`` has a line for each attempt, which stays there also when the attempt came to no
checkpoint: that it began is a fact. Whether a run that says it is running is still alive is for
:mod:`tecogan_dist.runs.standing` to judge.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import pydantic

from tecogan_dist.base.documents import parse_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.owners import Owner
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.records import LINE_BYTES, best_step, own_file, reason_of

STATUS_FILE = "status.json"
RESTARTS_FILE = "restarts.jsonl"
STATUS_BYTES = 2**20
RESTARTS_BYTES = 2**26
HEARTBEAT_SECONDS, REMOTE_HEARTBEAT_SECONDS = 30.0, 60.0
"""Without news it is written again after so long: its time says that the process is alive."""
SILENT_SECONDS = 300.0
"""A run whose status is older than that has missed several heartbeats, also where a store is slow."""
STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
State = Literal["running", "finished", "stopped", "failed"]
_Count = Annotated[int, pydantic.Field(strict=True, ge=0, lt=2**63)]
_Number = Annotated[float, pydantic.Field(strict=True)]
_Rate = Annotated[float, pydantic.Field(strict=True, gt=0)]


@dataclass(frozen=True, kw_only=True)
class SavedCheckpoint:
    """A checkpoint that is complete."""

    __pydantic_config__ = STRICT

    step: _Count
    time: pydantic.AwareDatetime


@dataclass(frozen=True, kw_only=True)
class BestValue:
    """The best that a metric of held-out scenes has been, and after which step: of equals the earliest."""

    __pydantic_config__ = STRICT

    step: _Count
    value: _Number


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What was measured last on held-out scenes, and the best of each metric so far."""

    __pydantic_config__ = STRICT

    step: _Count
    values: dict[str, _Number | None]
    """By metric (``psnr``, ``tof``, ...); None for what is not finite."""
    best: dict[str, BestValue]
    """By metric; without those that were never finite."""
    metric: str
    """The one that decides which checkpoint is the best: ``tracking.best``."""

    @classmethod
    def of(cls, scores: Mapping[int, Mapping[str, float]], step: int, *, metric: str) -> Self:
        """What was measured after ``step``, one of those in ``scores`` (of ``scores.json``), and the best of all."""
        plain = {one: dict(values) for one, values in scores.items()}
        names = sorted({name for values in plain.values() for name in values})
        steps = {name: best_step(plain, name) for name in names}
        return cls(
            step=step,
            values={name: value if math.isfinite(value) else None for name, value in plain[step].items()},
            best={
                name: BestValue(step=best, value=plain[best][name])
                for name, best in steps.items()
                if best is not None and math.isfinite(plain[best][name])
            },
            metric=metric,
        )


@dataclass(frozen=True, kw_only=True)
class Warned:
    """A warning of the run."""

    __pydantic_config__ = STRICT

    step: _Count
    """The last step that was on record then."""
    time: pydantic.AwareDatetime
    text: str


@dataclass(frozen=True, kw_only=True)
class Status:
    """The content of ``status.json``. All times are UTC."""

    __pydantic_config__ = STRICT

    state: State
    """``finished``: all steps are done. ``stopped``: it was asked to, and left a checkpoint. ``failed``: ``problem``
    says why; Ray Train may start another attempt. ``running``: also what a process leaves that was killed."""
    step: _Count
    """Steps done, as of the last record."""
    steps: _Count
    """Steps wanted."""
    rate: _Rate | None
    """Steps per second in the last display interval; None before the first one."""
    time: pydantic.AwareDatetime
    """When this was written; while the run is alive at least every ``REMOTE_HEARTBEAT_SECONDS``."""
    step_time: pydantic.AwareDatetime
    """When ``step`` was reached, or when the attempt began."""
    first_step: _Count
    """Steps that were done when this attempt began."""
    began: pydantic.AwareDatetime
    """When this attempt began."""
    process: str
    """The first worker's, as :class:`~tecogan_dist.base.owners.Owner` writes it."""
    host: str
    pid: _Count
    workers: _Count
    gpus: _Count
    """Of all workers; 0 on CPUs."""
    device: str
    """What the first worker computes on: a GPU's name, or ``cpu``."""
    checkpoint: SavedCheckpoint | None
    validation: Validation | None
    warning: Warned | None
    problem: str | None
    """Why it has failed."""
    version: str
    """Of this package."""

    @property
    def owner(self) -> Owner | None:
        """The first worker's process."""
        return Owner.parse(self.process.encode("ascii", "replace"))

    def age(self, now: datetime.datetime) -> float:
        """Seconds since this was written; not negative where the clocks of two machines differ."""
        return max(0.0, (now - self.time).total_seconds())

    def seconds_left(self) -> float | None:
        """To the last step at this rate, as of ``time``; None without a rate."""
        return None if self.rate is None else max(0, self.steps - self.step) / self.rate

    def to_json(self) -> bytes:
        """For :func:`read_status`."""
        return (json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False, default=_time_text) + "\n").encode()


@dataclass(frozen=True, kw_only=True)
class Restart:
    """A line of ``restarts.jsonl``: an attempt; the first one is the run's beginning."""

    __pydantic_config__ = STRICT

    step: _Count
    """Steps that were done when it began. What an earlier attempt had done beyond is done again."""
    time: pydantic.AwareDatetime
    workers: _Count
    gpus: _Count
    host: str

    def to_line(self) -> bytes:
        """For :func:`read_restarts`."""
        return (json.dumps(dataclasses.asdict(self), allow_nan=False, default=_time_text) + "\n").encode()


_STATUS = pydantic.TypeAdapter(Status)
_RESTART = pydantic.TypeAdapter(Restart)


def read_status(run: Location) -> Status | None:
    """What a run's folder says; None if it says nothing (yet, or it is an older version's).

    Raises :class:`UserError` if its file is damaged, or cannot be read.
    """
    file = run / STATUS_FILE
    try:
        with own_file():
            text = file.read_bytes(limit=STATUS_BYTES)
    except FileNotFoundError:
        return None
    try:
        return _STATUS.validate_python(parse_json(text, source="it"))
    except pydantic.ValidationError as error:
        raise _damaged(file, _key(error)) from error
    except UserError as error:
        raise _damaged(file, reason_of(error)) from error


def read_restarts(run: Location) -> list[Restart]:
    """The attempts of a run, from the first on; empty if there is no file.

    Half a line at the end, which a killed process may leave, is left out. Raises :class:`UserError`, which names the
    line, for a damaged one.
    """
    file = run / RESTARTS_FILE
    try:
        with own_file():
            content = file.read_bytes(limit=RESTARTS_BYTES)
    except FileNotFoundError:
        return []
    return parse_restarts(content, file)


def parse_restarts(content: bytes, file: Location) -> list[Restart]:
    """:func:`read_restarts` of a file's content."""
    *whole, rest = content.split(b"\n")
    found = [_restart(line, number, file) for number, line in enumerate(whole, 1)]
    if rest:
        with contextlib.suppress(UserError):  # a process was killed while it wrote
            found.append(_restart(rest, len(whole) + 1, file))
    return found


def _restart(line: bytes, number: int, file: Location) -> Restart:
    if len(line) > LINE_BYTES:
        raise _damaged_line(file, number, f"it has more than {LINE_BYTES} bytes")
    try:
        return _RESTART.validate_python(parse_json(line, source="it"))
    except pydantic.ValidationError as error:
        raise _damaged_line(file, number, _key(error)) from error
    except UserError as error:
        raise _damaged_line(file, number, reason_of(error)) from error


def _key(error: pydantic.ValidationError) -> str:
    return ".".join(str(name) for name in error.errors()[0]["loc"])[:200] or "all of it"


def _damaged(file: Location, why: str) -> UserError:
    return UserError(
        f"{file} is damaged, or of another version ({why}): remove it; only displays such as 'tecogan status' need "
        "it, and a run that goes on writes it anew."
    )


def _damaged_line(file: Location, number: int, why: str) -> UserError:
    return UserError(
        f"{file} is damaged in line {number} ({why}): mend or remove that line, or move the file away; only "
        "displays such as 'tecogan status' need it."
    )


def _time_text(value: Any) -> str:
    return str(value.astimezone(datetime.UTC).isoformat(timespec="milliseconds"))


def now_utc() -> datetime.datetime:
    """The time, with its zone."""
    return datetime.datetime.now(datetime.UTC)
