"""What a run leaves to look at: ``metrics.jsonl``, TensorBoard files, and a W&B run if asked for."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from tecogan_dist.base.atomic import append
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.schema import Config
from tecogan_dist.metrics.protocol import Images
from tecogan_dist.runs.facts import Facts
from tecogan_dist.runs.previews import ANIMATION_NAME, FOLDER, PROFILE_NAME, PreviewFiles
from tecogan_dist.runs.records import METRICS_FILE, TENSORBOARD_FOLDER, drop_after, metrics_line
from tecogan_dist.tracking.previews import Previews, Still
from tecogan_dist.tracking.wandb_identity import identity_of
from tecogan_dist.tracking.wandb_records import WandbRecords
from tecogan_dist.tracking.wandb_variables import RUN_ID, WandbVariables


class Tracker:
    """The records of one run in its output folder; made by the first worker only.

    ``first_step`` steps are done: what an interrupted attempt recorded beyond them is dropped. A context manager.
    Records of an output that is not local are made here and go there when they are published, unless ``may_publish``
    raises :class:`UserError`. ``searched`` are the settings that a sweep searches, with this trial's values.
    """

    def __init__(
        self,
        output: Location,
        config: Config,
        *,
        first_step: int,
        say: Callable[[str], None],
        may_publish: Callable[[], None] = lambda: None,
        wandb: WandbVariables | None = None,
        facts: Facts = Facts(),
        environment: Mapping[str, Any] | None = None,
        searched: Mapping[str, Any] = {},
    ) -> None:
        self._output, self._say, self._may_publish = output, say, may_publish
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if output.is_local:
            folder = output.path
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="tecogan_records_", ignore_cleanup_errors=True)
            folder = Path(self._temporary.name)
            with contextlib.suppress(FileNotFoundError):
                (output / METRICS_FILE).fetch(folder / METRICS_FILE)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics = folder / METRICS_FILE
        drop_after(self._metrics, first_step)
        # Here, for it takes half a second, and of a run's processes only this one needs it.
        from tecogan_dist.tracking.tensorboard import TensorBoardRecords

        self._tensorboard = TensorBoardRecords(folder / TENSORBOARD_FOLDER, first_step=first_step, searched=searched)
        self._previews = Previews(folder / FOLDER, output, first_step=first_step, say=say, may_write=may_publish)
        self._kept: tuple[int, PreviewFiles] | None = None
        variables = WandbVariables.of() if wandb is None else wandb.completed()
        project = variables.project(config.tracking)
        self._wandb: WandbRecords | None = None
        if project:
            try:
                identity = variables.values.get(RUN_ID) or identity_of(output, config, first_step=first_step)
            except UserError as error:
                say(f"warning: this attempt is not recorded at W&B ({str(error).rstrip('.')})")
                return
            self._wandb = WandbRecords(
                folder,
                output,
                config,
                project=project,
                identity=identity,
                variables=variables,
                facts=facts,
                environment=environment or {},
                first_step=first_step,
                say=say,
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values by name (:mod:`tecogan_dist.runs.quantities`), to all records."""
        with self._not_fatal():
            append(self._metrics, metrics_line(step, values))
        with self._not_fatal():
            self._tensorboard.scalars(step, values)
        if self._wandb is not None:
            self._wandb.scalars(step, values)

    def animations(self, step: int, animations: Mapping[str, Tensor]) -> None:
        """Moving pictures of a training batch to TensorBoard: (N, T, 3, H, W) frames by name, clipped to 0..1."""
        with self._not_fatal():
            self._tensorboard.animations(step, animations)

    def look(
        self, step: int, still: Still, results: Images, targets: Images, values: Mapping[str, Sequence[float]]
    ) -> None:
        """Keep what a held-out scene looks like (:meth:`Previews.keep`). It may run in a thread of its own."""
        files = self._previews.keep(step, still, results, targets, values)
        self._kept = None if files is None else (step, files)

    def preview(self, step: int) -> None:
        """What was kept of ``step``, if that was the last, to TensorBoard and W&B."""
        if self._kept is None or self._kept[0] != step:
            return
        files, self._kept = self._kept[1], None
        with self._not_fatal():
            self._tensorboard.pictures(
                step, {ANIMATION_NAME: files.animation, PROFILE_NAME: files.profile.read_bytes()}
            )
        if self._wandb is not None:
            self._wandb.preview(step, files)

    def checkpoint(self, step: int) -> None:
        """A checkpoint of ``step`` is complete. From any thread."""
        if self._wandb is not None:
            self._wandb.checkpoint(step)

    @contextlib.contextmanager
    def _not_fatal(self) -> Iterator[None]:
        """A full disk costs records, not the run."""
        try:
            yield
        except OSError as error:
            self._say(f"warning: a record could not be written ({error.strerror or error}); training goes on")

    def publish(self) -> None:
        """Bring the records to an output that is not local. A failure waits for the next time."""
        if self._temporary is not None:
            self._upload()

    def _upload(self) -> None:
        with contextlib.suppress(UserError, OSError):
            self._may_publish()
            # An attempt that is killed sends no more; of one that was online the next attempt sees how far it came.
            of_wandb = (self._folder / "wandb").glob("*run-*/*.wandb")
            for file in (self._folder / METRICS_FILE, *(self._folder / TENSORBOARD_FOLDER).glob("*"), *of_wandb):
                if file.is_file():
                    (self._output / str(file.relative_to(self._folder))).write_bytes(file.read_bytes())

    def _upload_offline_runs(self) -> None:
        """What W&B has not got: the folder here is about to be removed."""
        try:
            for file in (self._folder / "wandb").glob("offline-run-*/**/*"):
                if file.is_file() and not file.is_symlink():
                    (self._output / str(file.relative_to(self._folder))).write_bytes(file.read_bytes())
        except (OSError, UserError) as error:
            self._say(f"warning: the offline records for W&B did not get to {self._output} ({error})")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._not_fatal():
            self._tensorboard.close(failed=error is not None)
        if self._temporary is not None:
            self._upload()  # what follows may take long, and the process be ended meanwhile
        if self._wandb is not None:
            self._wandb.finish(failed=error is not None, reason=str(error or ""))
        if self._temporary is not None:
            self._upload()
            self._upload_offline_runs()
            self._temporary.cleanup()
