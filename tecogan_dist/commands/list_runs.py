"""``tecogan list``: the runs in a folder side by side, with their scores and the settings in which they differ."""

from __future__ import annotations

import argparse
import contextlib
import math
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any, Self

from rich.cells import cell_len

from tecogan_dist.base.console import printable
from tecogan_dist.base.documents import dump_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.progress import Progress
from tecogan_dist.base.storage import Location
from tecogan_dist.commands.parser import CommandParser, input_place
from tecogan_dist.metrics.names import COLUMN, METRICS
from tecogan_dist.runs.listing import DEPTH, MOST_FOLDERS, MOST_RUNS, Listed, Listing, list_runs
from tecogan_dist.runs.status import now_utc

DESCRIPTION = f"""
Show the runs in a folder and up to {DEPTH} folders below it, a sweep's trials among them: where each stands, what its
best step scored on held-out scenes, when it was last seen, and the settings that are not the same in all of them.
It changes nothing. A damaged run is listed with what is wrong with it. Of more than {MOST_RUNS} runs those that were
written to last are shown, the newest first.
"""
EXAMPLES = (
    "tecogan list runs",
    "tecogan list s3://films/sweeps/weights",
)
KEPT = ""
GAP = "  "
NARROWEST_NAME, ENOUGH_NAME = 12, 24
"""Characters of the first column that are kept at any width, and for which scores are left out."""
UNLIMITED = 100_000
"""Characters of a line where it goes to a file."""
LONGEST_NAME, LONGEST_VALUE = 60, 40
QUIET_SECONDS = 2.0
"""After which it is shown how far the command is."""
WORDS = {"gone": "died", "silent": "silent?"}
"""States whose name in a table is another one."""


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`."""
    options = parse(argv)
    folder = Location.of(options.folder).absolute()
    with _LateProgress() as progress:
        listing = list_runs(folder, progress=progress.told)
    if not listing.runs:
        raise UserError(
            f"{folder} holds no run, and neither do the folders up to {DEPTH} below it: name one that "
            "'tecogan train' or 'tecogan tune' writes to."
        )
    if options.json:
        print(dump_json(tree_of(listing), indent=2))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED
    print("\n".join(lines_of(listing, width=width)))


class _LateProgress:
    """Progress on standard error, of what is not done at once. A context manager."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._since = time.monotonic()
        self._unit, self._count = "", 0
        self._shown: Progress | None = None

    def __enter__(self) -> Self:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def told(self, unit: str, count: int, total: int | None) -> None:
        """So many folders or runs are done."""
        if time.monotonic() - self._since < QUIET_SECONDS:
            return
        if self._shown is None or unit != self._unit:
            self._stack.close()
            progress = Progress(total, unit=unit, begun=count)
            self._shown, self._unit = self._stack.enter_context(progress), unit
        else:
            self._shown.advance(count - self._count)
        self._count = count


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser("list", description=DESCRIPTION, examples=EXAMPLES)
    add = parser.add_argument
    add("folder", type=input_place, metavar="FOLDER", help="a folder of runs, a sweep or a run, also on s3:// or gs://")
    add("--json", action="store_true", help="print JSON instead, with all settings")
    return parser.parse_args(argv)


def lines_of(listing: Listing, *, width: int) -> list[str]:
    """The table, in lines of at most ``width`` characters as far as names allow; then what is wrong with which run.

    Where the settings that differ do not fit as columns, they stand below each run.
    """
    metrics = [name for name in METRICS if any(name in run.scores for run in listing.runs)]
    chosen = dict.fromkeys(run.metric for run in listing.runs if run.metric in metrics)
    metrics = list(dict.fromkeys([*chosen, *metrics]))  # what decides comes first, and stays at any width
    settings = listing.differing
    table = _table(listing.runs, metrics, settings)
    below = _width(table) > width
    left_out: list[str] = []
    if below:
        table = _table(listing.runs, metrics, ())
        while _width(table) > width and _room(table, width) < ENOUGH_NAME and metrics[len(chosen) :]:
            left_out.insert(0, COLUMN[metrics.pop()])
            table = _table(listing.runs, metrics, ())
        table = _narrowed(table, width)
    head, *rows = _aligned(table)
    lines = [head]
    for row, run in zip(rows, listing.runs, strict=True):
        lines.append(row)
        if below and run.settings:
            lines += _wrapped([f"{name} {_value(run.settings.get(name))}" for name in settings], width)
    if left_out:
        lines.append(f"(too narrow for {', '.join(left_out)})")
    lines += _cut(listing)
    problems = [f"{run.name}: {run.problem}" for run in listing.runs if run.problem]
    return [*lines, *(printable(problem, limit=1000) for problem in problems)]


def _cut(listing: Listing) -> list[str]:
    """What is not shown."""
    further = "name a folder further down"
    if listing.found > len(listing.runs):
        of = f"at least {listing.found}" if listing.are_more else f"{listing.found}"
        return [f"({len(listing.runs)} of {of} runs, those that were written to last; {further} for others)"]
    return [f"(only {MOST_FOLDERS} folders were looked into: {further} for others)"] if listing.are_more else []


def _table(runs: Sequence[Listed], metrics: Sequence[str], settings: Sequence[str]) -> list[list[str]]:
    head = ["run", "state", "step", "last seen", *(["best at"] if metrics else [])]
    rows = [[*head, *(COLUMN[name] for name in metrics), *settings]]
    for run in runs:
        standing = run.standing
        status = None if standing is None else standing.status
        row = [
            printable(run.name, limit=LONGEST_NAME),
            "damaged" if standing is None else WORDS.get(standing.verdict, standing.verdict),
            "" if standing is None else f"{standing.step}/{standing.steps}",
            "" if status is None else _short(status.age(now_utc())),
        ]
        row += ["" if run.best is None else str(run.best)] if metrics else []
        row += [_score(run.scores.get(name)) for name in metrics]
        rows.append(row + [_value(run.settings[name]) if name in run.settings else "" for name in settings])
    return rows


def _narrowed(table: list[list[str]], width: int) -> list[list[str]]:
    """With names cut in their middle, so that lines fit."""
    room = max(NARROWEST_NAME, _room(table, width))
    return [[printable(row[0], limit=room), *row[1:]] for row in table]


def _room(table: list[list[str]], width: int) -> int:
    """For names, beside the other columns."""
    return width - _width([row[1:] for row in table]) - len(GAP)


def _width(table: Sequence[Sequence[str]]) -> int:
    return sum(max(map(cell_len, column)) for column in zip(*table, strict=True)) + len(GAP) * (len(table[0]) - 1)


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    return [
        GAP.join(cell + " " * (size - cell_len(cell)) for cell, size in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _wrapped(parts: Sequence[str], width: int) -> list[str]:
    return textwrap.wrap(
        ", ".join(parts), max(width, 20), initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )


def _short(seconds: float) -> str:
    """``12s``, ``5m``, ``30h``, ``2d``: ago."""
    for unit, size, least in (("d", 86400.0, 2), ("h", 3600.0, 1), ("m", 60.0, 1)):
        if seconds >= least * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _score(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


def _value(value: Any) -> str:
    """A setting as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " ".join(_value(one) for one in value)
    return printable("none" if value is None else value, limit=LONGEST_VALUE)


def tree_of(listing: Listing) -> dict[str, Any]:
    """For ``--json``."""
    return {
        "differing": list(listing.differing),
        "found": listing.found,
        "are_more": listing.are_more,
        "runs": [
            {
                "name": run.name,
                "state": "damaged" if run.standing is None else run.standing.verdict,
                "text": run.problem if run.standing is None else run.standing.text,
                "problem": run.problem,
                "step": None if run.standing is None else run.standing.step,
                "steps": None if run.standing is None else run.standing.steps,
                "best_by": run.metric,
                "best_step": run.best,
                "scores": {name: None if math.isnan(value) else value for name, value in run.scores.items()},
                "settings": run.settings,
            }
            for run in listing.runs
        ],
    }
