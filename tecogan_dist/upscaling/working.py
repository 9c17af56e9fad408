"""What a worker does with a task, be it a process of this machine or an actor of Ray."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tecogan_dist.base import failures
from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.models.build import settings_of
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.runs.find import load_upscaler
from tecogan_dist.upscaling.folder import PLAN, WorkFolder
from tecogan_dist.upscaling.segment import Kept, SegmentTask, upscale_segment
from tecogan_dist.upscaling.tiles import is_out_of_memory, reason_of
from tecogan_dist.upscaling.visible import wait_for
from tecogan_dist.upscaling.workers import Advanced, Broke, Done, Event, Failed, Lost, Noted
from tecogan_dist.weights.format import SUFFIX, save_weights

SECONDS_BETWEEN_TELLING = 0.5
"""Frames are counted that often, not one by one: a small frame takes milliseconds."""


@dataclass(frozen=True)
class Order:
    """A task on its way to a worker."""

    task: SegmentTask
    plan: str
    """Checksum of the plan in its work folder, which shows that worker and sender see the same one."""

    @staticmethod
    def of(task: SegmentTask) -> Order:
        """With paths that mean the same everywhere. Raises :class:`UserError` if the work folder is not there."""
        source = replace(task.source, path=task.source.path.absolute())
        task = replace(task, source=source, output=task.output.absolute())
        return Order(task, plan_digest(task.output))


def plan_digest(output: Path) -> str:
    """Of the plan in an output's work folder. Raises :class:`UserError` if it is not there."""
    path = WorkFolder(output).path / PLAN
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({os.strerror(error.errno or 0)}): leave the folder alone while the command runs, "
            "and start it again."
        ) from error


def frozen(model: RecurrentUpscaler) -> bytes:
    """A model for workers, which need not see the place that it was read from: the bytes of a weights file."""
    with tempfile.TemporaryDirectory(prefix="tecogan_model_") as folder:
        file = Path(folder) / f"model{SUFFIX}"
        save_weights(
            file,
            upscaler_state=model.state_dict(),
            model=settings_of(model),
            run_config=None,
            degradation="BI" if model.centred else "BD",  # whatever it was: only where pixels lie matters here
            warm_up=model.warm_up,
        )
        return file.read_bytes()


def thawed(data: bytes, device: torch.device) -> RecurrentUpscaler:
    """The model of :func:`frozen`, on ``device``. Raises what reading a weights file raises."""
    with tempfile.TemporaryDirectory(prefix="tecogan_model_") as folder:
        file = Path(folder) / f"model{SUFFIX}"
        file.write_bytes(data)
        return load_upscaler(file, device)


def work(
    order: Order,
    model: RecurrentUpscaler,
    *,
    kept: Kept,
    worker: int,
    tell: Callable[[Event], None],
    threads: int | None,
) -> None:
    """Make the segment, and tell what happens, at last :class:`Done`, :class:`Failed`, :class:`Broke`, or
    :class:`Lost` for a GPU that serves this process no more: it is for the pool to end it.
    """
    told = time.monotonic()
    frames = 0

    def advance() -> None:
        nonlocal told, frames
        frames += 1
        if time.monotonic() - told >= SECONDS_BETWEEN_TELLING:
            tell(Advanced(worker, frames))
            told, frames = time.monotonic(), 0

    try:
        if threads is not None:
            torch.set_num_threads(threads)  # of this thread: OpenMP keeps it for each
        check_shared(order)
        result = upscale_segment(
            order.task, model, kept=kept, advance=advance, note=lambda text: tell(Noted(worker, text))
        )
    except UserError as error:
        tell(Failed(worker, str(error)))
    except torch.AcceleratorError as error:
        # An error of its memory, an illegal access: in this process every call fails from now on, in a new one none
        # may. Memory that is not enough has become smaller tiles before, or a UserError.
        if is_out_of_memory(error):
            tell(Failed(worker, f"the GPU's memory is not enough ({reason_of(error)}): end other programs on it."))
        else:
            tell(Lost(worker, f"a GPU of {printable(socket.gethostname())} failed ({reason_of(error)})"))
    except Exception as error:
        text = failures.sentence(error)
        tell(Failed(worker, text) if text else Broke(worker, traceback.format_exc()))
    else:
        tell(Done(worker, result))


def check_shared(order: Order) -> None:
    """Raise :class:`UserError` unless this machine sees the source, and the very work folder of the sender."""
    task = order.task
    folder = WorkFolder(task.output)
    here = printable(socket.gethostname())
    advice = "put input and output on storage that all nodes share, under the same path"
    if not wait_for(folder.path / PLAN):
        raise UserError(f"the node {here} cannot see {folder.path}, where the work is put together: {advice}.")
    if plan_digest(task.output) != order.plan:
        raise UserError(f"the node {here} has another {folder.path} than the command that sent it work: {advice}.")
    if not task.source.path.exists():
        raise UserError(f"the node {here} cannot see {task.source.path}: {advice}.")
    if task.segment.continues:
        wait_for(folder.state(task.segment.number))  # reading it says what is wrong
