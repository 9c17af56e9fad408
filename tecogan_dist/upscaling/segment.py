"""One segment: its frames out of the source, through the network, into a file, and a check that the file holds them.

This is the work that is done here, in processes or on other machines alike: :func:`upscale_segment` of a
:class:`SegmentTask`, which holds all that it needs but the model. Decoding, the network and encoding run at the same
time, each in a thread of its own with a short queue between them. :func:`render` and :func:`finish` are its two halves,
so that a segment can be checked while the next one is made.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tecogan_dist.base.atomic import remove
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.invariants import present
from tecogan_dist.config.degradations import Degradation, is_centred
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.upscaling.check import Look, check_result, check_written, look
from tecogan_dist.upscaling.devices import check_precision
from tecogan_dist.upscaling.feeding import Frame, Given, in_order
from tecogan_dist.upscaling.folder import WorkFolder
from tecogan_dist.upscaling.images import to_host, to_image
from tecogan_dist.upscaling.machine import computing_with
from tecogan_dist.upscaling.plan import Segment
from tecogan_dist.upscaling.recurrence import Precision, Recurrence, Upscaled
from tecogan_dist.upscaling.source import SourceOptions, check_unchanged
from tecogan_dist.upscaling.states import read_state, write_state
from tecogan_dist.upscaling.targets import Target
from tecogan_dist.upscaling.threads import WriteBehind
from tecogan_dist.upscaling.tiles import is_out_of_memory, reason_of, smallest
from tecogan_dist.video.panels import panels
from tecogan_dist.video.source import FrameSource


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How the network runs. All of it changes pixels, be it only in the last bit."""

    degrade: Degradation | None = None
    """The source is of high resolution: the model sees its degradation, and the result has the source's size."""
    precision: Precision = "fp32"
    tile: int | None = None
    """Low-resolution pixels of a side that run at once; None: the whole frame."""
    threads: int | None = None
    """Of the network on a CPU (:mod:`tecogan_dist.upscaling.machine`); None: as many as torch has."""


@dataclass(frozen=True, kw_only=True)
class SegmentTask:
    """A segment to make. It can be pickled."""

    source: SourceOptions
    stamp: str
    """Of the source when the work began (:func:`tecogan_dist.upscaling.source.stamp`)."""
    output: Path
    """Beside which the work folder is."""
    segment: Segment
    first: int
    """The job's first frame, from which images without a name of their own are counted."""
    rendering: Rendering
    target: Target
    beside: Target | None = None
    """Of the comparison, if there is to be one."""


@dataclass(frozen=True, kw_only=True)
class SegmentResult:
    """What became of a task; the files are in the work folder."""

    number: int
    frames: int
    seconds: float
    tile: int | None
    size: int
    """Bytes of the files."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A segment whose files are written and not yet checked."""

    task: SegmentTask
    files: tuple[Path, ...]
    size: tuple[int, int]
    """Height and width of its frames."""
    looks: tuple[Look, ...]
    seconds: float
    tile: int | None


class Kept:
    """What segments of one job have in common, kept from one to the next: the open source, and the network's buffers.

    To open a long film and to capture a CUDA graph takes seconds. One is for one model, and for one segment at a time.
    """

    def __init__(self) -> None:
        self._source: tuple[object, FrameSource] | None = None
        self._recurrence: tuple[object, Recurrence] | None = None
        self._note: Callable[[str], None] = lambda _: None

    def source(self, task: SegmentTask) -> FrameSource:
        """The task's."""
        key = (task.source, task.stamp)
        if self._source is None or self._source[0] != key:
            self._source = (key, task.source.open())
        return self._source[1]

    def recurrence(self, task: SegmentTask, model: RecurrentUpscaler, note: Callable[[str], None]) -> Recurrence:
        """The task's, in whatever state; with smaller tiles where memory ran out, be it in an earlier command."""
        self._note = note  # the recurrence outlives the task that it was made for, and tells the task that it serves
        source = self.source(task)
        size = (source.height, source.width)
        key = (task.rendering, size)
        if self._recurrence is None or self._recurrence[0] != key:
            self._recurrence = None  # its memory first
            device = next(model.parameters()).device
            check_precision(device, task.rendering.precision)  # of a cluster's machines not all need be alike
            tile = smallest(task.rendering.tile, WorkFolder(task.output).tile())
            if tile != task.rendering.tile:
                note(f"memory has run out before: the network runs in tiles of {tile} pixels")
            recurrence = Recurrence(
                model,
                size=size,
                device=device,
                degradation=task.rendering.degrade,
                precision=task.rendering.precision,
                tile=tile,
                note=lambda text: self._note(text),
            )
            self._recurrence = (key, recurrence)
        return self._recurrence[1]


def upscale_segment(
    task: SegmentTask,
    model: RecurrentUpscaler,
    *,
    kept: Kept | None = None,
    advance: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda _: None,
) -> SegmentResult:
    """Make a segment. ``model`` is in eval mode on the device that is to be used.

    The segment before it has to be done if it ``continues``. ``kept`` is handed from call to call. ``advance`` is
    called after each frame, ``note`` with a sentence for the user.

    Raises :class:`UserError` for what reading and writing raise, a source that changed, an output of the network that
    is not numbers or of one colour, and a file that does not hold what the network gave. Nothing is left of a segment
    that fails.
    """
    return finish(render(task, model, kept=kept, advance=advance, note=note))


def render(
    task: SegmentTask,
    model: RecurrentUpscaler,
    *,
    kept: Kept | None = None,
    advance: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda _: None,
) -> Rendered:
    """Write a segment's files, as :func:`upscale_segment`, and the state for the one after it.

    Where memory runs out beside the network, in making images of its results, say, the segment is begun again with
    smaller tiles, which leave more for that.
    """
    began = time.monotonic()
    kept = kept or Kept()
    counted = 0

    def count(frames: int) -> None:
        nonlocal counted
        if frames > counted:  # not those that are made again
            counted = frames
            advance()

    folder = WorkFolder(task.output)
    folder.check_there()
    folder.discard(task.segment.number)
    check_unchanged(task.source.path, task.stamp)
    recurrence = kept.recurrence(task, model, note)
    while True:
        try:
            rendered = _render(task, model, kept.source(task), recurrence, count)
            break
        except UserError:
            folder.check_there()  # that is why, if it is not
            raise
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = reason_of(error)
        recurrence.shrink(reason)  # here, where the error with all that it holds is gone
    if recurrence.tile != task.rendering.tile:
        folder.keep_tile(present(recurrence.tile, "tiles only become smaller"))
    return replace(rendered, seconds=time.monotonic() - began)


def _render(
    task: SegmentTask,
    model: RecurrentUpscaler,
    source: FrameSource,
    recurrence: Recurrence,
    count: Callable[[int], None],
) -> Rendered:
    """``count`` is told how many frames are done."""
    folder, segment, rendering = WorkFolder(task.output), task.segment, task.rendering
    recurrence.reset()
    if segment.continues:
        recurrence.restore(read_state(folder.state(segment.number)))
    height, width = result_size(source, model, rendering)
    names = source.names
    file = folder.segment(segment.number, task.target.suffix)
    beside = None if task.beside is None else folder.beside(segment.number, task.beside.suffix)
    centred = model.centred if rendering.degrade is None else is_centred(rendering.degrade)
    under_way: deque[Given] = deque()
    looks: list[Look] = []

    def to_images(item: tuple[Upscaled, Given]) -> tuple[Tensor, ...]:
        upscaled, given = item
        under_way.append(given)
        image = to_image(upscaled.sr_frame, rounds=model.rounds, deep=task.target.deep)
        is_finite = upscaled.sr_frame.sum().isfinite()  # a NaN or an infinity anywhere makes the sum one
        if beside is None:
            return image, is_finite
        bicubic = resize_bicubic(upscaled.lr_frame.unsqueeze(0), model.scale, centred=centred)
        shallow = to_image(upscaled.sr_frame, rounds=model.rounds) if task.target.deep else image
        return image, is_finite, shallow, to_image(bicubic[0])

    with ExitStack() as stack:
        stack.enter_context(computing_with(rendering.threads))
        writer = stack.enter_context(task.target.writer(file))
        to_output = stack.enter_context(WriteBehind[tuple[Frame, str | None]](lambda item: writer.write(*item)))
        to_beside: WriteBehind[tuple[dict[str, NDArray[np.uint8]], str]] | None = None
        if task.beside is not None:
            beside_writer = stack.enter_context(task.beside.writer(present(beside, "a comparison has a file")))
            to_beside = stack.enter_context(WriteBehind(lambda item: beside_writer.write(panels(item[0]), item[1])))
        upscaled = in_order(recurrence, source, segment, warm_up=model.warm_up, name=task.source.path)
        for number, (image, is_finite, *shown) in enumerate(to_host(map(to_images, upscaled)), start=segment.start):
            if not is_finite:
                raise UserError(f"frame {number} came out of the network as values that are no numbers: {ADVICE}.")
            given = under_way.popleft()
            result = image.numpy()[:height, :width]
            looks.append(look(result))
            check_result(given.look, looks[-1], frame=number, advice=ADVICE)
            counted = f"frame_{number - task.first:04}"
            to_output.put((result, names[number] if names else counted))
            if to_beside is not None:
                model_image, bicubic = (picture.numpy()[:height, :width] for picture in shown)
                truth = {} if rendering.degrade is None else {"truth": _shown(given.frame)}
                to_beside.put(({"bicubic": bicubic, "model": model_image, **truth}, counted))
            count(len(looks))
    if segment.hands_on:
        state = present(recurrence.export_state(), "a segment has frames")
        write_state(folder.state(segment.number + 1), state)
    return Rendered(
        task=task,
        files=(file,) if beside is None else (file, beside),
        size=(height, width),
        looks=tuple(looks),
        seconds=0.0,
        tile=recurrence.tile,
    )


def finish(rendered: Rendered) -> SegmentResult:
    """Check a segment's files, and record it as done. Raises as :func:`upscale_segment`."""
    task = rendered.task
    folder, segment = WorkFolder(task.output), task.segment
    try:
        folder.check_there()
        check_unchanged(task.source.path, task.stamp)
        file = rendered.files[0]
        height, width = rendered.size
        frames = task.target.frames(file, height=height, width=width)
        check_written(map(look, frames), rendered.looks, first=segment.start, name=file)
    except BaseException:
        for file in rendered.files:
            remove(file)
        raise
    size = folder.finish(
        segment.number,
        files=rendered.files,
        frames=segment.frames,
        means=[round(one.mean, 2) for one in rendered.looks],
        deviations=[round(one.deviation, 2) for one in rendered.looks],
        tile=rendered.tile,
    )
    return SegmentResult(
        number=segment.number, frames=segment.frames, seconds=rendered.seconds, tile=rendered.tile, size=size
    )


ADVICE = "its weights are damaged, or need another --precision (fp32); take other weights, or --exact"


def result_size(source: FrameSource, model: RecurrentUpscaler, rendering: Rendering) -> tuple[int, int]:
    """Height and width of the result."""
    times = 1 if rendering.degrade else model.scale
    return times * source.height, times * source.width


def _shown(frame: Frame) -> NDArray[np.uint8]:
    return (frame >> 8 if frame.dtype == np.uint16 else frame).astype(np.uint8, copy=False)
