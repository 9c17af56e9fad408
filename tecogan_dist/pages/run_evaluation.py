"""The numbers of ``tecogan evaluate`` beside a run: its ``metrics.json``, as a page shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tecogan_dist.base.documents import read_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.metrics.names import COLUMN

EVALUATION_FILE = "metrics.json"
FOLDER = "evaluation"
"""Where a run has its own, if it has one."""
MOST_SEQUENCES = 1000


@dataclass(frozen=True, kw_only=True)
class EvaluationTable:
    """Averages by metric, NaN where there is none; ``rows`` are (sequence, its averages)."""

    place: Location
    protocol: str
    metrics: tuple[str, ...]
    rows: tuple[tuple[str, dict[str, float]], ...]
    average: dict[str, float]
    """Of the sequences."""
    frames: int


def read_evaluation(folder: Location) -> EvaluationTable:
    """The evaluation in a folder. Raises :class:`UserError` if there is none, or it is damaged."""
    file = folder / EVALUATION_FILE
    missing = f"{folder} holds no evaluation (no {EVALUATION_FILE}): give the output folder of 'tecogan evaluate'."
    content = read_json(file, missing=missing)
    try:
        return _table(folder, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{file} is damaged, or something else (at {str(error)[:100]}): give the output folder of 'tecogan "
            "evaluate'."
        ) from error


def find_evaluation(run: Location) -> EvaluationTable | None:
    """The one that a run's folder has; None without one. Raises :class:`UserError` if it is damaged."""
    return read_evaluation(run / FOLDER) if (run / FOLDER / EVALUATION_FILE).is_file() else None


def _table(folder: Location, content: Mapping[str, Any]) -> EvaluationTable:
    averages, sequences = content["averages"], content["sequences"]
    if not isinstance(sequences, list) or not 0 < len(sequences) <= MOST_SEQUENCES:
        raise ValueError("sequences")
    metrics = tuple(metric for metric, column in COLUMN.items() if f"FolderAvg_{column}" in averages)
    of = {metric: [_number(value) for value in averages[f"Avg_{COLUMN[metric]}"]] for metric in metrics}
    if not metrics or any(len(values) != len(sequences) for values in of.values()):
        raise ValueError("averages")
    return EvaluationTable(
        place=folder,
        protocol=str(content["protocol"]["name"])[:100],
        metrics=metrics,
        rows=tuple(
            (str(sequence["name"])[:200], {metric: of[metric][number] for metric in metrics})
            for number, sequence in enumerate(sequences)
        ),
        average={metric: _number(averages[f"FolderAvg_{COLUMN[metric]}"]) for metric in metrics},
        frames=sum(len(sequence["frames"]) for sequence in sequences),
    )


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a value is not a number")
    return float(value)
