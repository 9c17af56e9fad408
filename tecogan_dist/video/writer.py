"""Frames into video files and folders of images; with :mod:`tecogan_dist.video.reader` all that knows codecs.

An output appears under its name only when it is complete: a failure leaves what was there before.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from PIL import Image

from tecogan_dist.base.atomic import replacing
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import NAME_BYTES, advice, check_name
from tecogan_dist.base.invariants import require
from tecogan_dist.video import deep_png
from tecogan_dist.video.colours import BT709, RGB_MATRIX, from_rgb, padded
from tecogan_dist.video.encoders import machine_options
from tecogan_dist.video.formats import (
    FOLDER_RATE,
    IMAGE_SUFFIXES,
    OTHER_IMAGE_SUFFIXES,
    READABLE_SUFFIXES,
    WRITABLE_SUFFIXES,
)
from tecogan_dist.video.opening import reason

MOST_CRF = 51
"""x264's coarsest; it takes larger numbers for this one."""


class FrameWriter:
    """Writes frames to a video file, or to a folder of PNG images where ``path`` has no video suffix.

    Use it as a context manager. Everything goes to a hidden neighbour of ``path``
    (:func:`tecogan_dist.base.atomic.replacing`), whose fixed name lets the next attempt remove what a killed process
    left. An existing video is replaced; an existing folder must be empty, since frames of two runs mixed in one folder
    would look like one result.

    ``rate`` is frames a second. ``pix_fmt`` is for H.264 with BT.709 colours; with subsampled chroma (yuv420p) an odd
    height or width is made even by repeating the last row or column. ``crf`` is x264's quality, from 0, lossless, to
    51. "rgb24" with a ``crf`` of 0 gives back every bit, since no colours are converted; few players show it.
    ``preset`` and ``tune`` are x264's; ``keyframe_interval`` is in frames.

    Raises :class:`UserError` if the output cannot be made there, or if the disk fills up in the middle. That nobody
    else writes to ``path`` meanwhile is the caller's to see to (:func:`tecogan_dist.base.lock.output_lock`).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        rate: Fraction = FOLDER_RATE,
        pix_fmt: str = "yuv420p",
        crf: int = 16,
        preset: str = "medium",
        tune: str | None = None,
        keyframe_interval: int = 250,
        has_rivals: bool = False,
    ) -> None:
        """``has_rivals``: somebody else may write the same output at the same time, on another machine, say; each then
        works under a hidden name of its own, which is left over where it is killed.
        """
        self.path = Path(path)
        check_name(str(path))
        if self.path.name in ("", ".."):
            raise UserError(f"{path} is not the name of an output: name a video file, or a folder to make.")
        self.count = 0
        self._rate, self._pix_fmt = rate, pix_fmt
        self._options = {"crf": str(crf), "preset": preset, "g": str(keyframe_interval)}
        if tune is not None:
            self._options["tune"] = tune
        self._is_video = self.path.suffix.lower() in WRITABLE_SUFFIXES
        own = f".{uuid.uuid4().hex[:8]}" if has_rivals else ""
        ending = f"{own}.partial{self.path.suffix}"
        stem = os.fsencode(self.path.stem)[: NAME_BYTES - 1 - len(os.fsencode(ending))].decode("utf-8", "ignore")
        self._partial = self.path.with_name(f".{stem}{ending}")
        self._stack = ExitStack()
        self._shape: tuple[int, ...] = ()
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> Self:
        with self._reported(), ExitStack() as stack:
            self._check()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(replacing(self.path, partial=self._partial))
            if self._is_video:
                self._container = av.open(str(self._partial.absolute()), "w")
            else:
                self._partial.mkdir()
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def _check(self) -> None:
        """Raise :class:`UserError` for what could not take the output's name in the end, or would lose something."""
        path, is_folder = self.path, self.path.is_dir()
        if not self._is_video and path.suffix.lower() in (*IMAGE_SUFFIXES, *OTHER_IMAGE_SUFFIXES, *READABLE_SUFFIXES):
            raise UserError(
                f"{path} cannot be written: use {', '.join(WRITABLE_SUFFIXES)}, or a folder's name for PNG images."
            )
        if self._is_video and is_folder:
            raise UserError(f"{path} is a folder: give the name of a video file.")
        if not self._is_video and path.is_file():
            raise UserError(f"{path} is a file: give a folder's name, or a video file's with its suffix.")
        if path.exists() and not is_folder and not path.is_file():
            raise UserError(f"{path} is neither a file nor a folder: give the name of one.")
        if path.is_file() and not os.access(path, os.W_OK):
            raise UserError(f"{path} is protected from writing: change its permissions, or name another output.")
        if is_folder and any(path.iterdir()):
            raise UserError(f"{path} is not empty: give a new or an empty folder for the images.")
        if is_folder and (path.is_symlink() or path.is_mount()):  # the images' folder could not take its name
            raise UserError(f"{path} is a link or a disk of its own: give the name of a new folder in it.")
        if self._partial.is_dir() and any(entry.suffix != ".png" for entry in self._partial.iterdir()):
            raise UserError(f"{self._partial} is in the way and holds more than images: move it away.")

    def write(self, frame: np.ndarray, name: str | None = None) -> None:
        """Append a (height, width, 3) uint8 RGB frame, to a folder also uint16; all must be of one size.

        ``name`` is the image's name without suffix in a folder (default ``frame_0000``); a video has no use for it.
        """
        is_image = frame.dtype == np.uint8 or (frame.dtype == np.uint16 and not self._is_video)
        require(is_image and frame.ndim == 3 and frame.shape[2] == 3, "frames are RGB in uint8")
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise UserError(
                f"{self.path} cannot be written: a frame of {frame.shape[1]}x{frame.shape[0]} comes after frames of "
                f"{self._shape[1]}x{self._shape[0]}; give an input with frames of one size."
            )
        with self._reported():
            if self._is_video:
                self._encode(frame)
            else:
                target = self._partial / f"{name or f'frame_{self.count:04d}'}.png"
                if target.exists():
                    raise UserError(f"two frames would be named {target.name} in {self.path}: rename one of them.")
                if frame.dtype == np.uint16:
                    target.write_bytes(deep_png.encode(frame))
                else:
                    Image.fromarray(frame).save(target, compress_level=3)
        self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._reported():
            self._stack.__exit__(kind, error, trace)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        """Complete a video; after a failure only close it."""
        try:
            if kind is None:
                if not self.count:
                    raise UserError(f"{self.path} is not written: its input has no frame.")
                if self._is_video:
                    self._container.mux(self._stream.encode())
                    self._container.close()
        finally:
            if self._container is not None:
                with suppress(av.FFmpegError):  # the first error is the one to show
                    self._container.close()

    def _encode(self, frame: np.ndarray) -> None:
        frame = padded(frame, self._pix_fmt)
        is_rgb = self._pix_fmt == "rgb24"
        if self._stream is None:
            codec = "libx264rgb" if is_rgb else "libx264"
            self._options |= machine_options(codec)
            self._stream = self._container.add_stream(codec, rate=self._rate, options=self._options)
            self._stream.height, self._stream.width, _ = frame.shape
            self._stream.pix_fmt = self._pix_fmt
            context = self._stream.codec_context
            if not is_rgb:
                context.colorspace, context.color_range = BT709, ColorRange.MPEG
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        matrix = RGB_MATRIX if is_rgb else BT709
        picture = from_rgb(frame, pix_fmt=self._pix_fmt, matrix=matrix, full_range=False)
        picture.pts, picture.time_base = self.count, 1 / self._rate
        self._container.mux(self._stream.encode(picture))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            what = advice(error) if isinstance(error, OSError) else "check the disk's space and permissions"
            raise UserError(f"{self.path} cannot be written ({reason(error)}): {what}.") from error
