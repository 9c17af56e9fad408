"""A part of a film beside its bicubic enlargement, before hours are spent on all of it: ``--preview 5s@1:30``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.config.degradations import is_centred
from tecogan_dist.data.prepare.scenes import PREVIEW_SIDE, find_shots
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.upscaling.images import to_image
from tecogan_dist.upscaling.machine import computing_with
from tecogan_dist.upscaling.plan import scenes_of
from tecogan_dist.upscaling.recurrence import Recurrence, Upscaled
from tecogan_dist.upscaling.segment import Rendering, result_size
from tecogan_dist.video.panels import panels
from tecogan_dist.video.source import FrameSource
from tecogan_dist.video.timeline import Timeline
from tecogan_dist.video.writer import FrameWriter

Frame = NDArray[np.uint8] | NDArray[np.uint16]

LEAD = 12
"""Frames of the scene that are run before the part, so that the network has a past there, as in the whole film. It is
not all of the past: the part's numbers are near those of the whole film, not the same."""
FORM = "LENGTH or LENGTH@START, as in 5s, 5s@1:30, 2.5s@1:02:03.5 or 120f@300f"
_SECONDS = re.compile(r"(?:(?:(\d{1,3}):)?(\d{1,4}):)?(\d{1,6}(?:\.\d{1,6})?)s?", re.ASCII)
_FRAMES = re.compile(r"(\d{1,9})f", re.ASCII)


@dataclass(frozen=True)
class Span:
    """A part of a film as somebody names it: frames where they are whole numbers, seconds where they are fractions."""

    length: int | Fraction
    start: int | Fraction

    def frames(self, timeline: Timeline | None, *, count: int, rate: Fraction, name: object) -> range:
        """Which frames these are of a film of ``count`` frames; without a ``timeline``, of ``rate`` frames a second.

        At least one. Raises :class:`UserError`, which names the film, for a start beyond its end.
        """
        first = self._index(self.start, timeline, count, rate)
        if first >= count:
            length = float(timeline.time(count) if timeline is not None else count / rate)
            raise UserError(
                f"{name} has {count} frames and is {length:.3g} s long, and the preview is to begin after that: give "
                "an earlier start."
            )
        if isinstance(self.length, int):
            last = first + self.length
        else:
            begins = self.start if isinstance(self.start, Fraction) else _time(first, timeline, rate)
            last = self._index(begins + self.length, timeline, count, rate)
        return range(first, min(count, max(last, first + 1)))

    @staticmethod
    def _index(place: int | Fraction, timeline: Timeline | None, count: int, rate: Fraction) -> int:
        if isinstance(place, int):
            return place
        return timeline.index_at(place) if timeline is not None else min(count, int(place * rate))


def _time(frame: int, timeline: Timeline | None, rate: Fraction) -> Fraction:
    return timeline.time(frame) if timeline is not None else frame / rate


def parse_span(text: str) -> Span:
    """``5s@1:30``, ``2s``, ``120f@300f``; times also as ``1:02:03.5``. Raises :class:`UserError` for all else."""
    length, at, start = text.strip().partition("@")
    span = Span(_place(length, text), _place(start, text) if at else Fraction(0))
    if not span.length:
        raise UserError(f"a preview of {printable(text)!r} would be empty: give {FORM}.")
    return span


def _place(text: str, whole: str) -> int | Fraction:
    if match := _FRAMES.fullmatch(text):
        return int(match[1])
    match = _SECONDS.fullmatch(text)
    # A number alone could be either; with colons, the parts below the first are below 60.
    if match is None or not (text.endswith("s") or match[2]) or _is_beyond(match):
        raise UserError(f"{printable(whole)!r} is not a part of a film: give {FORM}.")
    hours, minutes, seconds = int(match[1] or 0), int(match[2] or 0), Fraction(match[3])
    return 3600 * hours + 60 * minutes + seconds


def _is_beyond(match: re.Match[str]) -> bool:
    return bool((match[2] and Fraction(match[3]) >= 60) or (match[1] and int(match[2]) >= 60))


def preview_path(output: Path) -> Path:
    """Beside the output, which is left alone: ``film_x4.preview.mp4``."""
    name = output.stem if output.suffix else output.name
    return output.with_name(f"{name}.preview.mp4")


def write_preview(
    model: RecurrentUpscaler,
    source: FrameSource,
    path: Path,
    *,
    part: range,
    rendering: Rendering,
    cut: bool,
    advance: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda _: None,
) -> None:
    """:func:`preview_frames` as a video with an even clock, which appears when it is complete.

    ``advance`` is called after each of its frames. Raises :class:`UserError` as reading and writing do.
    """
    with FrameWriter(path, rate=source.rate) as writer, computing_with(rendering.threads):
        for frame in preview_frames(model, source, part=part, rendering=rendering, cut=cut, note=note):
            writer.write(frame)
            advance()


def preview_frames(
    model: RecurrentUpscaler,
    source: FrameSource,
    *,
    part: range,
    rendering: Rendering,
    cut: bool,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[NDArray[np.uint8]]:
    """The frames ``part`` as panels of bicubic, result and, with a degradation, truth.

    With ``cut`` the network's memory ends where the film is cut, as in the whole film; it begins LEAD frames before the
    part, with the mirrored warm-up of a scene's first frames. ``model`` is on the device that is to be used; ``note``
    gets sentences for the user.
    """
    first, last = max(0, part.start - LEAD), part.stop + model.warm_up  # of a scene that begins near the part's end
    shots = find_shots(map(_small, source.frames(first, last)), start=first) if cut else []
    scenes = scenes_of(shots, start=first, stop=last)
    height, width = result_size(source, model, rendering)
    centred = model.centred if rendering.degrade is None else is_centred(rendering.degrade)
    recurrence = Recurrence(
        model,
        size=(source.height, source.width),
        device=next(model.parameters()).device,
        degradation=rendering.degrade,
        precision=rendering.precision,
        tile=rendering.tile,
        note=note,
    )
    for number, (upscaled, frame) in enumerate(_upscaled(recurrence, source, scenes, model.warm_up), start=first):
        if number < part.start:
            continue
        if number >= part.stop:
            return
        bicubic = to_image(resize_bicubic(upscaled.lr_frame.unsqueeze(0), model.scale, centred=centred)[0])
        result = to_image(upscaled.sr_frame, rounds=model.rounds)
        shown = {"bicubic": bicubic.cpu().numpy(), "model": result.cpu().numpy()}
        if rendering.degrade is not None:
            shown["truth"] = _shallow(frame)
        yield panels({name: picture[:height, :width] for name, picture in shown.items()})


def _upscaled(
    recurrence: Recurrence, source: FrameSource, scenes: list[range], warm_up: int
) -> Iterator[tuple[Upscaled, Frame]]:
    for scene in scenes:
        frames = source.frames(scene.start, scene.stop)
        head = list(itertools.islice(frames, warm_up + 1))
        recurrence.reset()
        for frame in reversed(head[1:]):
            recurrence.step(torch.tensor(frame))
        for frame in itertools.chain(head, frames):
            yield recurrence.step(torch.tensor(frame)), frame


def _shallow(frame: Frame) -> NDArray[np.uint8]:
    return (frame >> 8 if frame.dtype == np.uint16 else frame).astype(np.uint8, copy=False)


def _small(frame: Frame) -> NDArray[np.uint8]:
    """As :meth:`FrameSource.previews` has it, near enough to find cuts: averages of squares."""
    height, width = frame.shape[:2]
    step = max(1, min(max(height, width) // PREVIEW_SIDE, height, width))
    squares = _shallow(frame)[: height // step * step, : width // step * step]
    return squares.reshape(height // step, step, width // step, step, 3).mean(axis=(1, 3)).astype(np.uint8)
