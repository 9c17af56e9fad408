"""``tecogan status``: whether a run is alive and how far it has got, from another shell or machine."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tecogan_dist.base.console import printable, say
from tecogan_dist.base.documents import dump_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location, UnreachableError
from tecogan_dist.commands.parser import CommandParser, input_place, whole_number
from tecogan_dist.metrics.names import COLUMN, METRICS
from tecogan_dist.runs.overview import Overview, Viewer
from tecogan_dist.runs.standing import spoken
from tecogan_dist.runs.status import Validation, now_utc
from tecogan_dist.training.ray.display import clock

DESCRIPTION = """
Tell whether a training run is alive and how far it has got: steps, rate, time left, the last checkpoint, the last
measurement of held-out scenes against the best, the last warning, and known patterns in its curves. It reads the run's
folder and changes nothing. Whatever cannot be read is left out, and a note says so. Exit status 0: the run is under
way, has finished, or its state cannot be read; 1: it ended before its last step, or gives no sign of life.
"""
EXAMPLES = (
    "tecogan status runs/tecogan",
    "tecogan status s3://films/runs/tecogan --watch",
)
KEPT = "the run goes on as it did"
"""What an interruption leaves."""
LOCAL_EVERY, REMOTE_EVERY = 3, 15
"""Seconds between two looks; a run on an object store writes its status every 30."""
MOST_SECONDS = 86_400
LONGEST = 2000
"""Characters of a line."""
QUIET_SECONDS = 60.0
"""After which it is said how old the last record is."""


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`, and ``SystemExit`` with status 1 for a run that has ended early."""
    options = parse(argv)
    run = Location.of(options.run).absolute()
    viewer = Viewer(run)
    found = viewer.look()
    if options.watch:
        every = options.every or (LOCAL_EVERY if run.is_local else REMOTE_EVERY)
        found = _watch(viewer, found, every=every, quiet=options.json)
    elif not options.json:
        print("\n".join(lines_of(found)))
    if options.json:
        print(dump_json(tree_of(found), indent=2))
    if found.standing.verdict not in ("running", "starting", "finished", "unknown"):
        raise SystemExit(1)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser("status", description=DESCRIPTION, examples=EXAMPLES)
    add = parser.add_argument
    add("run", type=input_place, metavar="RUN", help="the run's folder, also on s3:// or gs://")
    add("--watch", action="store_true", help="look again and again until the run ends, and end with it")
    add(
        "--every",
        type=whole_number(1, MOST_SECONDS),
        metavar="SECONDS",
        help=f"time between two looks of --watch (default {LOCAL_EVERY}, {REMOTE_EVERY} on s3:// and gs://)",
    )
    add("--json", action="store_true", help="print JSON instead; with --watch what was seen last")
    options = parser.parse_args(argv)
    if options.every is not None and not options.watch:
        raise UserError("--every is about --watch: give both.")
    return options


def lines_of(found: Overview) -> list[str]:
    """What is known, a subject a line."""
    standing, now = found.standing, now_utc()
    status = standing.status
    rows = [("state", standing.text), ("step", _step(found))]
    if status is not None and standing.is_alive:
        where = f"{status.gpus} GPUs ({status.device})" if status.gpus else status.device
        workers = f"{status.workers} worker{'' if status.workers == 1 else 's'}"
        text = f"began at step {status.first_step}, {_ago(status.began, now)}, on {workers}, {where}"
        rows.append(("attempt", text + (f"; attempt {len(found.attempts)}" if len(found.attempts) > 1 else "")))
    elif len(found.attempts) > 1:
        rows.append(("attempts", f"{len(found.attempts)}, the last one from step {found.attempts[-1].step}"))
    saved = status.checkpoint if status is not None else None
    if saved is not None and saved.step == found.checkpoint:
        rows.append(("checkpoint", f"step {saved.step}, {_ago(saved.time, now)}"))
    else:
        none = "none yet" if saved is None else f"none left (the last was of step {saved.step})"
        rows.append(("checkpoint", none if found.checkpoint is None else f"step {found.checkpoint}"))
    if found.validation is not None:
        rows.append(("validation", validation_text(found.validation)))
    if status is not None and status.warning is not None:
        warning = status.warning
        rows.append(("warning", f"{_ago(warning.time, now)}, after step {warning.step}: {warning.text}"))
    rows += [("pattern", f"{one.name}, steps {one.first} to {one.last}: {one.advice}") for one in found.patterns]
    lines = [f"{name:11} {text}" for name, text in rows] + [f"note: {note}" for note in found.notes]
    return [printable(line, limit=LONGEST) for line in lines]


def _step(found: Overview) -> str:
    standing = found.standing
    share = 100 * standing.step / max(1, standing.steps)
    text = f"{standing.step} of {standing.steps} ({share:.0f}%)"
    status = standing.status
    if standing.verdict != "running" or status is None:
        return text
    text += f", {rate_text(status.rate)}" if status.rate is not None else ", no rate yet"
    left = standing.seconds_left
    if left is not None:
        text += f", {clock(left)} left"
    quiet = max(0.0, (now_utc() - status.step_time).total_seconds())
    # A display interval is what its records are apart; three of them without one are worth a word.
    return text + (f", on record {spoken(quiet)} ago" if quiet > QUIET_SECONDS else "")


def rate_text(rate: float) -> str:
    """Steps a second, or seconds a step where that is the larger number."""
    return f"{rate:.3g} steps/s" if rate >= 1 else f"{1 / rate:.3g} s/step"


def validation_text(found: Validation) -> str:
    """``step 800: PSNR 24.51 (best 24.9 after step 600), tOF ...``."""
    parts = []
    known = [name for name in (found.metric, *METRICS) if name in found.values]
    for name in dict.fromkeys([*known, *found.values]):
        value, best = found.values[name], found.best.get(name)
        text = f"{COLUMN.get(name, name)} {'not a number' if value is None else f'{value:.4g}'}"
        if best is not None and best.step == found.step:
            text += " (best so far)"
        elif best is not None:
            text += f" (best {best.value:.4g} after step {best.step})"
        parts.append(text)
    return f"step {found.step}: {', '.join(parts)}"


def _ago(time: datetime.datetime, now: datetime.datetime) -> str:
    return f"{spoken(max(0.0, (now - time).total_seconds()))} ago"


def tree_of(found: Overview) -> dict[str, Any]:
    """For ``--json``: the verdict in a word and in words, and all that :func:`lines_of` tells, as plain values."""
    standing = found.standing
    status = None if standing.status is None else json.loads(standing.status.to_json())
    return {
        "verdict": standing.verdict,
        "text": standing.text,
        "step": standing.step,
        "steps": standing.steps,
        "seconds_left": standing.seconds_left,
        "checkpoint": found.checkpoint,
        "validation": None if found.validation is None else dataclasses.asdict(found.validation),
        "attempts": [json.loads(one.to_line()) for one in found.attempts],
        "patterns": [
            {"name": one.name, "severity": one.severity, "first": one.first, "last": one.last, "advice": one.advice}
            for one in found.patterns
        ],
        "notes": list(found.notes),
        "status": status,
    }


def _watch(viewer: Viewer, found: Overview, *, every: float, quiet: bool) -> Overview:
    """Look again and again, and show it, until the run has ended; what was seen last."""
    console = Console(file=sys.stdout, highlight=False)
    if quiet:
        while found.standing.is_alive:
            time.sleep(every)
            found = _look(viewer, found, say=say)
        return found
    if not (sys.stdout.isatty() and not console.is_dumb_terminal):
        return _watch_in_lines(viewer, found, every=every)
    with Live(_shown(found), console=console, auto_refresh=False) as live:
        live.refresh()
        while found.standing.is_alive:
            time.sleep(every)
            found = _look(viewer, found, say=lambda line: live.console.print(Text(line)))
            live.update(_shown(found), refresh=True)
    return found


def _watch_in_lines(viewer: Viewer, found: Overview, *, every: float) -> Overview:
    """A line for each change, and all of it at the end."""
    before: dict[str, str] = {}
    while True:
        now = _news(found)
        changed = [text for name, text in now.items() if before.get(name) != text]
        if changed and found.standing.is_alive:
            print(printable("; ".join(changed), limit=LONGEST), flush=True)
        before = now
        if not found.standing.is_alive:
            print("\n".join(lines_of(found)))
            return found
        time.sleep(every)
        found = _look(viewer, found, say=print)


def _news(found: Overview) -> dict[str, str]:
    """What a log wants to know of, in words that change only with what happens."""
    standing = found.standing
    status = standing.status
    news = {"verdict": standing.verdict, "step": f"step {standing.step}/{standing.steps}"}
    if status is not None and status.rate is not None and standing.seconds_left is not None:
        news["step"] += f", {rate_text(status.rate)}, {clock(standing.seconds_left)} left"
    if found.checkpoint is not None:
        news["checkpoint"] = f"checkpoint of step {found.checkpoint}"
    if found.validation is not None:
        news["validation"] = f"held-out scenes, {validation_text(found.validation)}"
    if status is not None and status.warning is not None:
        news["warning"] = f"warning: {status.warning.text}"
    news |= {note: f"note: {note}" for note in found.notes}
    return news | {one.name: f"pattern: {one.advice}" for one in found.patterns}


def _look(viewer: Viewer, before: Overview, *, say: Callable[[str], None]) -> Overview:
    """What is there now, or was before, where storage does not answer for a moment, which is said."""
    try:
        return viewer.look()
    except UnreachableError as error:
        say(printable(f"warning: {error}", limit=LONGEST))
        return before


def _shown(found: Overview) -> Text:
    return Text("\n".join(lines_of(found)))
