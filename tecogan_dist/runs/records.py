"""What a run records while it trains: ``metrics.jsonl`` and the scores of held-out scenes, both strict JSON.

A value that is not finite is written as null, and read as NaN.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tecogan_dist.base.atomic import replacing, reported_local
from tecogan_dist.base.documents import parse_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location, UnreachableError
from tecogan_dist.config.schema import Config
from tecogan_dist.metrics.names import HIGHER_IS_BETTER

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
LINE_BYTES = 2**20
SCORES_FILE = "scores.json"
"""In the run's folder: what was measured on held-out scenes, by step."""
SCORES_BYTES = 2**28
MAX_STEP = 2**63
ELSEWHERE = ": give another path."
"""What the errors of storage advise those who named the file: nobody named one that is in a run's folder."""


def makes_record(step: int, config: Config) -> bool:
    """Whether a run records what it measured after so many steps."""
    return step % config.tracking.display_every == 0 or step == config.steps


def metrics_line(step: int, values: Mapping[str, float]) -> bytes:
    """A line of ``metrics.jsonl``: what was measured after ``step`` steps."""
    return (json.dumps({"step": step, **_writable(values)}, allow_nan=False) + "\n").encode()


def read_metrics(run: Path | Location) -> list[dict[str, float]]:
    """The lines of a run's ``metrics.jsonl``; none if it has not been written yet.

    Half a line at the end, which a killed process may leave, is left out. Raises :class:`UserError` for a damaged one.
    """
    return [values for _, values in _lines((Location.of(run) if isinstance(run, Path) else run) / METRICS_FILE)]


def each_metrics(folder: Path) -> Iterator[dict[str, float]]:
    """The same line by line, of a file that may be long."""
    for _, values in _lines(Location.of(folder / METRICS_FILE)):
        yield values


def check_records(run: Location) -> None:
    """Raise :class:`UserError`, which names file and line, if what a run's folder has recorded is damaged."""
    for _ in _lines(run / METRICS_FILE):
        pass
    read_scores(run)
    folder = run / TENSORBOARD_FOLDER
    if run.is_local and folder.exists() and not folder.path.is_dir():
        raise UserError(f"{folder} is in the place of a folder for TensorBoard: move it away.")


def drop_after(path: Path, step: int) -> None:
    """Take the lines of later steps out of a ``metrics.jsonl``, and half a line, which a killed process may leave.

    Raises :class:`UserError`, and leaves the file as it is, if another line is damaged.
    """
    if path.exists():
        with reported_local(path), replacing(path) as partial, open(partial, "wb") as file:
            file.writelines(line for line, values in _lines(Location.of(path)) if values["step"] <= step)


def _lines(file: Location) -> Iterator[tuple[bytes, dict[str, float]]]:
    """The whole lines of a ``metrics.jsonl``, each with what it says; nothing if there is none."""
    number, rest = 0, b""
    try:
        for chunk in file.chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                number += 1
                yield line + b"\n", _values(line, number, file)
            if len(rest) > LINE_BYTES:
                raise _damaged_line(file, number + 1, f"it has more than {LINE_BYTES} bytes")
    except FileNotFoundError:
        return
    if rest:
        try:
            values = _values(rest, number + 1, file)
        except UserError:
            return  # a process was killed while it wrote
        yield rest + b"\n", values


def _values(line: bytes, number: int, file: Location) -> dict[str, float]:
    try:
        found = parse_json(line, source="it")
    except UserError as error:
        raise _damaged_line(file, number, reason_of(error)) from error
    if not isinstance(found, dict) or not _is_step(found.get("step")):
        raise _damaged_line(file, number, "it has no step")
    values = _numbers(found)
    if values is None:
        raise _damaged_line(file, number, "a value in it is not a number")
    return values


def _damaged_line(file: Location, number: int, why: str) -> UserError:
    return UserError(
        f"{file} is damaged in line {number} ({why}): mend or remove that line, or move the file away; the run goes on "
        "from its checkpoint either way."
    )


def reason_of(error: UserError) -> str:
    """Why a file that a command has written cannot be read, for a sentence in brackets: nobody edits it as text."""
    return str(error).rstrip(".").removesuffix(": save it as UTF-8")


@contextlib.contextmanager
def own_file() -> Iterator[None]:
    """Errors of reading a file of a run's folder advise to move away what is in its place."""
    try:
        yield
    except UnreachableError:
        raise
    except UserError as error:
        if not str(error).endswith(ELSEWHERE):
            raise
        raise UserError(f"{str(error).removesuffix(ELSEWHERE)}: move it away.") from error


def best_step(scores: dict[int, dict[str, float]], metric: str) -> int | None:
    """The step with the best ``metric``; the earliest of equals; None if it was never measured."""
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    measured = {
        step: sign * values[metric]
        for step, values in scores.items()
        if metric in values and not math.isnan(values[metric])
    }
    return max(measured, key=lambda step: (measured[step], -step), default=None)


def scores_text(scores: Mapping[int, Mapping[str, float]]) -> bytes:
    """The content of ``scores.json``, for :func:`read_scores`."""
    content = {str(step): _writable(values) for step, values in sorted(scores.items())}
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def read_scores(output: Location) -> dict[int, dict[str, float]]:
    """What a run's folder says was measured, by step. Raises :class:`UserError` if its file is damaged."""
    file = output / SCORES_FILE
    try:
        with own_file():
            text = file.read_bytes(limit=SCORES_BYTES)
    except FileNotFoundError:
        return {}
    try:
        content = parse_json(text, source="it")
    except UserError as error:
        raise UserError(f"{file} is damaged ({reason_of(error)}): mend it, or move it away.") from error
    scores = {}
    for step, values in content.items() if isinstance(content, dict) else [("", None)]:
        numbers = _numbers(values) if isinstance(values, dict) else None
        if not (step.isascii() and step.isdecimal() and _is_step(int(step[:20]))) or numbers is None:
            raise UserError(f"{file} is damaged (at {step[:100]!r}): mend it, or move it away.")
        scores[int(step)] = numbers
    return scores


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_STEP


def _writable(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _numbers(values: dict[str, Any]) -> dict[str, float] | None:
    """As they were before :func:`_writable`, NaN for what was not finite; None if another value is among them."""
    if any(isinstance(value, bool) or not isinstance(value, int | float | None) for value in values.values()):
        return None
    return {name: math.nan if value is None else value for name, value in values.items()}
