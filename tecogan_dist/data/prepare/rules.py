"""What a source's settings mean for a video: whether it can be used, where it is cut, what is encoded how."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tecogan_dist.base.errors import UserError
from tecogan_dist.data.clips import Encoding
from tecogan_dist.data.prepare.scene_plans import InputPlan, PlannedScene
from tecogan_dist.data.prepare.scenes import (
    DETECTED_MINIMUM,
    PREVIEW_SIDE,
    WHOLE_MINIMUM,
    find_shots,
    fixed_ranges,
    split,
    spread,
)
from tecogan_dist.data.prepare.sources import Source
from tecogan_dist.video.formats import READABLE_SUFFIXES
from tecogan_dist.video.numbering import check_pairing
from tecogan_dist.video.open import open_video
from tecogan_dist.video.source import FrameSource

SCALES = (4, 2)


def open_frames(path: Path, plan: InputPlan) -> tuple[FrameSource, FrameSource | None]:
    """The frames of a video or folder, and of its low-resolution partner. Raises :class:`UserError` for unfit sizes."""
    source, video = plan.source, open_video(path)
    if min(video.height, video.width) < max(source.minimum_size, source.downscale):
        limit = f"--minimum-size {source.minimum_size}"
        if source.downscale > source.minimum_size:
            limit = f"--downscale {source.downscale}"
        raise UserError(f"{path} is {video.width}x{video.height}, smaller than {limit}.")
    if plan.lr_path is None:
        return video, None
    low = open_video(plan.lr_path)
    if (video.height, video.width) not in [(low.height * scale, low.width * scale) for scale in SCALES]:
        raise UserError(
            f"{plan.lr_path} is {low.width}x{low.height} and {path} is {video.width}x{video.height}: the sides of a "
            f"pair must differ in size by a factor of {' or '.join(map(str, SCALES))}."
        )
    counts = low.count_frames(), video.count_frames()
    if counts[0] != counts[1]:
        raise UserError(
            f"{plan.lr_path} has {counts[0]} frames and {path} has {counts[1]}: the sides of a pair must have the same "
            "number."
        )
    pairing_of(video, low)
    return video, low


def pairing_of(video: FrameSource, low: FrameSource) -> str:
    """What is odd about the names of a pair's frames, if both are folders. Raises :class:`UserError` if they differ."""
    if video.names is None or low.names is None:
        return ""
    return check_pairing(video.names, low.names, our_path=video.path, their_path=low.path)


def cut_of(source: Source, video: FrameSource) -> str:
    """fixed, detected or whole, for a source without starts."""
    return source.cut or ("detected" if video.names is None else "whole")


def ranges_of(source: Source, video: FrameSource, previews: Iterable[np.ndarray] | None = None) -> list[range]:
    """The frames of each scene. ``previews``: those of the video, which are read from it if none are given."""
    start, end = source.start_frame, source.end_frame
    if cut_of(source, video) == "detected":
        previews = video.previews(PREVIEW_SIDE) if previews is None else previews
        shots = find_shots(itertools.islice(previews, end), start=start)
        return split(shots, length=source.scene_length, minimum=source.minimum_length or DETECTED_MINIMUM)
    length = source.scene_length if cut_of(source, video) == "fixed" else sys.maxsize
    minimum = source.minimum_length or WHOLE_MINIMUM
    return fixed_ranges(video.count_frames(), length=length, minimum=minimum, start=start, end=end)


def note_of(source: Source, video: FrameSource, ranges: Sequence[range]) -> str:
    """What of a video is in none of the scenes' ranges; "" if nothing is left over."""
    count = video.count_frames()
    available = min(count, count if source.end_frame is None else source.end_frame) - source.start_frame
    rest = available - sum(map(len, ranges))
    if available <= 0:
        return f"has no frames from {source.start_frame} on"
    if rest and cut_of(source, video) == "detected":
        return f"{rest} of {available} frames are in no scene: cuts, fades, or shots that are too short"
    if rest and not ranges:
        return f"has {available} frame{'s' if available > 1 else ''}: too few for a scene"
    return f"the last {rest} frames are less than a scene: dropped" if rest else ""


def planned_scenes(
    source: Source, number: int, videos: Sequence[tuple[str, FrameSource, list[range]]], *, most: int | None = None
) -> tuple[PlannedScene, ...]:
    """Scenes numbered from ``number`` on, of (name, frames, ranges of the scenes) of each of an input's videos.

    At most ``most``, evenly spread, if the source does not name a maximum itself.
    """
    scenes = []
    for name, video, ranges in videos:
        for frames in ranges:
            is_whole_file = source.encoding == "original" and _is_whole_file(source, video, frames)
            scene = PlannedScene(
                number=0,
                video=name,
                start=frames.start,
                frames=len(frames),
                encoding="original" if is_whole_file else encoding_of_cut(source),
                is_all=len(ranges) == 1 and cut_of(source, video) != "detected",
            )
            scenes.append(scene)
    limit = source.maximum_scenes or most
    chosen = scenes if limit is None else spread(scenes, limit)
    return tuple(dataclasses.replace(scene, number=number + index) for index, scene in enumerate(chosen))


def encoding_of_cut(source: Source) -> Encoding:
    """The encoding of what is cut out of a file, and so cannot keep its bytes."""
    return "lossy" if source.encoding == "original" else source.encoding


def _is_whole_file(source: Source, video: FrameSource, frames: range) -> bool:
    is_file = video.names is None and video.path.suffix.lower() in READABLE_SUFFIXES
    return is_file and source.downscale == 1 and frames == range(video.count_frames())
