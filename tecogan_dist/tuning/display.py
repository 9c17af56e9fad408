"""A sweep for people: a table that refreshes itself on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tecogan_dist.base.chatter import is_verbose
from tecogan_dist.metrics.names import COLUMN
from tecogan_dist.training.ray.display import clock
from tecogan_dist.tuning.board import TrialLine, TrialNews, TrialProgress
from tecogan_dist.tuning.configs import compared_trainings, number_of_trials
from tecogan_dist.tuning.ledger import Event
from tecogan_dist.tuning.ranking import number_text, rank
from tecogan_dist.tuning.records import TrialRecord, trial_name
from tecogan_dist.tuning.results import outcome, short_names, value_text
from tecogan_dist.tuning.space import Space

ENDED = ("complete", "stopped", "failed")
SECONDS_BETWEEN_TABLES = 1.0
LINES_AROUND = 6
"""Of a table on a terminal: title, head, two rules, what is left out, and the cursor's own."""
GAP = 3
"""Characters between its columns."""
FEWEST_ROWS = 4
STATE_WIDTH = 32
"""Characters of what ended a trial; all of a failure's reason is in the line above the table."""
FEWEST_STEPS = 5
"""Steps after which the time left is told."""
STYLES = {"running": "bold", "stopped": "dim"}


class SweepDisplay:
    """What is known of the trials, shown on stdout. A context manager; ``records`` gives them as they are now."""

    def __init__(self, space: Space, records: Callable[[], Sequence[TrialRecord]]) -> None:
        self._space, self._records = space, records
        self._names = short_names(list(space.settings))
        self._metrics = list({**space.score.metrics, **space.score.limits})
        self._began = time.time()
        self._steps: dict[str, int] = {}
        self._trained = 0
        self._first_step_at: float | None = None
        self._drawn_at = 0.0
        self._console = Console(file=sys.stdout, highlight=False)
        # What others print in between, cursor movements among it, would go right through a table.
        on_terminal = sys.stdout.isatty() and not self._console.is_dumb_terminal and not is_verbose()
        self._live = Live(console=self._console, auto_refresh=False, transient=True) if on_terminal else None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def changed(self, record: TrialRecord, event: Event) -> None:
        """Tell of a trial that has started, measured or ended. Called in any thread."""
        who, at = _title(record), f"step {record.step}/{self._space.steps}"
        # A sweep that goes on hears of all that was measured before.
        is_known = record.times.get(record.step, self._began) < self._began
        if event == "started" and self._live is None:
            self._line(f"{who} starts: {self._values(record)}")
        elif event == "measured" and self._live is None and not is_known:
            self._tell_of_copy(record)
            self._line(f"{who}, {at}: {self._scores(record)}{self._time_left('; at most {} left')}")
        elif event == "ended":
            self._line(f"{who} {self._end(record, is_known=is_known)}")

    def news(self, news: Sequence[TrialNews]) -> None:
        """Take in what trials tell of their training, and refresh the table."""
        for item in news:
            if isinstance(item, TrialLine):
                self._line(f"{'trial ' if item.trial.isdigit() else ''}{item.trial}: {item.text}")
            elif isinstance(item, TrialProgress):
                self._progressed(item)
        if self._live is not None and time.monotonic() - self._drawn_at >= SECONDS_BETWEEN_TABLES:
            self._drawn_at = time.monotonic()
            self._live.update(self._table(), refresh=True)

    def _tell_of_copy(self, record: TrialRecord) -> None:
        """Say that a trial of PBT goes on from another, when that is first measured."""
        segment = record.segments[-1]
        if segment.donor is not None and sum(step > segment.first_step for step in record.scores) == 1:
            donor, step = trial_name(segment.donor), segment.first_step
            self._line(f"{_title(record)} went on from trial {donor} after step {step}: {self._values(record)}")

    def _progressed(self, item: TrialProgress) -> None:
        before = self._steps.get(item.trial)
        self._steps[item.trial] = item.step
        if self._first_step_at is None:
            self._first_step_at = time.monotonic()
        elif before is not None:
            self._trained += max(0, item.step - before)

    def _time_left(self, sentence: str) -> str:
        """``sentence`` with the time left at the rate so far, if no trial is stopped any more; empty without a rate."""
        if self._first_step_at is None or self._trained < FEWEST_STEPS:
            return ""
        done = sum(self._space.steps if record.state in ENDED else self._step(record) for record in self._records())
        left = max(0, self._planned() * self._space.steps - done)
        rate = self._trained / (time.monotonic() - self._first_step_at)
        return sentence.format(clock(left / rate))

    def _planned(self) -> int:
        """Trainings of the search, the preset's, and the repeats."""
        return number_of_trials(self._space) + compared_trainings(self._space)

    def _step(self, record: TrialRecord) -> int:
        """How far a trial is; what trains may be further than its last measurement."""
        return max(record.step, self._steps.get(record.name, 0)) if record.state == "running" else record.step

    def _places(self) -> dict[int, int]:
        """Ranks among the search's trials that have ended, by number."""
        search = [record for record in self._records() if record.role == "search"]
        return {number: place for place, number in enumerate(rank(self._space.score, search), 1)}

    def _end(self, record: TrialRecord, *, is_known: bool) -> str:
        if record.state == "failed":
            return f"has failed: {record.reason}"
        already = " already" if is_known else ""
        text = f"was{already} {record.reason}" if record.state == "stopped" else f"is{already} complete"
        places = self._places()
        if record.role != "search":
            return f"{text}: {self._scores(record)}"
        return f"{text}: {self._scores(record)}; rank {places[record.number]} of {len(places)} so far"

    def _scores(self, record: TrialRecord) -> str:
        return ", ".join(
            f"{COLUMN[name]} {text}" for name, text in zip(self._metrics, self._numbers(record), strict=True)
        )

    def _numbers(self, record: TrialRecord) -> list[str]:
        """What was measured last, by :attr:`_metrics`; empty for nothing."""
        return [number_text(name, record.last[name]) if name in record.last else "" for name in self._metrics]

    def _values(self, record: TrialRecord) -> str:
        return ", ".join(f"{short} {value_text(record.values[name], digits=4)}" for name, short in self._names.items())

    def _line(self, text: str) -> None:
        with self._lock:
            if self._live is None:
                print(text, flush=True)
            else:
                self._console.print(Text(text), soft_wrap=True)

    def _table(self) -> Table:
        """The best of those that ended, the preset, and those that train, as far as there is room for them."""
        records, places = self._records(), self._places()
        search = {record.number: record for record in records if record.role == "search"}
        best = [search[number] for number in places]
        preset = [record for record in records if record.role == "preset" and record.state == "complete"]
        running = [record for record in records if record.state == "running"]
        room = max(FEWEST_ROWS, self._console.height - LINES_AROUND)
        running = running[: room // 2]
        shown = [*best[: room - len(preset) - len(running)], *preset]
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title_justify="left", title_style="")
        table.title = self._title()
        hidden = len(best) + len(preset) - len(shown)
        if hidden:
            table.caption, table.caption_justify = f"and {hidden} more that have ended", "left"
        head, rows = self._cells([*shown, *running], places)
        for name in head:
            table.add_column(name, no_wrap=True)
        for row, record in zip(rows, [*shown, *running], strict=True):
            table.add_row(*row, style=STYLES.get(record.state), end_section=record is shown[-1] if shown else False)
        return table

    def _title(self) -> str:
        states = [record.state for record in self._records()]
        ended = sum(state in ENDED for state in states)
        failed = f" ({states.count('failed')} failed)" if "failed" in states else ""
        return f"{ended} of {self._planned()} trainings have ended{failed}{self._time_left(', at most {} left')}"

    def _cells(self, records: Sequence[TrialRecord], places: Mapping[int, int]) -> tuple[list[str], list[list[str]]]:
        """Head and rows, without those settings, the last first, for which the terminal is too narrow."""
        head = ["rank", "trial", "step", *(COLUMN[name] for name in self._metrics), "", *self._names.values()]
        rows = [
            [
                str(places.get(record.number, "")) if record.role == "search" else "",
                record.name,
                f"{self._step(record)}/{self._space.steps}",
                *self._numbers(record),
                _shortened(outcome(record)),
                *(value_text(record.values[name], digits=4) for name in self._names),
            ]
            for record in records
        ]
        widths = [max(map(cell_len, column)) + GAP for column in zip(head, *rows, strict=True)]
        columns = len(head)
        while columns > len(head) - len(self._names) and sum(widths[:columns]) - GAP > self._console.width:
            columns -= 1
        return head[:columns], [row[:columns] for row in rows]


def _shortened(text: str) -> str:
    return text if len(text) <= STATE_WIDTH else f"{text[: STATE_WIDTH - 3]}..."


def _title(record: TrialRecord) -> str:
    """``trial 0003``, ``the preset``, ``trial 0003 with seed 2``."""
    if record.role == "search":
        return f"trial {record.name}"
    who = "the preset" if record.repeats is None else f"trial {trial_name(record.repeats)}"
    return who if record.role == "preset" else f"{who} with seed {record.seed}"
