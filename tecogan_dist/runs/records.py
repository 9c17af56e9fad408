"""What a run records while it trains: ``metrics.jsonl`` and the scores of held-out scenes."""

from __future__ import annotations

import json
from pathlib import Path

from tecogan_dist.base.atomic import write_text
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.metrics.names import HIGHER_IS_BETTER

METRICS_FILE = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a local run's ``metrics.jsonl``; none if it has not been written yet."""
    path = folder / METRICS_FILE
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def drop_after(path: Path, step: int) -> None:
    """Take the lines of later steps out of a ``metrics.jsonl``, and half a line, which a killed process may leave."""
    if path.exists():
        lines = [line for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]
        write_text(path, "".join(line for line in lines if json.loads(line)["step"] <= step))


SCORES_FILE = "scores.json"
"""In the run's folder: what was measured on held-out scenes, by step."""


def best_step(scores: dict[int, dict[str, float]], metric: str) -> int | None:
    """The step with the best ``metric``; the earliest of equals; None if it was never measured."""
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    measured = {step: sign * values[metric] for step, values in scores.items() if metric in values}
    return max(measured, key=lambda step: (measured[step], -step), default=None)


def read_scores(output: Location) -> dict[int, dict[str, float]]:
    """What a run's folder says was measured, by step. Raises :class:`UserError` if its file is damaged."""
    try:
        content = json.loads((output / SCORES_FILE).read_bytes())
        return {int(step): {str(k): float(v) for k, v in values.items()} for step, values in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{output / SCORES_FILE} is damaged: move it away.") from error
