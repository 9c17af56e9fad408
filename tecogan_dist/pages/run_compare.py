"""Several runs beside each other, in words and tables: how they differ, and which is ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tecogan_dist.metrics.names import HIGHER_IS_BETTER, METRICS
from tecogan_dist.pages.run_records import RunRecords, score_text
from tecogan_dist.pages.run_settings import Difference, differences
from tecogan_dist.pages.values import LABEL
from tecogan_dist.runs.quantities import group_of
from tecogan_dist.runs.records import best_step

GROUP_WORDS = {
    "discriminator": "the discriminator",
    "loss": "weighted losses",
    "raw": "losses",
    "average": "averages of losses",
    "grad_norm": "gradient norms",
    "weights": "the update ratio",
    "optim": "the learning rate",
    "time": "where the time goes",
    "throughput": "throughput",
    "memory": "memory",
    "validation": "held-out scenes",
}

PERCEIVED = ("lpips", "tof", "tlp")
"""The metrics that judge what people see, detail and steadiness, as PSNR and SSIM do not."""


@dataclass(frozen=True)
class Score:
    """A metric of a run: the best value with its step, and the last one. ``wins``: no run's best is better."""

    best: str
    step: int
    last: str
    wins: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the head of a page about several runs says."""

    differences: tuple[Difference, ...]
    """Of their settings, with the clip store and what they were resumed from."""
    metrics: tuple[str, ...]
    scores: tuple[dict[str, Score], ...]
    """Of each run."""
    notes: tuple[str, ...]


def compare(runs: Sequence[RunRecords]) -> Comparison:
    """Two or more runs."""
    found = list(differences([run.config for run in runs]))
    for name, values in (
        ("clips", [run.data for run in runs]),
        ("resumed from", [run.begun_from or "none" for run in runs]),
    ):
        if len(set(values)) > 1:
            found.append(Difference(name, tuple(values)))
    metrics = tuple(metric for metric in METRICS if any(metric in run.measured for run in runs))
    return Comparison(
        differences=tuple(found),
        metrics=metrics,
        scores=tuple(_scores(run, runs, metrics) for run in runs),
        notes=(*_kinds(runs), *_only(runs), *_protocol(runs)),
    )


def _scores(run: RunRecords, runs: Sequence[RunRecords], metrics: Sequence[str]) -> dict[str, Score]:
    scores = {}
    for metric in metrics:
        step = best_step(run.scores, metric)
        if step is None:
            continue
        value = run.scores[step][metric]
        others = [other.scores[at][metric] for other in runs if (at := best_step(other.scores, metric)) is not None]
        most = max(others) if metric in HIGHER_IS_BETTER else min(others)
        last = max(at for at, values in run.scores.items() if metric in values)
        shown = score_text(run.scores[last][metric], metric)
        scores[metric] = Score(score_text(value, metric), step, shown, value == most and len(others) > 1)
    return scores


def _kinds(runs: Sequence[RunRecords]) -> list[str]:
    """What it means that networks of both kinds are among them."""
    by_kind: dict[str, list[str]] = {}
    for run in runs:
        by_kind.setdefault(run.network, []).append(run.name)
    if len(by_kind) < 2:
        return []
    listed = "; ".join(f"{kind}: {', '.join(members)}" for kind, members in by_kind.items())
    measured = [
        LABEL[metric].partition(" ")[0]
        for metric in PERCEIVED
        if all(any(metric in run.measured for run in runs if run.network == kind) for kind in by_kind)
    ]
    advice = (
        f", so compare {_listed(measured)}."
        if measured
        else ". LPIPS, tOF and tLP would tell, and are not recorded of both: 'tecogan evaluate' measures them."
    )
    return [
        f"These are runs of different kinds ({listed}). FRVSR has no discriminator, and is trained for PSNR: TecoGAN "
        f"has a lower one where it looks better{advice}"
    ]


def _only(runs: Sequence[RunRecords]) -> list[str]:
    """What is recorded of some of them only, and who has no records yet."""
    groups = {run.name: {group_of(name): None for name in run.curves.series} for run in runs}
    begun = [name for name, found in groups.items() if found]
    by_runs: dict[tuple[str, ...], list[str]] = {}
    for group in dict.fromkeys(group for found in groups.values() for group in found):
        having = tuple(name for name in begun if group in groups[name])
        if len(having) < len(begun):
            by_runs.setdefault(having, []).append(GROUP_WORDS.get(group, group))
    notes = [f"Only {_listed(having)} recorded {_listed(words)}." for having, words in by_runs.items()]
    if 0 < len(begun) < len(runs):
        notes.append(f"Nothing is recorded yet of {_listed([name for name in groups if name not in begun])}.")
    return notes


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _protocol(runs: Sequence[RunRecords]) -> list[str]:
    """Scores of other scenes, or of more frames, are other numbers."""
    measured = {
        (
            run.data,
            run.config.data.validation_scenes,
            run.config.tracking.validation_scene_count,
            run.config.tracking.validation_frames,
            run.config.data.degradation,
        )
        for run in runs
        if run.scores
    }
    if len(measured) < 2:
        return []
    return ["Their held-out scenes are not the same, or not measured alike: their scores cannot be compared."]
