"""A page to look at a result with: chosen frames as a contact sheet, and each to be wiped between bicubic and result.

Pictures are data URIs, and its one script moves the wipes. The markup is in upscaled.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tecogan_dist.base.atomic import write_text
from tecogan_dist.base.errors import UserError
from tecogan_dist.config.degradations import Degradation, is_centred
from tecogan_dist.ops.degrade import degrade_frames
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.pages.data_uris import data_uri
from tecogan_dist.pages.templates import render
from tecogan_dist.upscaling.images import to_image
from tecogan_dist.video.source import FrameSource

Images = NDArray[np.uint8]

CHOSEN = 8
"""Frames of a page that nobody has chosen: some 5 MB of 1080p."""
WIDTH, HEIGHT = 1280, 800
"""Pixels of a result that a wipe shows as they are. Of a larger one it shows the part that differs most from bicubic:
the whole of it, reduced, would hide what there is to see."""
THUMBNAIL = 320
BICUBIC, UPSCALED, TRUTH = "bicubic", "upscaled", "truth"
MOVE = """\
"use strict";
const page = document.documentElement;
for (const wipe of document.querySelectorAll(".wipe")) {
  const slider = wipe.querySelector("input");
  const move = () => wipe.style.setProperty("--at", slider.value + "%");
  slider.addEventListener("input", move);
  move();
}
for (const choice of document.querySelectorAll(".tools input")) {
  const choose = () => {
    if (choice.checked) page.dataset[choice.name] = choice.value;
  };
  choice.addEventListener("change", choose);
  choose();
}
"""
"""The wipes follow their sliders, and the page what its buttons say; also where a browser has kept them."""


@dataclass(frozen=True, kw_only=True)
class Upscaling:
    """What the page is about: a result and what it was made of."""

    source: FrameSource
    result: FrameSource
    scale: int
    centred: bool
    """Where the model's low-resolution pixels lie (:func:`tecogan_dist.config.degradations.is_centred`)."""
    degradation: Degradation | None = None
    """Of the source, which is then the truth."""
    start: int = 0
    """The source's frame that the result begins with."""


@dataclass(frozen=True)
class Layer:
    """One of the pictures that are wiped over each other."""

    name: str
    uri: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A frame of the page. Sizes in pixels of the result."""

    frame: int
    """Counted in the source, from 0."""
    time: str
    thumbnail: str
    thumbnail_size: tuple[int, int]
    layers: tuple[Layer, ...]
    width: int
    height: int
    detail: str
    """Which part it is; "" for the whole frame."""


def choose_frames(count: int, *, number: int = CHOSEN, scenes: Sequence[range] = ()) -> list[int]:
    """Up to ``number`` of ``count`` frames, in order: the middles of the longest ``scenes``, or else evenly spread.

    Where there are fewer scenes than frames to show, the longer ones are shown more than once.
    """
    parts = [scene for scene in scenes if len(scene)] or [range(count)]
    shares = [0] * len(parts)
    for _ in range(min(number, count)):
        # Each to the scene of which the most frames stand for one that is shown.
        index = max(range(len(parts)), key=lambda i: (len(parts[i]) / (shares[i] + 1), -i))
        shares[index] += 1
    return [
        part.start + (2 * place + 1) * len(part) // (2 * share)
        for part, share in zip(parts, shares, strict=True)
        for place in range(share)
    ]


def write_upscaled(
    path: Path, upscaling: Upscaling, frames: Sequence[int], *, facts: Sequence[tuple[str, str]] = ()
) -> None:
    """Make or replace the page. Raises :class:`UserError`; arguments as of :func:`render_upscaled`."""
    write_text(path, render_upscaled(upscaling, frames, facts=facts))


def render_upscaled(upscaling: Upscaling, frames: Sequence[int], *, facts: Sequence[tuple[str, str]] = ()) -> str:
    """The page, to be written as UTF-8.

    ``frames`` are the result's, from 0, in increasing order; of each video these alone are converted, and one at a time
    is in memory. ``facts`` stand above them, by their names. Raises :class:`UserError` for frames that cannot be read,
    that are not there, and for a result of another size than it has to have.
    """
    layers = [BICUBIC, UPSCALED] + ([TRUTH] if upscaling.degradation else [])
    source, result = upscaling.source, upscaling.result
    return render(
        "upscaled.html",
        {
            "title": result.path.name,
            "facts": [
                ("source", f"{source.path}, {source.width}\N{MULTIPLICATION SIGN}{source.height}"),
                ("result", f"{result.path}, {result.width}\N{MULTIPLICATION SIGN}{result.height}"),
                *facts,
            ],
            "shown": list(_shown(upscaling, list(frames))),
            "pairs": [(left, right) for i, left in enumerate(layers) for right in layers[i + 1 :]],
        },
        scripts=[MOVE],
    )


def _shown(upscaling: Upscaling, frames: list[int]) -> Iterator[Shown]:
    source, result, start = upscaling.source, upscaling.result, upscaling.start
    sources = source.frames_at([start + frame for frame in frames])
    results = result.frames_at(frames)
    for frame in frames:
        before, after = (None if one is None else _shallow(one) for one in (next(sources, None), next(results, None)))
        if before is None or after is None:
            which, where = (source, start + frame) if before is None else (result, frame)
            raise UserError(f"{which.path} has no frame {where} to show: it ends before that; make the result again.")
        bicubic = _bicubic(before, upscaling)
        # A video of an odd size was made even by its writer.
        if any(not 0 <= have - want <= 1 for have, want in zip(after.shape[:2], bicubic.shape[:2], strict=True)):
            raise UserError(
                f"{result.path} has {after.shape[1]}x{after.shape[0]} pixels, and {source.path} upscaled has "
                f"{bicubic.shape[1]}x{bicubic.shape[0]}: give the result that was made of it."
            )
        pictures = {BICUBIC: bicubic, UPSCALED: after[: bicubic.shape[0], : bicubic.shape[1]]}
        if upscaling.degradation:
            pictures[TRUTH] = before
        yield _one(start + frame, pictures, float((start + frame) / source.rate))


def _shallow(frame: NDArray[Any]) -> Images:
    """Of a frame of 16 bits, the upper 8."""
    return (frame >> 8 if frame.dtype == np.uint16 else frame).astype(np.uint8, copy=False)


def _bicubic(frame: Images, upscaling: Upscaling) -> Images:
    """What ``--side-by-side`` shows beside the model's: the low resolution that it saw, enlarged."""
    degradation, scale = upscaling.degradation, upscaling.scale
    pixels = torch.tensor(frame).permute(2, 0, 1).unsqueeze(0)
    centred = upscaling.centred if degradation is None else is_centred(degradation)
    enlarged = resize_bicubic(degrade_frames(pixels, degradation, scale), scale, centred=centred)
    height, width = frame.shape[:2] if degradation else (scale * frame.shape[0], scale * frame.shape[1])
    return np.asarray(to_image(enlarged[0]).numpy()[:height, :width])


def _one(frame: int, pictures: dict[str, Images], seconds: float) -> Shown:
    whole = pictures[UPSCALED]
    height, width = whole.shape[:2]
    rows, columns = most_different(pictures[BICUBIC], whole, height=HEIGHT, width=WIDTH)
    shown_height, shown_width = rows.stop - rows.start, columns.stop - columns.start
    is_part = (shown_height, shown_width) != (height, width)
    thumbnail = Image.fromarray(np.ascontiguousarray(whole))
    if width > THUMBNAIL:
        size = (THUMBNAIL, max(1, round(height * THUMBNAIL / width)))
        thumbnail = thumbnail.resize(size, Image.Resampling.BOX)
    return Shown(
        frame=frame,
        time=_clock(seconds),
        thumbnail=data_uri(thumbnail, "JPEG"),
        thumbnail_size=thumbnail.size,
        layers=tuple(
            Layer(name, data_uri(Image.fromarray(np.ascontiguousarray(picture[rows, columns])), "JPEG"))
            for name, picture in pictures.items()
        ),
        width=shown_width,
        height=shown_height,
        detail=f"{shown_width}×{shown_height} of {width}×{height}, from x = {columns.start}, y = {rows.start}"  # noqa: RUF001
        if is_part
        else "",
    )


def most_different(first: Images, second: Images, *, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the part of two images, of at most this size, in which they differ most on average.

    Its position is found to a 16th of its size, and to the pixel at the edges.
    """
    full_height, full_width = first.shape[:2]
    height, width = min(height, full_height), min(width, full_width)
    if (height, width) == (full_height, full_width):
        return slice(0, height), slice(0, width)
    difference = np.abs(first.astype(np.int16) - second).sum(axis=2, dtype=np.int64)
    sums = np.pad(difference.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    best, place = -1, (0, 0)
    for top in _steps(full_height - height, height // 16):
        for left in _steps(full_width - width, width // 16):
            bottom, right = top + height, left + width
            inside = int(sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left])
            if inside > best:
                best, place = inside, (top, left)
    return slice(place[0], place[0] + height), slice(place[1], place[1] + width)


def _steps(last: int, step: int) -> list[int]:
    return [*range(0, last, max(1, step)), last]


def _clock(seconds: float) -> str:
    """``1:02:03.4``, hours where there are any."""
    tenths = round(10 * seconds)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{tenths // 10:02}.{tenths % 10}"
