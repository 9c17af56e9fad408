"""Sweeps that never ran, and a reader of their pages."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tecogan_dist.pages.sweep import render_sweep
from tecogan_dist.pages.sweep_pictures import Showing
from tecogan_dist.tuning.ranking import summarise
from tecogan_dist.tuning.records import Segment, SweepResults, TrialRecord, TrialState
from tecogan_dist.tuning.space import Asha, Distribution, Fifo, Metric, Pbt, Scheduler, Score, Space
from tecogan_dist.tuning.study import study_of
from tests.support.pages import Page

COMMAND = "tecogan train --config best.yaml --data STORE --output runs/winner"
RANGES = {
    "loss.pingpong": Distribution("uniform", (0.0, 1.0)),
    "loss.perceptual": Distribution("loguniform", (0.01, 1.0)),
    "discriminator.temporal_only": Distribution("choice", (False, True)),
}


class SweepPage(Page):
    """A sweep's page: with spaces between the cells of its text."""

    def handle_endtag(self, tag: str) -> None:
        super().handle_endtag(tag)
        self.text += " " if tag in ("td", "th", "tr", "b", "p", "span", "small", "pre", "h2", "figcaption") else ""

    @property
    def headings(self) -> list[str]:
        return [attributes["id"] for attributes in self.named("h2")]

    def row(self, first: str) -> str:
        """The ranking's row that begins so, up to the next."""
        return self.words.split("how it ended")[1].split(f" {first} ", 1)[1]


def values_of(number: int) -> dict[str, Any]:
    generator = np.random.default_rng(number)
    return {
        "loss.pingpong": float(generator.uniform()),
        "loss.perceptual": float(10 ** generator.uniform(-2, 0)),
        "discriminator.temporal_only": bool(number % 2),
    }


def scores_of(number: int, step: int) -> dict[str, float]:
    """Better with the steps; of two trials one is better in tOF and the other in LPIPS."""
    return {
        "psnr": 24 + step / 1000 + 0.01 * number,
        "ssim": 0.7 + step / 10_000,
        "lpips": 0.3 - step / 10_000 + 0.01 * (5 - number % 6),
        "tof": 0.2 - step / 10_000 + 0.01 * (number % 6),
    }


def trial(number: int, *, steps: int = 300, state: TrialState = "complete", reason: str = "") -> TrialRecord:
    return TrialRecord(
        number=number,
        seed=1,
        segments=(Segment(values=values_of(number), first_step=0),),
        state=state,
        reason=reason,
        scores={step: scores_of(number, step) for step in range(100, steps + 1, 100)},
        times={step: 1e9 + 1000 * number + step for step in range(100, steps + 1, 100)},
        began=1e9 + 1000 * number,
    )


def space_of(score: Score, scheduler: Scheduler | None = None) -> Space:
    return Space(settings=RANGES, score=score, scheduler=scheduler or Fifo(), trials=8, steps=300, measure_every=100)


TOF = Score(metrics={"tof": "min"})
TOF_AND_LPIPS: dict[Metric, Any] = {"tof": "min", "lpips": "min"}


def results_of(
    trials: list[TrialRecord], *, score: Score = TOF, scheduler: Scheduler | None = None, with_preset: bool = True
) -> SweepResults:
    preset_values = {"loss.pingpong": 0.5, "loss.perceptual": 0.2, "discriminator.temporal_only": False}
    preset = TrialRecord(
        number=0,
        role="preset",
        seed=1,
        segments=(Segment(values=preset_values, first_step=0),),
        state="complete",
        scores={step: scores_of(2, step) for step in (100, 200, 300)},
    )
    return summarise(
        space_of(score, scheduler),
        preset_values=preset_values,
        trials=trials,
        preset=preset if with_preset else None,
        repeats=[],
        bicubic={"psnr": 23.5, "ssim": 0.65, "tof": 0.31} if with_preset else {},
    )


def asha(score: Score = TOF) -> SweepResults:
    """Eight trials: 0, 1 and 6 complete, 5 failed after step 200, the others stopped at their first rung."""
    ends: dict[int, tuple[int, TrialState, str]] = {
        0: (300, "complete", ""),
        1: (300, "complete", ""),
        5: (200, "failed", "its training has diverged"),
        6: (300, "complete", ""),
    }
    trials = []
    for number in range(8):
        steps, state, reason = ends.get(number, (100, "stopped", "stopped by asha after step 100"))
        trials.append(trial(number, steps=steps, state=state, reason=reason))
    return results_of(trials, score=score, scheduler=Asha(kind="asha", metric="tof"))


def population() -> SweepResults:
    """Trial 3 goes on from trial 0's weights after step 100; trial 2 from trial 3's after step 200."""
    trials = [trial(number) for number in range(4)]
    for taker, donor, step in ((3, 0, 100), (2, 3, 200)):
        changed = Segment(values={**values_of(donor), "loss.pingpong": 0.25}, first_step=step, donor=donor)
        trials[taker] = dataclasses.replace(trials[taker], segments=(*trials[taker].segments, changed))
    return results_of(trials, scheduler=Pbt(kind="pbt"))


def page_of(results: SweepResults, pictures: list[Showing] | None = None, **words: str) -> SweepPage:
    title = words.pop("title", "Sweep of loss weights")
    command = words.pop("command", COMMAND)
    return SweepPage(render_sweep(results, study_of(results), pictures or [], title=title, command=command, **words))
