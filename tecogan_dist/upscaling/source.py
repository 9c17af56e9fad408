"""The input of a job: how it is opened, what is in it, and whether it stays what it was."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tecogan_dist.base.atomic import reported_local
from tecogan_dist.base.errors import UserError
from tecogan_dist.data.prepare.contents import quick_content
from tecogan_dist.data.prepare.scenes import PREVIEW_SIDE, find_shots
from tecogan_dist.upscaling.plan import scenes_of
from tecogan_dist.video.images import image_files
from tecogan_dist.video.open import open_video
from tecogan_dist.video.properties import Properties, check_upscalable, interlaced_refusal, of_images, read_properties
from tecogan_dist.video.reader import OnDamage, VideoFile
from tecogan_dist.video.source import FrameSource

FEW = 0.02
"""Of a film's frames: so many may be marked as interlaced, as encoders mark a frame or two of progressive films."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """An input, and how it is to be read: all that :meth:`open` needs, also in another process."""

    path: Path
    allow_gaps: bool = False
    deep: bool = False
    """uint16 frames where the input has more than 8 bits."""
    video_stream: int | None = None
    on_damage: OnDamage = "stop"
    deinterlace: bool = False

    def plain(self) -> dict[str, Any]:
        """By the options' names: what changes frames."""
        return {
            "--allow-gaps": self.allow_gaps,
            "--video-stream": self.video_stream,
            "--on-damage": self.on_damage,
            "--deinterlace": self.deinterlace,
        }

    def open(self) -> FrameSource:
        """With the video's timeline read, so that any of its frames are found without decoding all before them.

        Raises :class:`UserError` as :func:`tecogan_dist.video.open.open_video`.
        """
        source = open_video(
            self.path,
            allow_gaps=self.allow_gaps,
            deep=self.deep,
            video_stream=self.video_stream,
            on_damage=self.on_damage,
            deinterlace=self.deinterlace,
        )
        if isinstance(source, VideoFile):
            source.timeline()
        return source

    def properties(self) -> tuple[Properties, list[str]]:
        """What the input is beside its frames, and sentences on what no output can keep of it.

        Raises :class:`UserError` for what must not be upscaled: interlaced video, say. High dynamic range is refused
        when it is opened, unless ``deep``.
        """
        if self.path.is_dir():
            source = open_video(self.path, allow_gaps=self.allow_gaps, deep=True)
            bits = 16 if source.dtype == np.uint16 else 8
            return of_images(source.width, source.height, rate=source.rate, bit_depth=bits), []
        film = open_video(self.path, video_stream=self.video_stream, deep=True, on_damage=self.on_damage)
        properties = read_properties(self.path, video_stream=self.video_stream)
        sentences = check_upscalable(properties, self.path, deinterlace=self.deinterlace, deep=True)
        if self.on_damage == "repeat" and isinstance(film, VideoFile) and film.is_cut_off():
            sentences.append(f"{self.path} is cut off: the result ends where it does.")
        return properties, sentences


def content_of(path: Path) -> str:
    """A checksum of what is known at a glance: names, sizes, times and both ends of each file."""
    return quick_content(path)


def stamp(path: Path) -> str:
    """A checksum of names, sizes and times alone, of a video or a folder's images. Raises :class:`UserError`."""
    digest = hashlib.sha256()
    try:
        with reported_local(path, "read"):
            for file in image_files(path) if path.is_dir() else [path]:
                status = os.stat(file)
                digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there any more: start again when nothing changes it.") from error
    return digest.hexdigest()


def check_unchanged(path: Path, before: str) -> None:
    """Raise :class:`UserError` unless ``path`` still has the ``stamp`` that it had."""
    if stamp(path) != before:
        raise UserError(
            f"{path} changed while it was read, so that its frames would be of two versions: start again, with "
            "--restart, when nothing writes to it."
        )


def look_through(
    source: FrameSource,
    *,
    start: int,
    stop: int | None,
    cut: bool,
    advance: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda _: None,
) -> list[range]:
    """Decode the frames ``start`` to ``stop`` (None: all) once, small, and return their scenes, without gaps.

    That is where damage is found before hours are spent, and how many frames there really are. Without ``cut`` all are
    one scene. Memory does not grow with the length, but for the cuts. ``note`` gets a sentence for the user. Raises
    :class:`UserError` for damage, for a film that becomes interlaced and is not deinterlaced, and for a range without
    frames.
    """
    count = interlaced = first_interlaced = 0

    def previews() -> Iterator[np.ndarray]:
        nonlocal count, interlaced, first_interlaced
        for preview in itertools.islice(source.previews(PREVIEW_SIDE), start, stop):
            if source.is_of_fields:
                first_interlaced = first_interlaced if interlaced else start + count
                interlaced += 1
            count += 1
            advance()
            yield preview

    shots: list[range] = []
    if cut:
        shots = [range(shot.start + start, shot.stop + start) for shot in find_shots(previews())]
    else:
        for _ in previews():
            pass
    if not count:
        raise UserError(f"{source.path} has no frame {start}: --start-frame must be below its number of frames.")
    if interlaced > FEW * count:
        raise interlaced_refusal(source.path, first_interlaced)
    if interlaced:
        note(
            f"{source.path}: {interlaced} of {count} frames, the first of them number {first_interlaced}, are marked "
            "as interlaced, and are upscaled as they are; if they show combs, begin anew with --deinterlace."
        )
    return scenes_of(shots, start=start, stop=start + count)
