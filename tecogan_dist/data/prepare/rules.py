"""FIXME docstring"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tecogan_dist.base.errors import UserError
from tecogan_dist.data.clips import Encoding
from tecogan_dist.data.prepare.jobs import Job, Piece
from tecogan_dist.data.prepare.scenes import (
    DETECTED_MINIMUM,
    PREVIEW_SIDE,
    WHOLE_MINIMUM,
    Span,
    find_shots,
    fixed_spans,
    split,
    spread,
)
from tecogan_dist.data.prepare.sources import Source
from tecogan_dist.video.open import open_video
from tecogan_dist.video.source import FrameSource
from tecogan_dist.video.writer import READABLE_SUFFIXES

SCALES = (4, 2)


def open_part(path: Path, job: Job) -> tuple[FrameSource, FrameSource | None]:
    """The frames of a video or folder, and of its low-resolution partner. Raises :class:`UserError` for unfit sizes."""
    source, video = job.source, open_video(path)
    if min(video.height, video.width) < max(source.minimum_size, source.downscale):
        limit = f"--minimum-size {source.minimum_size}"
        if source.downscale > source.minimum_size:
            limit = f"--downscale {source.downscale}"
        raise UserError(f"{path} is {video.width}x{video.height}, smaller than {limit}.")
    if job.lr_place is None:
        return video, None
    low = open_video(job.lr_place)
    if (video.height, video.width) not in [(low.height * scale, low.width * scale) for scale in SCALES]:
        raise UserError(
            f"{job.lr_place} is {low.width}x{low.height} and {path} is {video.width}x{video.height}: own pairs must "
            f"differ in size by {' or '.join(map(str, SCALES))}."
        )
    counts = low.count_frames(), video.count_frames()
    if counts[0] != counts[1]:
        raise UserError(f"{job.lr_place} has {counts[0]} frames and {path} has {counts[1]}: own pairs need as many.")
    return video, low


def cut_of(source: Source, video: FrameSource) -> str:
    """fixed, detected or whole, for a source without starts."""
    return source.cut or ("detected" if video.names is None else "whole")


def spans_of(source: Source, video: FrameSource, previews: Iterable[np.ndarray] | None = None) -> list[Span]:
    """The frames of each scene. ``previews``: those of the video, which reads them if none are given."""
    start, end = source.start_frame, source.end_frame
    if cut_of(source, video) == "detected":
        previews = video.previews(PREVIEW_SIDE) if previews is None else previews
        shots = find_shots(itertools.islice(previews, end), start=start)
        return split(shots, length=source.scene_length, minimum=source.minimum_length or DETECTED_MINIMUM)
    length = source.scene_length if cut_of(source, video) == "fixed" else sys.maxsize
    minimum = source.minimum_length or WHOLE_MINIMUM
    return fixed_spans(video.count_frames(), length=length, minimum=minimum, start=start, end=end)


def note_of(source: Source, video: FrameSource, spans: Sequence[Span]) -> str:
    """What of a video is in no span."""
    count = video.count_frames()
    available = min(count, count if source.end_frame is None else source.end_frame) - source.start_frame
    rest = available - sum(span.frames for span in spans)
    if available <= 0:
        return f"has no frames from {source.start_frame} on"
    if rest and cut_of(source, video) == "detected":
        return f"{rest} of {available} frames are in no scene: cuts, fades, or shots that are too short"
    if rest and not spans:
        return f"has {available} frame{'s' if available > 1 else ''}: too few for a scene"
    return f"the last {rest} frames are less than a scene: dropped" if rest else ""


def pieces_of(
    source: Source, number: int, parts: Sequence[tuple[str, FrameSource, list[Span]]], *, most: int | None = None
) -> tuple[Piece, ...]:
    """Scenes from ``number`` on of the parts' spans, at most ``most`` if the source names no maximum itself."""
    pieces = []
    for name, video, spans in parts:
        for span in spans:
            is_all = len(spans) == 1 and cut_of(source, video) != "detected"
            encoding = _encoding_of_a_part(source)
            if source.encoding == "original" and _is_whole_file(source, video, span):
                encoding = "original"
            pieces.append(
                Piece(number=0, part=name, start=span.start, frames=span.frames, encoding=encoding, is_all=is_all)
            )
    limit = source.maximum_scenes or most
    chosen = pieces if limit is None else spread(pieces, limit)
    return tuple(dataclasses.replace(piece, number=number + index) for index, piece in enumerate(chosen))


def _encoding_of_a_part(source: Source) -> Encoding:
    """Of what is only a part of a file, which cannot keep its bytes."""
    return "lossy" if source.encoding == "original" else source.encoding


def _is_whole_file(source: Source, video: FrameSource, span: Span) -> bool:
    is_file = video.names is None and video.path.suffix.lower() in READABLE_SUFFIXES
    return is_file and source.downscale == 1 and (span.start, span.stop) == (0, video.count_frames())
