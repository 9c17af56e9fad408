"""What a sweep leaves in its folder beside its page: a table of all trials, and the winner to go on with."""

from __future__ import annotations

import contextlib
import csv
import io
import shlex
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from tecogan_dist.base.documents import dump_yaml
from tecogan_dist.base.invariants import present
from tecogan_dist.base.storage import Location
from tecogan_dist.config.load import to_tree
from tecogan_dist.config.schema import Config
from tecogan_dist.metrics.names import COLUMN, METRICS
from tecogan_dist.runs.find import measured_weights, verified
from tecogan_dist.tuning.configs import full_config
from tecogan_dist.tuning.ranking import number_text
from tecogan_dist.tuning.records import SweepResults, TrialRecord, trial_name

TRIALS_FILE = "trials.csv"
CONFIG_FILE = "best.yaml"
BEST_WEIGHTS_FILE = "best.safetensors"
BEST_RUN = "best_run"
COMMENT_WIDTH = 118


def write_results(output: Location, results: SweepResults, *, base: Config, data: Location) -> list[Location]:
    """Write ``trials.csv``, ``best.yaml`` and ``best.safetensors`` into a sweep's folder; returns what was written.

    ``base`` is the config that the sweep was given, ``data`` its clip store. Without a winner there is only the table,
    and what an earlier writing left of the other two is removed. Raises :class:`UserError` if something cannot be
    written, or if the winner's weights cannot be read: all else is there then.
    """
    table_file, config_file, weights_file = (output / name for name in (TRIALS_FILE, CONFIG_FILE, BEST_WEIGHTS_FILE))
    table_file.write_bytes(trials_csv(results).encode())
    if not results.ranking:
        for file in (config_file, weights_file):
            with contextlib.suppress(FileNotFoundError):
                file.delete()
        return [table_file]
    config_file.write_bytes(best_config(output, results, base=base, data=data).encode())
    weights_file.write_bytes(_weights(winner(results)))
    return [table_file, config_file, weights_file]


def winner(results: SweepResults) -> TrialRecord:
    """The best trial of a ranking that is not empty."""
    return next(record for record in results.trials if record.number == results.ranking[0])


def best_config(output: Location, results: SweepResults, *, base: Config, data: Location) -> str:
    """The winner's settings at full length as YAML for ``tecogan train --config``, under a comment that tells of it."""
    best = winner(results)
    settings = ", ".join(f"{name} {value_text(value)}" for name, value in best.values.items())
    about = [f"Trial {best.number}, the best of {len(results.trials)}, with {settings}."]
    if len(best.segments) > 1:
        about.append("These are the values that it ended with; they changed while it was trained.")
    about.append(f"At step {best.step}: {_scores_text(best.last)}.")
    if results.preset is not None and results.preset.scores:
        about.append(f"The preset at step {results.preset.step}: {_scores_text(results.preset.last)}.")
    if results.verdict:
        about.append(results.verdict)
    about.append("At full length it is trained with:")
    comment = "\n".join(textwrap.fill(line, COMMENT_WIDTH) for line in about)
    command = textwrap.indent(training_command(output, data=data), "  ")
    header = textwrap.indent(f"{comment}\n{command}\n", "# ")
    config = full_config(base, results.space, best.values)
    return header + dump_yaml(to_tree(config))


def training_command(output: Location, *, data: Location) -> str:
    """The shell line that trains the winner at full length, into a folder of its own below the sweep's."""
    config, run = str(output / CONFIG_FILE), str(output / BEST_RUN)
    return shlex.join(["tecogan", "train", "--config", config, "--data", str(data), "--output", run])


def _weights(best: TrialRecord) -> bytes:
    """The content of the file whose weights were ranked."""
    folder = present(best.folder, "a trial that was measured has a folder")
    with verified(measured_weights(folder, best.step)) as file:
        return file.read_bytes()


def trials_csv(results: SweepResults) -> str:
    """A row for each trial, by RFC 4180: the search's, the preset, the repeats.

    Metrics are what was measured last, in full precision; ``seconds`` are from a trial's first beginning to that, also
    over interruptions; ``repeats`` is the number of the trial whose settings are trained again, or ``preset``.
    """
    records = [*results.trials, *([results.preset] if results.preset else []), *results.repeats]
    metrics = measured_metrics(records)
    text = io.StringIO()
    rows = csv.writer(text)
    head = ("number", "role", "repeats", "seed", "rank", "state", "reason", "step", "seconds")
    rows.writerow([*head, *(COLUMN[metric] for metric in metrics), *results.space.settings, "folder"])
    for record in records:
        repeats = ("preset" if record.repeats is None else record.repeats) if record.role == "repeat" else ""
        rank = _rank(record, results)
        facts = (record.number, record.role, repeats, record.seed, rank, record.state, record.reason, record.step)
        scores = [record.last.get(metric, "") for metric in metrics]
        values = [value_text(record.values[name]) for name in results.space.settings]
        rows.writerow([*facts, _seconds(record), *scores, *values, record.folder or ""])
    return text.getvalue()


def table(results: SweepResults) -> list[list[str]]:
    """The ranking as cells of text, its head first; then the other trials, the preset and bicubic.

    Columns: rank, trial, step, what was measured last, state, and the values of the settings, which are
    called by their last name where that says it.
    """
    by_number = {record.number: record for record in results.trials}
    ranked = [by_number[number] for number in results.ranking]
    others = [record for record in results.trials if record.number not in results.ranking]
    records = [*ranked, *others, *([results.preset] if results.preset else [])]
    metrics = measured_metrics(records, first=tuple(results.space.score.metrics))
    names = short_names(list(results.space.settings))
    rows = [["rank", "trial", "step", *(COLUMN[metric] for metric in metrics), "state", *names.values()]]
    for record in records:
        scores = _cells(record.last, metrics)
        values = [value_text(record.values[name], digits=4) for name in names]
        state = "failed" if record.state == "failed" else outcome(record)
        step = f"{record.step}/{results.space.steps}"
        rows.append([_rank(record, results), record.name, step, *scores, state, *values])
    if results.bicubic and metrics:
        rows.append(["", "bicubic", "", *_cells(results.bicubic, metrics), "", *("" for _ in names)])
    return rows


def front_line(results: SweepResults) -> list[str]:
    """With ``score.combine: pareto`` a line that names the front, by rank; else none."""
    names = [trial_name(number) for number in results.ranking if number in results.front]
    return [f"the front (no other trial is better in everything): {', '.join(names)}"] if names else []


def failures(results: SweepResults) -> list[str]:
    """A line for each training that failed, with its reason."""
    records = [*results.trials, *([results.preset] if results.preset else []), *results.repeats]
    return [f"{record.name} failed: {record.reason}" for record in records if record.state == "failed"]


def outcome(record: TrialRecord) -> str:
    """What a trial is, or what ended it, on one line: ``complete``, ``stopped by asha``, ``failed: out of memory.``"""
    if record.state == "stopped" and record.reason:
        return record.reason.removesuffix(f" after step {record.step}")
    return " ".join(f"{record.state}: {record.reason}".split()) if record.reason else record.state


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text under each other, for a log."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted name where only one ends in it, else the whole name."""
    ends = [name.rpartition(".")[2] for name in names]
    return {name: end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)}


def value_text(value: Any, *, digits: int | None = None) -> str:
    """A setting's value as the command line takes it; ``digits``: of a fraction, shortened to be read."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:.{digits}g}" if digits is not None and isinstance(value, float) else str(value)


def measured_metrics(records: Iterable[TrialRecord], *, first: Sequence[str] = ()) -> list[str]:
    """The metrics that any trial has, in evaluate's order but for the ``first``."""
    found = {metric for record in records for scores in record.scores.values() for metric in scores}
    return [metric for metric in dict.fromkeys((*first, *METRICS)) if metric in found]


def _cells(scores: dict[str, float], metrics: Sequence[str]) -> list[str]:
    return [number_text(metric, scores[metric]) if metric in scores else "" for metric in metrics]


def _scores_text(scores: dict[str, float]) -> str:
    return ", ".join(f"{COLUMN[metric]} {number_text(metric, value)}" for metric, value in scores.items())


def _rank(record: TrialRecord, results: SweepResults) -> str:
    """Of a trial of the search, from 1 on; empty for all others and for those that are not ranked."""
    is_ranked = record.role == "search" and record.number in results.ranking
    return str(results.ranking.index(record.number) + 1) if is_ranked else ""


def _seconds(record: TrialRecord) -> str:
    return f"{max(record.times.values()) - record.began:.1f}" if record.times and record.began is not None else ""
