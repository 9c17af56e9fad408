"""A sweep for people: a table that refreshes itself on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tecogan_dist.metrics.sequence import COLUMN
from tecogan_dist.training.ray.display import clock
from tecogan_dist.tuning.board import TrialLine, TrialNews, TrialProgress
from tecogan_dist.tuning.checks import number_of_trials
from tecogan_dist.tuning.ledger import Event
from tecogan_dist.tuning.ranking import number_text, rank
from tecogan_dist.tuning.records import TrialRecord
from tecogan_dist.tuning.results import short_names, value_text
from tecogan_dist.tuning.space import Space

MOST_ROWS = 16
"""Trials in the table on a terminal: those that train, and the best."""
FEWEST_STEPS = 5
"""Steps after which the time left is told."""
STYLES = {"running": "bold", "complete": "", "stopped": "dim", "failed": "red", "waiting": "dim"}


class SweepDisplay:
    """What is known of the trials, shown. A context manager; ``records`` gives them as they are now."""

    def __init__(self, space: Space, records: Callable[[], Sequence[TrialRecord]]) -> None:
        self._space, self._records = space, records
        self._names = short_names(list(space.settings))
        self._steps: dict[str, int] = {}
        self._trained = 0
        self._first_step_at: float | None = None
        self._lock = threading.Lock()
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True) if sys.stdout.isatty() else None

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
        values = "  ".join(
            f"{short} {value_text(record.values[name], digits=4)}" for name, short in self._names.items()
        )
        scores = "  ".join(f"{COLUMN[name]} {number_text(name, value)}" for name, value in record.last.items())
        where = f"step {record.step}/{self._space.steps}"
        if event == "started":
            self._line(f"{_title(record)} starts:  {values}")
        elif event == "measured" and self._live is None:
            self._line(f"{_title(record)}  {where}  {scores}{self._time_left()}")
        elif event == "ended":
            end = {
                "complete": "is complete",
                "stopped": f"is {record.reason}",
                "failed": f"has failed: {record.reason}",
            }
            self._line(f"{_title(record)} {end[record.state]}" + (f"  {scores}" if scores else ""))

    def news(self, news: Sequence[TrialNews]) -> None:
        """Take in what trials tell of their training, and refresh the table."""
        for item in news:
            if isinstance(item, TrialLine):
                self._line(f"trial {item.trial}: {item.text}")
            elif isinstance(item, TrialProgress):
                self._progressed(item)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _progressed(self, item: TrialProgress) -> None:
        before = self._steps.get(item.trial)
        self._steps[item.trial] = item.step
        if self._first_step_at is None:
            self._first_step_at = time.monotonic()
        elif before is not None:
            self._trained += max(0, item.step - before)

    def _time_left(self) -> str:
        """At the rate so far, if no trial is stopped any more; empty before there is a rate."""
        if self._first_step_at is None or self._trained < FEWEST_STEPS:
            return ""
        records = self._records()
        done = sum(self._space.steps if r.state in ("complete", "stopped", "failed") else r.step for r in records)
        left = max(0, self._planned() * self._space.steps - done)
        rate = self._trained / (time.monotonic() - self._first_step_at)
        return f"  left at most {clock(left / rate)}"

    def _planned(self) -> int:
        """Trainings of the search, the preset's, and the repeats."""
        repeat = self._space.repeat
        repeats = 0 if repeat is None else repeat.seeds * (repeat.top + 1)
        return number_of_trials(self._space) + 1 + repeats

    def _line(self, text: str) -> None:
        with self._lock:
            self._console.print(Text(text)) if self._live else print(text, flush=True)

    def _table(self) -> Table:
        records = self._records()
        search = [record for record in records if record.role == "search"]
        ranking = list(rank(self._space.score, search))
        places = {number: place for place, number in enumerate(ranking, 1)}
        running = [record for record in records if record.state == "running"]
        best = [search[number] for number in ranking if search[number].state != "running"]
        ended = [record for record in records if record.state in ("complete", "stopped", "failed")]
        metrics = list(self._space.score.metrics)
        failed = sum(record.state == "failed" for record in records)
        title = f"{len(ended)} of {self._planned()} trainings ended" + (f", {failed} failed" if failed else "")
        table = Table(title=title + self._time_left(), title_justify="left", expand=False)
        for head in ("rank", "trial", "step", *(COLUMN[name] for name in metrics), "state", *self._names.values()):
            table.add_column(head, no_wrap=head != "state")
        for record in [*best, *running][:MOST_ROWS] if len(best) < MOST_ROWS else [*best[: MOST_ROWS - 4], *running]:
            step = max(record.step, self._steps.get(record.name, 0)) if record.state == "running" else record.step
            table.add_row(
                str(places.get(record.number, "")) if record.role == "search" else "",
                record.name,
                f"{step}/{self._space.steps}",
                *(number_text(name, record.last[name]) if name in record.last else "" for name in metrics),
                record.reason or record.state,
                *(value_text(record.values[name], digits=4) for name in self._names),
                style=STYLES[record.state],
            )
        return table


def _title(record: TrialRecord) -> str:
    """``trial 0003``, ``the preset``, ``trial 0003 with seed 2``."""
    if record.role == "search":
        return f"trial {record.name}"
    who = "the preset" if record.repeats is None else f"trial {record.repeats:04d}"
    return who if record.role == "preset" else f"{who} with seed {record.seed}"
