"""Parts of a video, each a whole file: made anywhere, in any order, and joined by their packets afterwards."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.video.reformatter import ColorRange

from tecogan_dist.base.atomic import replacing
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import advice
from tecogan_dist.base.invariants import require
from tecogan_dist.video.codecs import Encoding
from tecogan_dist.video.colours import from_rgb, padded
from tecogan_dist.video.encoders import machine_options
from tecogan_dist.video.opening import reason

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".nut": "nut"}
DEEPEST = 32
"""Places that a packet is decoded before its frame is shown, more than any codec has (H.264 and HEVC 16)."""
NARROW = 64
"""Pixels: below some 50 of width, x265 writes beside its memory when it measures blocks for adaptive quantisation.

Seen with the x265 of PyAV 18.1 at widths of up to 48 and any height, with and without threads, and not without that.
"""
os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints its settings to the terminal otherwise; 1: errors


class SegmentWriter:
    """Writes frames to one segment, which appears under its name when it is complete.

    Use it as a context manager. Frames are RGB, uint8 or uint16, all of one size; their times are their numbers, and
    come from the source when segments are joined. The same frames with the same encoding give the same bytes. With
    shared chroma an odd height or width is made even by repeating the last row or column. Raises :class:`UserError` if
    the file cannot be written.
    """

    def __init__(self, path: Path, *, encoding: Encoding) -> None:
        require(path.suffix == encoding.suffix, "a segment's file is named for its encoding")
        self.path, self.count, self._muxed = path, 0, 0
        self._encoding = encoding
        self._stack = ExitStack()
        self._shape: tuple[int, ...] = ()
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> Self:
        with self._reported(), ExitStack() as stack:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Each writer's own: a worker that was given up may still write the same segment on another machine.
            partial = self.path.with_name(f".{self.path.stem}.{uuid.uuid4().hex[:8]}.partial{self.path.suffix}")
            stack.enter_context(replacing(self.path, partial=partial))
            self._container = open_output(partial, FORMATS[self._encoding.suffix])
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def write(self, frame: np.ndarray, name: str | None = None) -> None:  # noqa: ARG002 - as FrameWriter's
        """Append a (height, width, 3) RGB frame; ``name`` is for folders of images and of no use here."""
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise UserError(
                f"{self.path} cannot be written: a frame of {frame.shape[1]}x{frame.shape[0]} comes after frames of "
                f"{self._shape[1]}x{self._shape[0]}; give an input with frames of one size."
            )
        encoding = self._encoding
        with self._reported():
            frame = padded(frame, encoding.pix_fmt)
            if self._stream is None:
                self._stream = _add_stream(self._container, encoding, *frame.shape[:2])
            picture = from_rgb(
                frame,
                pix_fmt=encoding.pix_fmt,
                matrix=encoding.matrix,
                full_range=encoding.full_range,
                chroma=encoding.chroma,
            )
            tag(picture, encoding)
            picture.pts, picture.time_base = self.count, 1 / Fraction(*encoding.rate)
            self._mux(self._stream.encode(picture))
        self.count += 1

    def _mux(self, packets: Sequence[Any]) -> None:
        """Decoding times are made here, and anew when segments are joined: x265's of one or two frames are random."""
        for packet in packets:
            if self._encoding.suffix in (".mp4", ".mov"):
                packet.dts = self._muxed - DEEPEST
            self._muxed += 1
            self._container.mux(packet)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._reported():
            self._stack.__exit__(kind, error, trace)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                if not self.count:
                    raise UserError(f"{self.path} is not written: its input has no frame.")
                self._mux(self._stream.encode())
                self._container.close()
        finally:
            with suppress(av.FFmpegError):  # the first error is the one to show
                self._container.close()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            what = advice(error) if isinstance(error, OSError) else "check the disk's space and permissions"
            raise UserError(f"{self.path} cannot be written ({reason(error)}): {what}.") from error


def open_output(path: Path, name: str, **options: str) -> Any:
    """A container to write, whose bytes depend on what is written and on nothing else (no date, no random number)."""
    return av.open(os.fspath(path.absolute()), "w", format=name, container_options={"fflags": "+bitexact", **options})


def tag(target: Any, encoding: Encoding) -> None:
    """Say of a picture or a codec context how its pixels are to be taken."""
    target.colorspace, target.color_primaries = encoding.matrix, encoding.primaries
    target.color_trc = encoding.transfer
    target.color_range = ColorRange.JPEG if encoding.full_range else ColorRange.MPEG


def encoder_options(encoding: Encoding) -> dict[str, str]:
    """Those of the encoding, and what this machine needs to give the same as others."""
    options = dict(encoding.options)
    for key, value in machine_options(encoding.encoder).items():
        options[key] = f"{options[key]}:{value}" if key in options else value
    return options


def _add_stream(container: Any, encoding: Encoding, height: int, width: int) -> Any:
    rate = Fraction(*encoding.rate)
    options = encoder_options(encoding)
    if encoding.encoder == "libx265" and width < NARROW:
        options["x265-params"] = f"{options['x265-params']}:aq-mode=0:cutree=0"
    stream = container.add_stream(encoding.encoder, rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, encoding.pix_fmt
    context = stream.codec_context
    context.time_base, context.framerate = 1 / rate, rate
    context.sample_aspect_ratio = Fraction(*encoding.sample_aspect)
    context.flags |= av.codec.context.Flags.bitexact
    if encoding.suffix == ".nut":
        context.flags &= ~av.codec.context.Flags.global_header  # as an avi has it: with the pictures
    threads = dict(encoding.options).get("threads")
    if threads is not None:
        context.thread_count = int(threads)
    tag(context, encoding)
    return stream
