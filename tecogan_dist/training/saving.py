"""Writing checkpoints in the background, keeping the newest and the best, and living with storage that fails."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from tecogan_dist.base.atomic import reported_local
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.schema import Config
from tecogan_dist.runs.checkpoints import (
    STATE_FILE,
    TrainingState,
    checkpoint_name,
    checkpoints,
    is_checkpoint_name,
    is_own_file,
    remove_checkpoint,
)
from tecogan_dist.runs.owner import TakenOverError, check_owner
from tecogan_dist.runs.records import SCORES_FILE, best_step, read_scores, scores_text
from tecogan_dist.runs.writing import Snapshot, write_files
from tecogan_dist.training.engines.ema import WeightAverage
from tecogan_dist.training.engines.pair import EnginePair

PATIENCE = 60.0
"""Seconds for which a checkpoint that cannot be written is tried again; the next one is a new chance."""
STAGING_PREFIX = ".staging_"
_STAGING = re.compile(rf"{re.escape(STAGING_PREFIX)}[a-z0-9_]{{8}}")
"""As Python's module for temporary folders names them."""
PAUSES = (1.0, 3.0, 10.0)


def take_snapshot(state: TrainingState, pair: EnginePair, average: WeightAverage | None) -> Snapshot:
    """All workers call it; with ZeRO each has a shard of what is gathered here."""
    with pair.weights():
        upscaler = _copied(pair.upscaler_module.state_dict())
        discriminator = None if pair.discriminator_module is None else _copied(pair.discriminator_module.state_dict())
    moments, updates = pair.moments()
    return Snapshot(
        state=state,
        upscaler=upscaler,
        discriminator=discriminator,
        average=None if average is None else _copied(average.state),
        average_updates=0 if average is None else average.updates,
        moments=moments,
        updates=updates,
    )


class CheckpointWriter:
    """Writes a run's checkpoints, one at a time in a thread. Only the first worker has one.

    A failure is reported, and the run goes on: the next checkpoint is a new attempt, only the last one has to succeed.
    ``saved`` is told, in that thread, the step of each that is complete. Raises :class:`TakenOverError` where the run
    is another command's by now, whose ``owner`` is not this one's.
    """

    def __init__(
        self,
        output: Location,
        config: Config,
        *,
        say: Callable[[str], None],
        saved: Callable[[int], None] = lambda step: None,  # noqa: ARG005
        owner: str | None = None,
    ) -> None:
        self._output, self._config, self._say, self._saved, self._owner = output, config, say, saved, owner
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None
        self._scores = read_scores(output)
        if output.is_local:
            for name in output.names():
                if _STAGING.fullmatch(name):
                    _clear_staging(output.path / name)  # left by an attempt that was killed

    def save(self, snapshot: Snapshot) -> float:
        """Start writing; returns the seconds for which the one before it was waited for."""
        started = time.monotonic()
        self.wait()
        self._running = self._thread.submit(self._write_patiently, snapshot)
        return time.monotonic() - started

    def wait(self) -> None:
        """Wait until the last checkpoint is written, or has failed."""
        self._wait(last=False)

    def score(self, step: int, measured: dict[str, float]) -> None:
        """Record what was measured of the weights after ``step`` steps; it decides which checkpoint is the best."""
        self._scores[step] = measured
        try:
            self.check_owner()
            (self._output / SCORES_FILE).write_bytes(scores_text(self._scores))
        except TakenOverError:
            raise
        except UserError as error:
            self._say(f"warning: the scores could not be written ({_words(error)})")

    def check_owner(self) -> None:
        """Raise :class:`TakenOverError` if the run is another command's by now."""
        check_owner(self._output, self._owner)

    def finish(self) -> None:
        """Wait for the last checkpoint. Raises :class:`UserError` if it could not be written."""
        self._wait(last=True)
        self._thread.shutdown()

    def _wait(self, *, last: bool) -> None:
        if self._running is None:
            return
        try:
            self._running.result()
        except TakenOverError:
            raise
        except (UserError, OSError) as error:
            if last:
                raise UserError(f"the last checkpoint could not be written: {error}") from error
            self._say(
                f"warning: a checkpoint could not be written ({_words(error)}); training goes on, with the next one "
                "as a new attempt"
            )
        self._running = None

    def _write_patiently(self, snapshot: Snapshot) -> None:
        started = time.monotonic()
        for attempt, pause in enumerate((*PAUSES, *[PAUSES[-1]] * 1000)):
            try:
                self._write(snapshot)
            except TakenOverError:
                raise
            except (UserError, OSError) as error:
                if time.monotonic() - started + pause > PATIENCE:
                    raise
                if attempt == 0:
                    self._say(
                        f"warning: a checkpoint could not be written ({_words(error)}); it is tried again for "
                        f"{PATIENCE:.0f} s"
                    )
                time.sleep(pause)
            else:
                if attempt:
                    self._say(f"the checkpoint of step {snapshot.state.step} is written now")
                return

    def _write(self, snapshot: Snapshot) -> None:
        folder = self._output / checkpoint_name(snapshot.state.step)
        self.check_owner()
        with _staging(self._output) as local:
            content = write_files(local, snapshot, model=self._config.model, run_config=self._config)
            self.check_owner()  # again: that took its time
            if (folder / STATE_FILE).exists():
                (folder / STATE_FILE).delete()  # from here on the replaced one is not a checkpoint
            for name in content.files:
                (folder / name).put(local / name)
        self.check_owner()
        (folder / STATE_FILE).write_bytes(content.to_json())
        self._saved(snapshot.state.step)
        self._drop_outdated(newest=snapshot.state.step)

    def _drop_outdated(self, *, newest: int) -> None:
        """Remove what is neither among the newest nor the best; and folders of attempts that were never completed.

        What the run did not name itself is not counted, and stays.
        """
        complete = checkpoints(self._output)
        kept = {checkpoint.name for checkpoint in complete[-self._config.tracking.keep_checkpoints :]}
        best = self.best_step()
        kept |= {checkpoint_name(newest)} | ({checkpoint_name(best)} if best is not None else set())
        for name in self._output.names():
            if is_checkpoint_name(name) and name not in kept:
                remove_checkpoint(self._output / name)

    def best_step(self) -> int | None:
        """The step whose weights measured best, if any was measured."""
        return best_step(self._scores, self._config.tracking.best)


def _words(error: Exception) -> str:
    """An error's sentence within another one."""
    return str(error).rstrip(".")


@contextlib.contextmanager
def _staging(output: Location) -> Iterator[Path]:
    """A folder whose files can be put into ``output``: on its disk if that is local, so that they are only renamed."""
    beside = None
    if output.is_local:
        output.path.mkdir(parents=True, exist_ok=True)
        beside = output.path
    with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=beside) as folder:
        yield Path(folder)


def _clear_staging(folder: Path) -> None:
    """Remove what an attempt that was killed left in its folder of unfinished files, and that if it is empty then."""
    with reported_local(folder, "removed"):
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            return
        for path in folder.iterdir():
            if is_own_file(path.name) and not stat.S_ISDIR(os.lstat(path).st_mode):
                path.unlink()
    Location.of(folder).delete_folder()


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", torch.float32, copy=True) for name, tensor in state.items()}
