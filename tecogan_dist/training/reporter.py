"""What differs between the places where the training loop runs: how it reports, and where checkpoints are kept."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from tecogan_dist.training.state import newest_checkpoint
from tecogan_dist.weights import CHECKPOINT_PATTERN


class Reporter(Protocol):
    """How a worker reaches whoever started it."""

    def say(self, line: str) -> None:
        """An event for people. The first worker calls it."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Progress, every ``display_every`` steps. The first worker calls it."""

    def checkpoint(self, name: str, write: Callable[[Path], None]) -> None:
        """Keep what ``write`` puts into the folder that it is given. All workers call it."""

    def last_checkpoint(self) -> contextlib.AbstractContextManager[Path | None]:
        """The newest checkpoint that this run has kept, readable while the context is open. All workers call it."""


class FolderReporter:
    """For a plain process: checkpoints straight into the output folder, lines and metrics to two functions."""

    def __init__(
        self,
        output: Path,
        *,
        keep: int,
        say: Callable[[str], None] = print,
        log: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        self._output = output
        self._keep = keep
        self._say = say
        self._log = log

    def say(self, line: str) -> None:
        self._say(line)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        if self._log is not None:
            self._log(step, metrics)

    def checkpoint(self, name: str, write: Callable[[Path], None]) -> None:
        # Under another name until it is whole: a folder with the right name can always be resumed from.
        unfinished = self._output / f".{name}"
        unfinished.mkdir(parents=True)
        write(unfinished)
        unfinished.rename(self._output / name)
        for outdated in sorted(self._output.glob(CHECKPOINT_PATTERN))[: -self._keep]:
            shutil.rmtree(outdated)

    @contextlib.contextmanager
    def last_checkpoint(self) -> Iterator[Path | None]:
        yield newest_checkpoint(self._output)
