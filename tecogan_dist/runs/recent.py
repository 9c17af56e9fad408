"""As much of a run's records as known patterns are looked for in: in bounded memory, for who looks again and again.

That is the last lines, and of older ones the scores of held-out scenes with the content loss before each, since a
validation may be compared with one of long ago (:func:`tecogan_dist.runs.patterns.patterns`).
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader

from tecogan_dist.base.atomic import reported_local
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import open_regular
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.lines import Blocks, Damage, UnreadableLineError, is_half_a_line, read_line, unreadable
from tecogan_dist.runs.patterns import ENOUGH_LINES
from tecogan_dist.runs.quantities import VALIDATION
from tecogan_dist.runs.records import METRICS_FILE

BEFORE = 60
"""Records before a validation whose content loss is kept: twice what a look compares, for scores come some records
after the step that they are of."""
CONTENT = ("raw/content", "loss/content")
MOST_EARLIER = 20_000
"""Of them in all: of the last 300 validations."""
CHUNK_BYTES, HELD_BYTES = 2**20, 2**26
"""What is read at once, and what is held of the last lines at most. Training's have about 3 KB, so that ENOUGH_LINES
are 4 MB."""
ANCHOR_BYTES = 256
"""The end of what was read before, by which a file that has only grown is known."""
BEGINNING = b'{"step": '
"""Of each line that training writes."""
SCORE = f'"{VALIDATION}/'.encode()
_STEP = re.compile(rb'\{"step": ([0-9]{1,18})[,}]')
_CONTENTS = re.compile(rb'"(raw/content|loss/content)": (-?[0-9][0-9.eE+-]*)[,}]')


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of a run's records."""

    lines: tuple[dict[str, float], ...]
    """The last ones, with their ``step``."""
    earlier: tuple[dict[str, float], ...]
    """Of older ones: the content loss before validations."""
    scores: dict[int, dict[str, float]]
    """Of held-out scenes by step, of all lines."""
    last_step: int
    """0 if nothing is recorded yet."""
    note: str | None
    """What of the file is left out, in one sentence. Of older lines only such damage is told as their beginning and
    end show."""


class Window:
    """The same of a run in this process, as it goes on."""

    def __init__(self) -> None:
        self._lines: deque[dict[str, float]] = deque(maxlen=ENOUGH_LINES)
        self._earlier: deque[dict[str, float]] = deque(maxlen=MOST_EARLIER)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """A record."""
        self._lines.append({"step": step, **values})

    def validated(self) -> None:
        """Held-out scenes were measured: what was recorded before stays known."""
        after = self._earlier[-1]["step"] if self._earlier else -1
        for line in itertools.islice(self._lines, max(0, len(self._lines) - BEFORE), None):
            if line["step"] > after and any(name in line for name in CONTENT):
                self._earlier.append({name: line[name] for name in ("step", *CONTENT) if name in line})

    @property
    def lines(self) -> list[dict[str, float]]:
        """The last ones."""
        return list(self._lines)

    @property
    def earlier(self) -> list[dict[str, float]]:
        """What is known of older ones."""
        first = self._lines[0]["step"] if self._lines else 0
        return [line for line in self._earlier if line["step"] < first]


class Follower:
    """Reads a run's ``metrics.jsonl`` as often as wanted: the first time all of it, and then what was appended.

    Only the last lines are parsed; the others are looked through for scores, and for damage. On an object store, which
    has no appending, a file that has changed is read from its beginning.
    """

    def __init__(self, run: Location) -> None:
        self._file = run / METRICS_FILE
        self._begin()

    def look(self) -> Seen:
        """What is there now; nothing of a run that has just begun. Raises :class:`UnreachableError`."""
        note = None
        try:
            if self._file.is_local:
                self._read_on()
            elif self._file.size() != self._offset:
                self._begin()
                for chunk in self._file.chunks():
                    self._take(chunk)
        except FileNotFoundError:
            self._begin()
        except UserError as error:
            self._begin()
            note = unreadable(self._file, error)
        return self._seen(note)

    def _begin(self) -> None:
        """Know nothing."""
        self._blocks, self._damage = Blocks(), Damage()
        self._held: deque[tuple[bytes, int]] = deque()  # blocks of whole lines, and how many there are in each
        self._lines = self._bytes = 0  # of those
        self._number = self._kept = 0  # the last whole line so far, and the last one of which something is kept
        self._earlier: deque[tuple[int, dict[str, float]]] = deque(maxlen=MOST_EARLIER)
        self._scores: dict[int, dict[str, float]] = {}
        self._offset, self._anchor = 0, b""

    def _read_on(self) -> None:
        with reported_local(self._file.path, "read"), open_regular(self._file.path) as file:
            if not self._has_only_grown(file):
                self._begin()
            file.seek(self._offset)
            while chunk := file.read(CHUNK_BYTES):
                self._take(chunk)

    def _has_only_grown(self, file: BufferedReader) -> bool:
        """A run that goes on from a checkpoint replaces the file: what was recorded after that step is dropped."""
        if os.fstat(file.fileno()).st_size < self._offset:
            return False
        file.seek(self._offset - len(self._anchor))
        return file.read(len(self._anchor)) == self._anchor

    def _take(self, chunk: bytes) -> None:
        self._offset += len(chunk)
        self._anchor = (self._anchor + chunk[-ANCHOR_BYTES:])[-ANCHOR_BYTES:]
        block = self._blocks.feed(chunk)
        if not block:
            return
        count = block.count(b"\n")
        self._check(block, count)
        if SCORE in block:
            self._keep_scores(block)
        self._held.append((block, count))
        self._number, self._lines, self._bytes = self._number + count, self._lines + count, self._bytes + len(block)
        while len(self._held) > 1 and (
            self._lines - self._held[0][1] >= ENOUGH_LINES or self._bytes - len(self._held[0][0]) > HELD_BYTES
        ):
            gone, lines = self._held.popleft()
            self._lines, self._bytes = self._lines - lines, self._bytes - len(gone)

    def _check(self, block: bytes, count: int) -> None:
        """Parse the lines that do not begin and end as training's do, or are not plain text."""
        joints = block.count(b"}\n" + BEGINNING)
        if joints == count - 1 and block.startswith(BEGINNING) and block.endswith(b"}\n") and _is_plain(block):
            return
        for number, line in enumerate(block.split(b"\n")[:-1], self._number + 1):
            if not _is_ours(line):
                try:
                    read_line(line)
                except UnreadableLineError as error:
                    self._damage.add(number, str(error))

    def _keep_scores(self, block: bytes) -> None:
        """Scores of held-out scenes, and the content loss of the records before them."""
        before = self._last(BEFORE)
        lines = [*before, *block.split(b"\n")[:-1]]
        first = self._number - len(before) + 1
        for place in range(len(before), len(lines)):
            if SCORE not in lines[place]:
                continue
            try:
                step, values = read_line(lines[place])
            except UnreadableLineError:
                continue
            known = self._scores.setdefault(step, {})
            known |= {
                name[len(VALIDATION) + 1 :]: value for name, value in values.items() if name.startswith(VALIDATION)
            }
            for other in range(max(place - BEFORE, self._kept + 1 - first, 0), place):
                sketch = _sketch(lines[other])
                if sketch is not None:
                    self._earlier.append((first + other, sketch))
            self._kept = first + place

    def _last(self, count: int) -> list[bytes]:
        """The last lines that are held: so many, or all."""
        lines: list[bytes] = []
        for block, held in reversed(self._held):
            wanted = min(held, count - len(lines))
            if not wanted:
                break
            lines = [*block.rsplit(b"\n", wanted + 1)[-wanted - 1 : -1], *lines]
        return lines

    def _seen(self, note: str | None) -> Seen:
        last = self._last(ENOUGH_LINES)
        first = self._number - len(last) + 1
        damage = Damage(self._damage.count, list(self._damage.told))
        rest = self._blocks.rest
        if rest and (rest.endswith(b"}") or not is_half_a_line(rest)):
            last.append(rest)
        found: list[dict[str, float]] = []
        for number, line in enumerate(last, first):
            try:
                step, values = read_line(line)
            except UnreadableLineError as error:
                if _is_ours(line) or number > self._number:  # of the others it is known
                    damage.add(number, str(error))
                continue
            found.append({"step": step, **values})
        if damage.count and damage.count == self._number + bool(rest):
            note = damage.of_all()
        return Seen(
            lines=tuple(found),
            earlier=tuple(line for number, line in self._earlier if number < first),
            scores={step: dict(values) for step, values in self._scores.items()},
            last_step=int(max((line["step"] for line in found), default=0)),
            note=note or damage.note(),
        )


def _is_plain(data: bytes) -> bool:
    return data.isascii() and b"\0" not in data


def _is_ours(line: bytes) -> bool:
    """Whether a line begins and ends as training's do."""
    return line.startswith(BEGINNING) and line.endswith(b"}") and _is_plain(line)


def _sketch(line: bytes) -> dict[str, float] | None:
    """The step and the content loss of a record of ours, much quicker than by parsing all of it."""
    step = _STEP.match(line)
    found = _CONTENTS.findall(line)
    if step is None or not found:
        return None
    try:
        values = {name.decode(): float(value) for name, value in found}
    except ValueError:
        return None
    return {"step": int(step[1])} | {name: value for name, value in values.items() if math.isfinite(value)}
