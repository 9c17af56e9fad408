"""The one way from a path to frames, be it a video file or a folder of images."""

from __future__ import annotations

import os
from pathlib import Path

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import check_name, check_regular
from tecogan_dist.video.formats import IMAGE_SUFFIXES
from tecogan_dist.video.images import ImageFolder
from tecogan_dist.video.reader import OnDamage, VideoFile
from tecogan_dist.video.source import FrameSource
from tecogan_dist.video.timeline import Timeline


def open_video(
    path: str | Path,
    *,
    threads: int = 0,
    allow_gaps: bool = False,
    deep: bool = False,
    timeline: Timeline | None = None,
    video_stream: int | None = None,
    on_damage: OnDamage = "stop",
    deinterlace: bool = False,
) -> FrameSource:
    """Open a video file, or a folder of PNG or JPG images in the order of the digits in their names.

    ``threads`` of the video decoder: 0 leaves the number to the decoder. ``allow_gaps`` takes images whose numbers do
    not follow each other (:class:`tecogan_dist.video.images.ImageFolder`). ``deep`` gives uint16 frames where there are
    more than 8 bits; the rest is for videos (:class:`tecogan_dist.video.reader.VideoFile`). Raises :class:`UserError`
    for what is missing, damaged or something else, and never waits for a FIFO or a device.
    """
    check_name(str(path))
    path = Path(path)
    if path.is_dir():
        return ImageFolder(path, allow_gaps=allow_gaps, deep=deep)
    if not os.path.lexists(path):
        raise UserError(f"{path} does not exist: give a video file or a folder of PNG or JPG images.")
    check_regular(path, what="video")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"{path} is a single image: give the folder that holds the images.")
    return VideoFile(
        path,
        threads=threads,
        timeline=timeline,
        video_stream=video_stream,
        deep=deep,
        on_damage=on_damage,
        deinterlace=deinterlace,
    )
