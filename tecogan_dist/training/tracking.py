"""What a run leaves to look at: ``metrics.jsonl``, TensorBoard files, and a W&B run if asked for."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.load import to_tree
from tecogan_dist.config.schema import Config
from tecogan_dist.runs.records import METRICS_FILE, TENSORBOARD_FOLDER, drop_after, metrics_line
from tecogan_dist.training.wandb_client import finish_wandb, start_wandb

SAMPLES = 4
"""Windows in an animation, side by side, as in the original's summaries."""
FRAMES_PER_SECOND = 3


class Tracker:
    """The records of one run in its output folder; made by the first worker only.

    ``first_step`` steps are done: what an interrupted attempt recorded beyond them is dropped. A context manager.
    Records of an output that is not local are made here and go there when they are published, unless ``may_publish``
    raises :class:`UserError`.
    """

    def __init__(
        self,
        output: Location,
        config: Config,
        *,
        first_step: int,
        say: Callable[[str], None],
        may_publish: Callable[[], None] = lambda: None,
    ) -> None:
        self._output, self._say, self._may_publish = output, say, may_publish
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if output.is_local:
            folder = output.path
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="tecogan_records_")
            folder = Path(self._temporary.name)
            with contextlib.suppress(FileNotFoundError):
                (output / METRICS_FILE).fetch(folder / METRICS_FILE)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics = folder / METRICS_FILE
        drop_after(self._metrics, first_step)
        self._events = EventFileWriter(str(folder / TENSORBOARD_FOLDER))
        # TensorBoard forgets what it read beyond this step.
        restart = SessionLog(status=SessionLog.START)
        self._events.add_event(Event(wall_time=time.time(), step=first_step + 1, session_log=restart))
        self._wandb = _start_wandb(folder, output, config, say=say) if config.tracking.wandb_project else None

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """One line of ``metrics.jsonl``."""
        line = metrics_line(step, values)
        with self._not_fatal(), self._metrics.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(end)  # half a line would spoil the next one
                raise

    def summary(self, step: int, scalars: dict[str, float], animations: dict[str, Tensor]) -> None:
        """Scalars and animations to TensorBoard and W&B.

        An animation is (N, T, 3, H, W) frames, values clipped to 0..1; its first SAMPLES windows are shown.
        """
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        images: dict[str, bytes] = {}
        for name, frames in animations.items():
            data, height, width = encode_animation(frames)
            images[name] = data
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
            values.append(Summary.Value(tag=name, image=image))
        with self._not_fatal():
            self._events.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
            self._events.flush()
        if self._wandb is not None:
            import wandb

            try:
                videos = {name: wandb.Video(io.BytesIO(data), format="gif") for name, data in images.items()}
                self._wandb.log({"step": step, **scalars, **videos})
            except Exception as error:  # whatever the client raises: the run's own records come first
                self._say(f"warning: W&B has no record of step {step} ({type(error).__name__}: {error})")

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
            self._events.flush()
            self._upload()

    def _upload(self) -> None:
        with contextlib.suppress(UserError):
            self._may_publish()
            for file in (self._folder / METRICS_FILE, *(self._folder / TENSORBOARD_FOLDER).iterdir()):
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
        self._events.close()
        if self._wandb is not None:
            finish_wandb(self._wandb, say=self._say, failed=error is not None)
        if self._temporary is not None:
            self._upload()
            self._upload_offline_runs()
            self._temporary.cleanup()


def encode_animation(frames: Tensor) -> tuple[bytes, int, int]:
    """A GIF of up to SAMPLES windows side by side, its height and its width. ``frames`` (N, T, 3, H, W), 0..1."""
    shown = (frames[:SAMPLES].detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    pictures: np.ndarray[Any, Any] = shown.permute(1, 3, 0, 4, 2).flatten(2, 3).cpu().numpy()  # (T, H, N W, 3)
    first, *others = [Image.fromarray(picture) for picture in pictures]
    file = io.BytesIO()
    milliseconds = round(1000 / FRAMES_PER_SECOND)
    first.save(file, format="GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return file.getvalue(), first.height, first.width


def _start_wandb(folder: Path, output: Location, config: Config, *, say: Callable[[str], None]) -> Any:
    # One folder is one W&B run, whichever attempt writes it.
    identity = hashlib.sha256(str(output.absolute()).encode()).hexdigest()[:16]
    run = start_wandb(
        folder,
        place=str(output),
        say=say,
        project=config.tracking.wandb_project,
        name=output.name,
        group=config.tracking.wandb_group,
        id=identity,
        resume="allow",
        config=to_tree(config),
    )
    # An axis of our own: W&B's drops the values of steps that are replayed after a failure.
    run.define_metric("*", step_metric="step")
    return run
