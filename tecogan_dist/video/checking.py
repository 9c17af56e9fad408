"""Whether files that were made are what they should be: all frames, all of them decodable, at the right times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tecogan_dist.base.errors import UserError
from tecogan_dist.video.codecs import Encoding
from tecogan_dist.video.open import open_video
from tecogan_dist.video.source import Damaged
from tecogan_dist.video.timeline import Timeline, read_timeline


def segment_frames(path: Path, encoding: Encoding) -> Iterator[np.ndarray]:
    """The frames of a segment as they were written, RGB in uint8 or uint16; raises :class:`Damaged`."""
    return open_video(path, deep=encoding.deep).frames()


def verify_segment(path: Path, encoding: Encoding, *, count: int, height: int, width: int) -> None:
    """Raise :class:`UserError` unless a segment decodes to ``count`` frames of this size (of even sides, if padded)."""
    found = 0
    for frame in segment_frames(path, encoding):
        if not (0 <= frame.shape[0] - height <= 1 and 0 <= frame.shape[1] - width <= 1):
            raise Damaged(f"{path} has frames of {frame.shape[1]}x{frame.shape[0]}, not {width}x{height}.")
        found += 1
    if found != count:
        raise Damaged(f"{path} has {found} frames and should have {count}.")


def verify_joined(path: Path, *, timeline: Timeline, start: int = 0, stop: int | None = None) -> None:
    """Raise :class:`UserError` unless a joined video has the frames ``start`` to ``stop``, shown when they should be.

    By its packets alone: each segment has been decoded before. Times are compared from the first frame on, to a tick of
    the coarser clock, since a container may have begun its own clock, and may round.
    """
    expected = timeline.part(start, len(timeline) if stop is None else stop)
    found = read_timeline(path)
    if len(found) != len(expected):
        raise UserError(f"{path} has {len(found)} frames and should have {len(expected)}: please report this.")
    tick = max(found.time_base, expected.time_base)
    if path.suffix.lower() == ".gif":
        return  # its clock is so coarse that frames may be moved by more than that
    ours, theirs = (_seconds(line) for line in (found, expected))
    late = float(np.abs(ours - theirs).max())
    tolerance = float(tick) * 1.01
    if path.suffix.lower() == ".avi":
        tolerance = max(tolerance, 1.01 * float(expected.time_base))
    if late > tolerance:
        raise UserError(f"{path} shows frames up to {1000 * late:.1f} ms off their times: please report this.")
    if abs(float(found.end - found.start) - float(expected.end - expected.start)) > tolerance + float(tick):
        raise UserError(f"{path} is {float(found.end - found.start):.3f} s long, not as its input: please report this.")


def _seconds(line: Timeline) -> np.ndarray:
    return (line.pts - line.pts[0]) * float(line.time_base)
