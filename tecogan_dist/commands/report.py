"""``tecogan report``: one page of a run, or of several beside each other."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import output_lock
from tecogan_dist.base.storage import Location
from tecogan_dist.commands.parser import CommandParser, input_place, output_place
from tecogan_dist.pages.run import PAGE_FILE, is_own, render_runs
from tecogan_dist.pages.run_evaluation import EvaluationTable, find_evaluation, read_evaluation
from tecogan_dist.pages.run_records import RunRecords, read_runs

DESCRIPTION = """
Write one HTML page of a run: where it stands, known patterns with what to change, its curves, the same held-out frames
over time, the evaluation if there is one, and all settings. Of several runs it shows what differs, their curves over
each other, and their frames side by side. The page needs nothing else, and the run may be going on. RUN is the output
folder of 'tecogan train', local or on s3:// or gs://.
"""
EXAMPLES = (
    "tecogan report runs/tecogan",
    "tecogan report runs/tecogan s3://films/yesterday --output compared.html",
)
ENDINGS = (".html", ".htm")
KEPT = "no page was written, and an older one is as it was"
"""What an interruption leaves."""


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`."""
    options = parse(argv)
    places = [Location.of(run) for run in options.runs]
    output = _output(options, places)
    _check_free(output, overwrite=options.overwrite)
    runs = read_runs(places)
    notes: list[str] = []
    evaluations = _evaluations(options, runs, notes)
    with output_lock(output.path) if output.is_local else contextlib.nullcontext():
        page = render_runs(runs, evaluations, notes=notes)
        _check_free(output, overwrite=options.overwrite)  # once more: another process may have ended in between
        output.write_bytes(page.encode("utf-8"))
    for run in runs:
        _tell(run, named=len(runs) > 1)
    for note in notes:
        print(f"note: {printable(note)}")
    print(f"written: {printable(output)}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser("report", description=DESCRIPTION, examples=EXAMPLES)
    add = parser.add_argument
    add("runs", nargs="+", type=input_place, metavar="RUN", help="a run's folder; several are compared")
    add(
        "--output",
        type=output_place,
        metavar="FILE",
        help=f"the page, local or on s3:// or gs:// (default: RUN/{PAGE_FILE}, of one local run)",
    )
    add("--overwrite", action="store_true", help="replace FILE also if it is not an earlier page of this command")
    add(
        "--evaluation",
        action="append",
        type=input_place,
        metavar="DIR",
        help="output folder of 'tecogan evaluate' (default: RUN/evaluation, if there is one); of several runs one for "
        "each, in their order",
    )
    return parser.parse_args(argv)


def _output(options: argparse.Namespace, places: Sequence[Location]) -> Location:
    """Where the page goes. Raises :class:`UserError` if that has to be said, or cannot be."""
    if options.output is not None:
        output = Location.of(options.output)
        # Else a slip, with --overwrite, could cost a run its records.
        if not output.name.lower().endswith(ENDINGS):
            raise UserError(f"--output {output} must have a name that ends in .html: name the page's file.")
        return output
    if len(places) > 1:
        raise UserError("a page of several runs has no default place: give --output FILE.")
    if not places[0].is_local:
        raise UserError(f"{places[0]} is not on this machine: give --output FILE, here or there, for its page.")
    return places[0] / PAGE_FILE


def _check_free(output: Location, *, overwrite: bool) -> None:
    """Raise :class:`UserError` for what the page may not replace: all but an earlier one."""
    if output.is_local:
        path = output.path
        if path.is_dir():
            raise UserError(f"{output} is a folder: name the page's file, such as {PAGE_FILE} in it.")
        if path.exists() and not os.access(path, os.W_OK):
            raise UserError(f"{output} is protected from writing: change its permissions, or give another --output.")
        if path.is_symlink() and not path.exists():
            raise UserError(f"{output} is a symbolic link to what is not there: mend it, or give another --output.")
    if not overwrite and output.exists() and not is_own(output):
        raise UserError(
            f"{output} exists and is not a page of 'tecogan report': give another --output, or replace it with "
            "--overwrite."
        )


def _evaluations(
    options: argparse.Namespace, runs: Sequence[RunRecords], notes: list[str]
) -> list[EvaluationTable | None]:
    """One for each run that has any. A damaged one that was not named costs a note, not the page."""
    if options.evaluation is not None:
        if len(options.evaluation) != len(runs):
            times = {1: "once", 2: "twice"}.get(len(options.evaluation), f"{len(options.evaluation)} times")
            wanted = f"{len(runs)} runs: give one for each, in their order" if len(runs) > 1 else "one run: give one"
            raise UserError(f"--evaluation is given {times} for {wanted}.")
        return [read_evaluation(Location.of(place)) for place in options.evaluation]
    found: list[EvaluationTable | None] = []
    for run in runs:
        try:
            found.append(find_evaluation(run.place))
        except UserError as error:
            notes.append(f"the evaluation of {run.name} is left out: {error}")
            found.append(None)
    return found


def _tell(run: RunRecords, *, named: bool) -> None:
    """The patterns, and what could not be read: for whoever does not open the page."""
    who = f"{printable(run.name, limit=60)}: " if named else ""
    for pattern in run.patterns:
        print(f"{pattern.severity}: {who}{printable(pattern.advice, limit=600)}")
    for note in run.notes:
        print(f"note: {who}{printable(note)}")
