"""The same held-out frames at each validation of a run, kept in ``RUN/previews/`` so that flicker can be followed.

They are of the first scene that is measured. What they show (:class:`tecogan_dist.runs.previews.View`) follows from the
scene's pixels: a crop of at most 192x192 high-resolution pixels, where its first frames have most detail and motion.
So it is the same over the whole run, its restarts and any number of workers. The folder holds, where ``00010000`` is
the step after which the weights were measured (their average, if there is one):

``index.json``
    What there is: scene, crop, frames, steps, and the worst frames of each (:mod:`tecogan_dist.runs.previews` reads
    it).
``reference.png``
    Three rows: LR enlarged by nearest neighbour, bicubic, HR. Each is the crop of up to 8 consecutive frames
    (``strip_frames``), side by side without a gap: a frame is ``crop.width`` wide, a row ``crop.height`` high.
``00010000.png``
    One such row, of what was generated: the same frames in the same places.
``00010000.mp4``
    The crop of up to 24 consecutive frames (``video_frames``), 12 a second, H.264, as panels under their names: LR,
    bicubic, generated, HR, difference (of generated and HR: absolute, times 4, clipped).
``00010000_profile.png``
    The temporal profile, one row of pixels of the crop over time: ``profile_frames`` from top to bottom, each
    ``profile_zoom`` pixels high; generated at the left, 8 white pixels, HR at the right.
``00010000_worst.png``
    Up to 3 of the worst frames by tOF, or by PSNR where there is no tOF, one below the other, the worst first. Each is
    generated, HR and difference side by side: 192x192 pixels at most of each, around the largest difference.

A file is whole or not there, and ``index.json`` is written last: what it lists is there. A validation that is repeated
after a restart replaces its files, and steps beyond the checkpoint that the run went on from leave with the first
preview after it. Of more than 100 steps those that lie close to others go, never the first and the last; checkpoints
that are dropped take no preview with them. A step's files have about 2 MB where the crop has all of its 192 pixels.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location, UnreachableError
from tecogan_dist.config.degradations import LrOrigin, is_centred
from tecogan_dist.metrics.protocol import OFFICIAL, Images, match_size
from tecogan_dist.metrics.worst import worst_frames
from tecogan_dist.ops.degrade import degrade_frames
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.runs.previews import (
    FOLDER,
    INDEX_FILE,
    REFERENCE_FILE,
    Crop,
    PreviewFiles,
    PreviewIndex,
    View,
    Worst,
    files_of,
    profile_file,
    read_previews,
    strip_file,
    video_file,
    worst_file,
)
from tecogan_dist.tracking.animations import encode_animation
from tecogan_dist.video.panels import panels
from tecogan_dist.video.writer import FrameWriter

Amounts = NDArray[np.int64]

SIDE = 192
"""Pixels of the crop's sides, at most."""
STRIP_FRAMES, VIDEO_FRAMES, PROFILE_FRAMES = 8, 24, 240
PROFILE_HEIGHT = 192
"""Of a temporal profile, about: frames are drawn so many pixels high."""
RATE = Fraction(12)
ANIMATION_RATE = 6
"""Frames a second of the animation for TensorBoard, of 8 frames."""
CRF = 20
GAIN = 4
"""By which differences are multiplied: the same for all steps, so that they can be compared."""
GAP = 8
WORST = 3
MOST_STEPS = 100
"""Steps that are kept."""
LOCAL_STEPS = 3
"""Of an output that is not local: steps whose files stay on this machine, for W&B's client."""
_MARGIN = 4
"""Low-resolution pixels around the crop that bicubic enlargement sees, at least."""


@dataclass(frozen=True)
class Still:
    """What does not change from one validation to the next. Pictures are (n, height, width, 3) uint8 of the crop."""

    view: View
    low: Images
    """Of the video's frames in low resolution, enlarged by nearest neighbour."""
    bicubic: Images
    """The same, enlarged by bicubic interpolation."""
    target: Images
    """The same in high resolution."""


def still_of(inputs: Sequence[Images], targets: Sequence[Images], *, scene: int, origin: LrOrigin, scale: int) -> Still:
    """What the previews of a scene show, given what is upscaled of it and what that is measured against.

    ``targets`` are (H, W, 3) uint8 frames of at least ``scale`` pixels in each side; ``inputs`` are the same ones,
    still to be degraded, or of ``pairs`` the frames of low resolution.
    """
    count, (height, width) = len(targets), targets[0].shape[:2]
    crop = find_crop(targets, multiple=scale)
    shown = range(min(count, VIDEO_FRAMES))
    middle = max(0, (len(shown) - STRIP_FRAMES) // 2)
    target = np.stack([_cut(targets[frame], crop) for frame in shown])
    profiled = range(min(count, PROFILE_FRAMES))
    view = View(
        scene=scene,
        scale=scale,
        height=height,
        width=width,
        crop=crop,
        strip_frames=tuple(shown[middle : middle + STRIP_FRAMES]),
        video_frames=tuple(shown),
        profile_frames=tuple(profiled),
        profile_zoom=max(1, PROFILE_HEIGHT // len(profiled)),
        profile_row=int(_detail(_grey(target[0])).sum(axis=1).argmax()),
    )
    enlarged = [_enlarged(inputs[frame], crop, origin=origin, scale=scale) for frame in shown]
    low, bicubic = (np.stack(pictures) for pictures in zip(*enlarged, strict=True))
    return Still(view, low, bicubic, target)


def find_crop(targets: Sequence[Images], *, multiple: int) -> Crop:
    """Where the first frames have most detail and motion; the first place of equals, at multiples of ``multiple``.

    Only so many frames are looked at as every measured scene has: the place does not depend on how many are measured.
    """
    first = [_grey(frame) for frame in targets[: OFFICIAL.minimum_frames]]
    seen = np.sum([_detail(frame) for frame in first], axis=0)
    seen += np.sum([np.abs(new - old) for old, new in itertools.pairwise(first)], axis=0)
    height, width = (min(SIDE, size // multiple * multiple) for size in seen.shape)
    top, left = _fullest(seen, height, width, multiple=multiple)
    return Crop(top, left, height, width)


class Previews:
    """Writes a run's previews, one at a time, made in ``folder`` and brought to ``output``, the run's.

    For one thread. Nothing that goes wrong here ends a run: ``say`` gets a warning. ``may_write`` raises
    :class:`UserError` if the run is another command's by now. ``first_step`` steps are done.
    """

    def __init__(
        self,
        folder: Path,
        output: Location,
        *,
        first_step: int,
        say: Callable[[str], None],
        may_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._output, self._say, self._may_write = folder, output, say, may_write
        self._first_step = first_step
        self._index: PreviewIndex | None = None
        self._local: list[int] = []

    def keep(
        self, step: int, still: Still, results: Images, targets: Images, values: Mapping[str, Sequence[float]]
    ) -> PreviewFiles | None:
        """Leave what the scene looks like after ``step`` steps; None, and a warning, if it cannot be written.

        ``results`` and ``targets`` are (T, H, W, 3) uint8, ``values`` those of :func:`metrics.sequence.measure`.
        """
        try:
            self._may_write()
        except UserError:
            return None  # whose run it is comes out where checkpoints are written
        try:
            return self._keep(step, still, match_size(results, targets), targets, values)
        except Exception as error:  # whatever it is: workers wait for each other next
            reason = str(error).rstrip(".")
            self._say(f"warning: the preview of step {step} is not complete ({reason}); training goes on")
            return None

    def _keep(
        self, step: int, still: Still, results: Images, targets: Images, values: Mapping[str, Sequence[float]]
    ) -> PreviewFiles:
        self._folder.mkdir(parents=True, exist_ok=True)
        index = self._index or self._begin(still)
        worst = worst_of(values, len(targets))
        generated = results[list(still.view.video_frames)]
        generated = np.stack([_cut(frame, still.view.crop) for frame in generated])
        self._put(strip_file(step), png(_strip(generated, still.view)))
        self._put(profile_file(step), png(_profile(results, targets, still.view)))
        self._put(worst_file(step), png(_worst_picture(worst, results, targets, still.view)))
        with FrameWriter(self._folder / video_file(step), rate=RATE, crf=CRF, preset="veryfast") as writer:
            for frame in _panels(still, generated):
                writer.write(frame)
        if not self._output.is_local:
            self._upload(video_file(step))
        steps = {**index.steps, step: tuple(worst)}
        outdated = outdated_steps(steps)
        self._index = self._write_index(still.view, {at: steps[at] for at in steps if at not in outdated})
        self._remove(outdated)
        self._forget_local(step)
        return PreviewFiles(
            self._folder / video_file(step), self._folder / profile_file(step), _animation(still, generated)
        )

    def _begin(self, still: Still) -> PreviewIndex:
        """The index as this attempt finds it, without what is of no use to it; the reference is written."""
        found = None
        try:
            found = read_previews(self._output)
        except UnreachableError:
            raise
        except UserError as error:
            self._say(f"warning: {str(error).rstrip('.')}; the previews begin anew")
        kept = dict(found.steps) if found is not None else {}
        if found is not None and found.view != still.view:
            self._say("the previews begin anew: other frames are held out, or others of them are measured")
            kept.clear()
        kept = {step: worst for step, worst in kept.items() if step <= self._first_step}
        self._index = self._write_index(still.view, kept)
        self._remove(set(found.steps) - set(kept) if found is not None else set())
        rows = (_strip(pictures, still.view) for pictures in (still.low, still.bicubic, still.target))
        try:
            self._put(REFERENCE_FILE, png(np.concatenate(list(rows))))
        except BaseException:
            self._index = None
            raise
        return self._index

    def _write_index(self, view: View, steps: Mapping[int, tuple[Worst, ...]]) -> PreviewIndex:
        index = PreviewIndex(view, dict(sorted(steps.items())))
        (self._output / FOLDER / INDEX_FILE).write_bytes(index.to_json())
        return index

    def _put(self, name: str, data: bytes) -> None:
        (Location.of(self._folder) / name).write_bytes(data)
        if not self._output.is_local:
            self._upload(name)

    def _upload(self, name: str) -> None:
        (self._output / FOLDER / name).write_bytes((self._folder / name).read_bytes())

    def _remove(self, steps: set[int]) -> None:
        for name in (name for step in steps for name in files_of(step)):
            with contextlib.suppress(FileNotFoundError, UserError):
                (self._output / FOLDER / name).delete()

    def _forget_local(self, step: int) -> None:
        if self._output.is_local:
            return
        self._local = [*(at for at in self._local if at != step), step]
        for name in (name for at in self._local[:-LOCAL_STEPS] for name in files_of(at)):
            (self._folder / name).unlink(missing_ok=True)
        self._local = self._local[-LOCAL_STEPS:]


def outdated_steps(steps: Mapping[int, Any]) -> set[int]:
    """Which steps have to go so that MOST_STEPS are left: those nearest to the one before, not the first and the last.

    Of equals it is the earliest: a long run keeps more of what is recent.
    """
    left = sorted(steps)
    while len(left) > max(2, MOST_STEPS):
        gaps = [left[position + 1] - left[position - 1] for position in range(1, len(left) - 1)]
        del left[1 + gaps.index(min(gaps))]
    return set(steps) - set(left)


def worst_of(values: Mapping[str, Sequence[float]], count: int) -> list[Worst]:
    """The worst of ``count`` frames, the worst first, given the measured ones' values."""
    metric = "tof" if values.get("tof") else "psnr"
    numbers = list(values.get(metric, ()))
    measured = OFFICIAL.frames(count)
    measured = measured[len(measured) - len(numbers) :]  # a temporal metric has none of the first
    by_frame = dict(zip(measured, numbers, strict=True))
    return [Worst(frame, metric, by_frame[frame]) for frame in worst_frames(measured, numbers, metric, count=WORST)]


def png(pixels: Images) -> bytes:
    """(H, W, 3) as a PNG file's bytes."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def difference(results: Images, targets: Images) -> Images:
    """Absolute, times GAIN, clipped."""
    return np.minimum(np.abs(results.astype(np.int16) - targets) * GAIN, 255).astype(np.uint8)


def _cut(frame: Images, crop: Crop) -> Images:
    return frame[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


def _strip(pictures: Images, view: View) -> Images:
    """The video's frames that are in strips, side by side."""
    return np.concatenate([pictures[view.video_frames.index(frame)] for frame in view.strip_frames], axis=1)


def _animation(still: Still, generated: Images) -> bytes:
    """The strip's frames as a GIF: generated beside HR."""
    shown = [still.view.video_frames.index(frame) for frame in still.view.strip_frames]
    frames = torch.from_numpy(np.stack([generated[shown], still.target[shown]])).permute(0, 1, 4, 2, 3)
    return encode_animation(frames / 255, rate=ANIMATION_RATE)[0]


def _panels(still: Still, generated: Images) -> list[Images]:
    return [
        panels(
            {
                "LR": still.low[number],
                "bicubic": still.bicubic[number],
                "generated": result,
                "HR": still.target[number],
                f"difference x{GAIN}": difference(result, still.target[number]),
            }
        )
        for number, result in enumerate(generated)
    ]


def _profile(results: Images, targets: Images, view: View) -> Images:
    """One row over time, of results and targets."""
    crop, row = view.crop, view.crop.top + view.profile_row
    columns = slice(crop.left, crop.left + crop.width)
    sides = [images[list(view.profile_frames), row, columns] for images in (results, targets)]
    gap = np.full((len(view.profile_frames), GAP, 3), 255, np.uint8)
    return np.concatenate([sides[0], gap, sides[1]], axis=1).repeat(view.profile_zoom, axis=0)


def _worst_picture(worst: Sequence[Worst], results: Images, targets: Images, view: View) -> Images:
    """Each of the worst frames around its largest difference: generated, HR, difference."""
    rows = []
    for frame in (item.frame for item in worst):
        result, target = results[frame], targets[frame]
        apart = np.abs(result.astype(np.int64) - target).sum(axis=2)
        height, width = min(SIDE, view.height), min(SIDE, view.width)
        part = Crop(*_fullest(apart, height, width, multiple=1), height, width)
        pictures = [_cut(picture, part) for picture in (result, target, difference(result, target))]
        rows.append(np.concatenate(pictures, axis=1))
    return np.concatenate(rows)


def _grey(frame: Images) -> Amounts:
    """Sums of the channels, in whole numbers: where they are largest is the same on every machine."""
    return frame.sum(axis=2, dtype=np.int64)


def _detail(grey: Amounts) -> Amounts:
    """Differences of neighbours, across and down, (H, W)."""
    across = np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
    return across + np.abs(np.diff(grey, axis=0, append=grey[-1:]))


def _fullest(amounts: Amounts, height: int, width: int, *, multiple: int) -> tuple[int, int]:
    """Top and left of the part of ``amounts`` (H, W) with the largest sum; the first of equals."""
    sums = np.zeros((amounts.shape[0] + 1, amounts.shape[1] + 1), np.int64)
    sums[1:, 1:] = amounts.cumsum(axis=0).cumsum(axis=1)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    inside = inside[::multiple, ::multiple]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(top) * multiple, int(left) * multiple


def _enlarged(frame: Images, crop: Crop, *, origin: LrOrigin, scale: int) -> tuple[Images, Images]:
    """The crop of a frame in low resolution, by nearest neighbour, and by bicubic interpolation."""
    pixels = torch.from_numpy(frame).permute(2, 0, 1).unsqueeze(0)
    low = degrade_frames(pixels, None if origin == "pairs" else origin, scale)
    top, left = crop.top // scale, crop.left // scale
    above, before = min(_MARGIN, top), min(_MARGIN, left)
    low = low[..., top - above :, left - before :]
    low = low[..., : above + crop.height // scale + _MARGIN, : before + crop.width // scale + _MARGIN]
    smooth = resize_bicubic(low, scale, centred=is_centred(origin))
    blocks = low.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    part = Crop(above * scale, before * scale, crop.height, crop.width)
    nearest, bicubic = (_cut(_image(picture), part) for picture in (blocks, smooth))
    return nearest, bicubic


def _image(picture: torch.Tensor) -> Images:
    """(1, 3, H, W), around 0..1, as (H, W, 3) uint8."""
    pixels: Images = (picture[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels
