"""The board of a sweep: an actor of the driver's, through which it and the trials reach each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@dataclass(frozen=True)
class TrialLine:
    """Something that a trial has to say to people."""

    trial: str
    text: str


@dataclass(frozen=True)
class TrialProgress:
    """How far a trial's training is."""

    trial: str
    step: int
    steps_per_second: float


TrialNews = TrialLine | TrialProgress


class SweepBoard:
    """What trials have to say, until the driver takes it; why they failed; and whether all should stop."""

    def __init__(self) -> None:
        self._news: list[TrialNews] = []
        self._failures: dict[str, str] = {}
        self._training: set[str] = set()
        self._stop = False

    def tell(self, news: TrialNews) -> None:
        self._news.append(news)

    def take(self) -> list[TrialNews]:
        news, self._news = self._news, []
        return news

    def failed(self, trial: str, sentence: str) -> None:
        self._failures[trial] = sentence

    def failure(self, trial: str) -> str | None:
        return self._failures.get(trial)

    def trains(self, trial: str, now: bool) -> None:
        """A trial's training has begun, or is over."""
        (self._training.add if now else self._training.discard)(trial)

    def training(self) -> set[str]:
        return self._training

    def ask_to_stop(self) -> None:
        """All trials should end after their present step, with a checkpoint."""
        self._stop = True

    def asked_to_stop(self) -> bool:
        return self._stop


def start_board() -> Any:
    """The board's actor, beside this process: on another machine it could be lost while the sweep goes on."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(SweepBoard).options(scheduling_strategy=here).remote()
