"""The lines of a run's ``metrics.jsonl`` for whoever only looks: read as far as they can be.

Training refuses a damaged file, for it writes on (:mod:`tecogan_dist.runs.records`). Who looks wants to see what can be
read, and to be told in a sentence what cannot. ``NaN`` and ``Infinity`` are read as not finite, like null.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tecogan_dist.base.console import printable
from tecogan_dist.base.documents import parse_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location, UnreachableError
from tecogan_dist.runs.records import ELSEWHERE, LINE_BYTES, MAX_STEP, METRICS_FILE, reason_of

MOST_NAMES = 1000
"""Different names in a file: training writes about a hundred."""
LATEST = 10_000
"""Lines in which patterns are looked for: as many steps as any of them needs, also where each has its line."""
LARGEST = 3.5e38
"""Float32's largest number, rounded up."""
TOLD = 3
"""Damaged lines of which each is told with its reason."""
_NOT_FINITE = re.compile(rb"(?<=[:,\s])[+-]?(?:NaN|nan|Infinity|inf)(?=\s*[,}])")
"""What Python and others write where JSON has no word."""


class UnreadableLineError(ValueError):
    """A damaged line; its text is the reason, which begins with "it" or "the value"."""


@dataclass(frozen=True, eq=False)
class Series:
    """What was recorded under a name: ``steps`` (N,) rise, and ``values`` (N,) are NaN where they were not finite."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def last(self) -> float:
        """The last value; NaN if that was not finite."""
        return float(self.values[-1])

    @property
    def not_finite(self) -> NDArray[np.int64]:
        """The steps whose value was not finite."""
        return self.steps[~np.isfinite(self.values)]


@dataclass(frozen=True)
class Curves:
    """All of a run's, by names in the order of their first appearance; ``notes`` say what of the file is left out."""

    series: dict[str, Series]
    notes: tuple[str, ...]
    last_step: int
    """0 if nothing is recorded yet."""
    latest: tuple[dict[str, float], ...] = ()
    """The last LATEST lines, with their ``step``."""


@dataclass
class Damage:
    """The lines of a file that cannot be read: how many, and of the first ones which and why."""

    count: int = 0
    told: list[tuple[int, str]] = field(default_factory=list)

    def add(self, number: int, reason: str) -> None:
        """One more: its number from 1."""
        self.count += 1
        if len(self.told) < TOLD:
            self.told.append((number, reason))

    def notes(self) -> list[str]:
        """A sentence for each of the first lines, and one for the others."""
        found = [f"line {number} of {METRICS_FILE} is left out: {reason}." for number, reason in self.told]
        if self.count > len(self.told):
            found.append(f"{self.count - len(self.told)} more damaged lines of {METRICS_FILE} are left out.")
        return found

    def note(self) -> str | None:
        """One sentence for all of them; None if there are none."""
        if self.count <= 1:
            return next(iter(self.notes()), None)
        number, reason = self.told[0]
        return f"{self.count} damaged lines of {METRICS_FILE} are left out; the first is line {number}: {reason}."

    def of_all(self) -> str:
        """The sentence for a file of which no line can be read."""
        lines = f"none of its {self.count} lines can be read (the first: {self.told[0][1]})"
        one = f"it cannot be read: {self.told[0][1]}"
        return f"{METRICS_FILE} is left out: {lines if self.count > 1 else one}."


class Blocks:
    """Cuts bytes that come in chunks into blocks of whole lines, in bounded memory.

    Of a line that is too long only as much is kept as tells that it is.
    """

    def __init__(self) -> None:
        self.rest = b""
        """What came after the last line's end."""
        self._is_cut = False

    def feed(self, chunk: bytes) -> bytes:
        """The whole lines that are complete with this chunk; empty if none is."""
        if self._is_cut:
            end = chunk.find(b"\n")
            if end < 0:
                return b""
            chunk, self._is_cut = chunk[end:], False
        end = chunk.rfind(b"\n") + 1
        block = self.rest + chunk[:end] if end else b""
        self.rest = chunk[end:] if end else self.rest + chunk
        if len(self.rest) > LINE_BYTES:
            self.rest, self._is_cut = self.rest[: LINE_BYTES + 1], True
        return block


def read_curves(run: Location) -> Curves:
    """What a run has recorded so far; nothing of a run that has just begun.

    What cannot be read is left out and told of in ``notes``, be it the whole file; half a line at the end, which
    training is about to complete, is only left out. Raises :class:`UnreachableError`.
    """
    file = run / METRICS_FILE
    columns: dict[str, tuple[array[int], array[float]]] = {}
    damage = Damage()
    latest: deque[dict[str, float]] = deque(maxlen=LATEST)
    count, last, are_left_out = 0, 0, False
    notes: list[str] = []
    try:
        for number, line in _lines(file):
            try:
                step, values = read_line(line)
            except UnreadableLineError as error:
                damage.add(number, str(error))
                continue
            count, last = count + 1, step
            latest.append({"step": step, **values})
            for name, value in values.items():
                if name not in columns:
                    if len(columns) == MOST_NAMES:
                        are_left_out = True
                        continue
                    columns[name] = array("q"), array("d")
                steps, column = columns[name]
                steps.append(step)
                column.append(value)
    except UserError as error:
        notes.append(unreadable(file, error))
    notes += [damage.of_all()] if damage.count and not count else damage.notes()
    if are_left_out:
        notes.append(
            f"more than {MOST_NAMES} different names are in {METRICS_FILE}: those that came later are left out."
        )
    series = {name: _rising(np.array(steps), np.array(column)) for name, (steps, column) in columns.items()}
    return Curves(series, tuple(notes), last, tuple(latest))


def read_line(line: bytes) -> tuple[int, dict[str, float]]:
    """The step of a line, and what else it says. Raises :class:`UnreadableLineError`."""
    if len(line) > LINE_BYTES:
        raise UnreadableLineError(f"it has more than {LINE_BYTES} bytes")
    if b"N" in line or b"n" in line:
        line = _NOT_FINITE.sub(b"null", line)
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise UnreadableLineError("it is not text") from error
    try:
        found = parse_json(line, source="it")
    except UserError as error:
        raise UnreadableLineError(reason_of(error)) from error
    step = found.pop("step", None) if isinstance(found, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < MAX_STEP:
        raise UnreadableLineError("it has no step")
    return step, _numbers(found)


def is_half_a_line(rest: bytes) -> bool:
    """Whether what stands after the last line's end may be what training is about to complete, or was killed at."""
    return len(rest) <= LINE_BYTES and rest.startswith(b"{") and rest.isascii() and b"\0" not in rest


def unreadable(file: Location, error: UserError) -> str:
    """The sentence for a file that is left out as a whole. Raises ``error`` where storage does not answer."""
    if isinstance(error, UnreachableError):
        raise error
    reason = str(error).removesuffix(ELSEWHERE).replace(str(file), "it").rstrip(".")
    return f"{file.name} is left out: {reason}."


def within_range(value: float) -> float:
    """The value; NaN for what no training computes with, and no figure can draw beside others."""
    return value if abs(value) <= LARGEST else math.nan


def _lines(file: Location) -> Iterator[tuple[int, bytes]]:
    """Each line with its number from 1, the last one also without its end; without half a line."""
    number, blocks = 0, Blocks()
    try:
        for chunk in file.chunks():
            block = blocks.feed(chunk)
            for line in block.split(b"\n")[:-1]:
                number += 1
                yield number, line
    except FileNotFoundError:
        return
    if blocks.rest and (blocks.rest.endswith(b"}") or not is_half_a_line(blocks.rest)):
        yield number + 1, blocks.rest


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    numbers = {}
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UnreadableLineError(f"the value of {printable(name, limit=80)} is not a number")
        numbers[name] = within_range(math.nan if value is None else float(value))
    return numbers


def _rising(steps: NDArray[np.int64], values: NDArray[np.float64]) -> Series:
    """Without what was recorded before a run went back to an earlier step: the later record of a step counts."""
    kept = np.ones(len(steps), bool)
    kept[:-1] = steps[:-1] < np.minimum.accumulate(steps[::-1])[::-1][1:]
    return Series(steps[kept], values[kept])
