"""What differs between the places where the training loop runs: how it reaches whoever started it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Reporter(Protocol):
    """How a worker reaches whoever started it. The first worker calls it."""

    def say(self, line: str) -> None:
        """An event for people."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Progress, every ``display_every`` steps."""

    def measured(self, step: int, values: dict[str, float]) -> None:
        """The metrics of the held-out scenes with the weights after a step. Its checkpoint may still be on its way."""

    def checkpoint(self, step: int) -> None:
        """The checkpoint of a step is complete. Called in another thread than the rest."""

    def asked_to_stop(self) -> bool:
        """Whether the run should end after this step, with a checkpoint. Called every step: it must not wait."""

    def asked_to_save(self) -> bool:
        """Whether a checkpoint is wanted now; called with :meth:`asked_to_stop`. It is until :meth:`saved`."""

    def saved(self) -> None:
        """The checkpoint that was asked for has been written, or cannot be."""


class PlainReporter:
    """For a plain process: what there is to tell goes to functions."""

    def __init__(
        self,
        *,
        say: Callable[[str], None] = print,
        log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,  # noqa: ARG005
        measured: Callable[[int, dict[str, float]], None] = lambda step, values: None,  # noqa: ARG005
        checkpoint: Callable[[int], None] = lambda step: None,  # noqa: ARG005
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._say, self._log, self._measured, self._asked_to_stop = say, log, measured, asked_to_stop
        self._checkpoint = checkpoint

    def say(self, line: str) -> None:
        self._say(line)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._log(step, metrics)

    def measured(self, step: int, values: dict[str, float]) -> None:
        self._measured(step, values)

    def checkpoint(self, step: int) -> None:
        self._checkpoint(step)

    def asked_to_stop(self) -> bool:
        return self._asked_to_stop()

    def asked_to_save(self) -> bool:
        return False

    def saved(self) -> None:
        raise AssertionError("nothing was asked for")
