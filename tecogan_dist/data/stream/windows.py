"""What a training sample is: a function of the seed and the sample's number, and of nothing else.

Plain arithmetic on numpy arrays, without Ray: the settings and the list of scenes are enough to say which frames and
pixels sample 1,234,567 shows. Distributions are those of the original's ``loadHR`` (lib/dataloader.py of
thunil/TecoGAN), with one exception: the original never uses a scene's last frame or a crop's last position (its
half-open ranges are one too short); here both ends are included.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.degradations import window_margin
from tecogan_dist.config.schema import Config, DataConfig
from tecogan_dist.data.clips import Scene
from tecogan_dist.video.source import Picture

SAMPLE_STREAM, PERMUTATION_STREAM = 0, 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowConfig(DataConfig):
    """The data's settings and the model's scale: all settings that decide what a window shows, except the seed."""

    scale: int = 4


def window_config(config: Config) -> WindowConfig:
    return WindowConfig(**vars(config.data), scale=config.model.scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Which pixels of which frames sample ``index`` shows."""

    index: int
    scene: Scene
    start: int
    """The window's first frame in the scene."""
    y: int
    x: int
    """Top left corner of the crop, in pixels of the scene's frames."""
    flip: bool
    """Mirror left to right, after cropping."""
    walk: tuple[tuple[int, int], ...] | None
    """None: consecutive frames, one crop. Otherwise every frame is a crop of frame ``start``, moved from (x, y) by its
    (x, y) offset; offsets are not negative and touch 0 on both axes."""


def crop_side(data: WindowConfig) -> int:
    """Side of the square HR crop in pixels: the target's, and on each side the margin that its degradation needs.

    A crop of 32 at scale 4 is 4 * 32 + 2 * 4 = 136 for BD, as in the original, whose 9x9 blur is centred on pixels 4 i
    of the target; for BI it is 4 * 32 + 2 * 6 = 140, since its 16 taps reach 6 pixels beyond pixels 4 i to 4 i + 3. In
    both the target is the middle of the crop. A crop begins at any pixel: the low-resolution grid goes with the crop,
    not with the frame.
    """
    return data.scale * data.crop_size + 2 * window_margin(data.degradation, data.scale)


def decode_of(index: int, data: DataConfig) -> int:
    """The number of the decode (one decoding of one scene) that sample ``index`` is cut from.

    Samples come in mixes of ``scenes_in_mix`` decodes; consecutive samples rotate through a mix's decodes, each of
    which serves ``windows_per_decode`` samples. A worker decodes only scenes that no other worker needs if
    ``scenes_in_mix`` is a multiple of the global batch size; otherwise workers share decodes, which costs time and
    changes nothing.
    """
    mix_size = data.scenes_in_mix * data.windows_per_decode
    return index // mix_size * data.scenes_in_mix + index % data.scenes_in_mix


def scene_of_decode(decode: int, *, seed: int, scenes: Sequence[Scene]) -> Scene:
    """Decodes walk through a new permutation of the scenes on each pass, so that all are used equally often."""
    return scenes[_permutation(seed, decode // len(scenes), len(scenes))[decode % len(scenes)]]


def sample_at(index: int, *, seed: int, scenes: Sequence[Scene], data: WindowConfig) -> Sample:
    """The sample with this number. All scenes must be at least as long and large as a window."""
    scene = scene_of_decode(decode_of(index, data), seed=seed, scenes=scenes)
    return sample_of(index, seed=seed, scene=scene, data=data)


def sample_of(index: int, *, seed: int, scene: Scene, data: WindowConfig) -> Sample:
    """The sample with this number, whose decode is of ``scene``.

    The crop of a moving window is placed so that it stays in the frame during the whole walk; in a frame too small for
    that, the walk stops at the border. With pairs, everything is in whole low-resolution pixels.
    """
    length = data.sequence_length
    uniform = _uniform(seed, index, 5 + 2 * (length - 1))
    side, unit = crop_side(data), data.scale if data.degradation == "pairs" else 1
    start = int(uniform[0] * (scene.frames - length + 1))
    room = np.array([scene.width - side, scene.height - side]) // unit
    walk = None
    if uniform[1] < data.moving_first_frame:
        walk = np.minimum(_random_walk(uniform[5:].reshape(length - 1, 2)) // unit, room)
        room -= walk.max(axis=0)
        walk *= unit
    x, y = ((uniform[3:5] * (room + 1)).astype(int) * unit).tolist()
    return Sample(
        index=index,
        scene=scene,
        start=start,
        y=y,
        x=x,
        flip=bool(data.flip and uniform[2] < 0.5),
        walk=None if walk is None else tuple((int(x), int(y)) for x, y in walk),
    )


def needed_frames(samples: Iterable[Sample], length: int) -> list[int]:
    """Positions, increasing, of a scene's frames that windows of ``length`` frames show."""
    needed: set[int] = set()
    for sample in samples:
        needed.update(range(sample.start, sample.start + (length if sample.walk is None else 1)))
    return sorted(needed)


def cut_windows(
    frames: Iterator[Picture],
    samples: Sequence[Sample],
    data: WindowConfig,
    *,
    lr_frames: Iterator[Picture] | None = None,
) -> np.ndarray:
    """Windows cut out of one scene's frames as these pass by.

    ``frames`` are (height, width, 3) uint8, those at ``needed_frames(samples)``. Returns (N, T, H, W, 3) uint8, windows
    in the order of ``samples``. Raises :class:`UserError` if the scene has fewer frames than its index entry says.

    With pairs, ``lr_frames`` are the scene's own low-resolution frames at the same positions, and the result is
    (N, T, S, S + h / scale, 3): beside the S x S window, S = scale * h, the h x h pixels of its low resolution in
    reading order, so that a batch is still one array.
    """
    side = crop_side(data)
    windows = _cut(frames, samples, data.sequence_length, side, factor=1)
    if lr_frames is None:
        return windows
    low = _cut(lr_frames, samples, data.sequence_length, data.crop_size, factor=data.scale)
    return np.concatenate([windows, low.reshape(*windows.shape[:3], -1, 3)], axis=3)


def _cut(frames: Iterator[Picture], samples: Sequence[Sample], length: int, side: int, *, factor: int) -> np.ndarray:
    """Windows of ``side`` pixels from frames that are ``factor`` times smaller than those that ``samples`` speak of."""
    windows = np.empty((len(samples), length, side, side, 3), np.uint8)
    crops: dict[int, list[tuple[np.ndarray, int, int]]] = {position: [] for position in needed_frames(samples, length)}
    for window, sample in zip(windows, samples, strict=True):
        for time, target in enumerate(window):
            x, y = (0, 0) if sample.walk is None else sample.walk[time]
            shown = sample.start + (time if sample.walk is None else 0)
            crops[shown].append((target, (sample.y + y) // factor, (sample.x + x) // factor))
    scene = samples[0].scene
    for crops_of_frame in crops.values():
        frame = next(frames, None)
        if frame is None:
            raise UserError(f"{scene.file} ends before the {scene.frames} frames of its index entry: make it again.")
        if (frame.shape[0] * factor, frame.shape[1] * factor) != (scene.height, scene.width):
            raise UserError(
                f"scene {scene.number} has {scene.width}x{scene.height} pixels and low-resolution frames of "
                f"{frame.shape[1]}x{frame.shape[0]}, which are not {factor} times smaller: set model.scale."
            )
        # Converting a part of a decoded frame costs twice its share of the whole.
        if 2 * len(crops_of_frame) * side * side > frame.shape[0] * frame.shape[1]:
            frame = frame[:, :]
        for target, y, x in crops_of_frame:
            target[:] = frame[y : y + side, x : x + side]
    for window, sample in zip(windows, samples, strict=True):
        if sample.flip:
            # numpy's copy of window[:, :, ::-1] takes 40 times as long, more than everything else that is done for a
            # window of decoded frames; and torch (4 times as long) would be imported by every decoding process.
            rows = window.reshape(-1, side, 3)
            cv2.flip(rows, 1, dst=rows)
    return windows


def _random_walk(uniform: np.ndarray) -> np.ndarray:
    """(T - 1, 2) numbers in [0, 1) -> (T, 2) positions, x and y, from 0 up: the cumulative sum of floor(U(-3.5, 4.5)).

    Steps of -3 to 3 have probability 1/8 each, -4 and 4 have 1/16.
    """
    steps = np.floor(uniform * 8 - 3.5).astype(int)
    positions = np.concatenate([np.zeros((1, 2), int), np.cumsum(steps, axis=0)])
    return positions - positions.min(axis=0)


def _raw(seed: int, number: int, count: int, stream: int) -> np.ndarray:
    """``count`` random 64-bit words for this (seed, number): counter-based, so that any sample costs the same.

    The generator's raw words are used, since numpy may change how its distributions consume them.
    """
    return np.random.Philox(key=[seed, number], counter=[0, 0, 0, stream]).random_raw(count)


def _uniform(seed: int, number: int, count: int) -> np.ndarray:
    return (_raw(seed, number, count, SAMPLE_STREAM) >> np.uint64(11)) * 2.0**-53


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, number: int, length: int) -> np.ndarray:
    return np.argsort(_raw(seed, number, length, PERMUTATION_STREAM), kind="stable")
