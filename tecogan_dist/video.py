"""Frames in and out of video files and image folders. The only module that knows about codecs.

A frame is a (height, width, 3) uint8 RGB array. Reading is lazy and in order, so a film never has to fit in memory.
Both kinds of output appear under their name only when they are complete: a failure leaves what was there before.
"""

from __future__ import annotations

import itertools
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from PIL import Image

from tecogan_dist.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
READABLE_SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
WRITABLE_SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v", ".avi")
FOLDER_RATE = Fraction(24)
AVCOL_SPC_BT709, AVCOL_SPC_UNSPECIFIED = 1, 2
# Rounding that does not depend on the processor's vector units, so that machines of one cluster agree on every pixel.
EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


class FrameSource(ABC):
    """Frames that can be read in order, any number of times.

    ``rate`` is frames a second. ``count`` is what the container says, None where it says nothing. ``names`` are the
    file names without suffix of an image folder, None for a video.
    """

    path: Path
    height: int
    width: int
    rate: Fraction
    count: int | None
    names: tuple[str, ...] | None = None

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Frames ``start`` to ``stop`` (exclusive; None: to the end). Reading to the end verifies a video's length."""
        return self.frames_at(itertools.count(start) if stop is None else range(start, stop))

    @abstractmethod
    def frames_at(self, positions: Iterable[int]) -> Iterator[np.ndarray]:
        """The frames at these increasing positions, each (height, width, 3) uint8 RGB; ends early where the file ends.

        Frames between them are decoded but not converted. Raises :class:`UserError`, which names the file, for data
        that cannot be decoded, for a file that ends before what it promises and for frames that change their size.
        """


def open_video(path: str | Path, *, threads: int = 0) -> FrameSource:
    """Open a video file, or a folder of PNG or JPG images in the order of the digits in their names.

    ``threads`` of the video decoder: 0 leaves the number to the decoder. Raises :class:`UserError`.
    """
    path = Path(path)
    if path.is_dir():
        return ImageFolder(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: give a video file or a folder of PNG or JPG images.")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"{path} is a single image: give the folder that holds the images.")
    return VideoFile(path, threads=threads)


def image_files(folder: Path) -> list[Path]:
    """The PNG and JPG files of a folder, sorted by all digits of their names read as one number, then by name."""
    images = (entry for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES and entry.name[0] != ".")
    return sorted(images, key=lambda image: (int("".join(filter(str.isdecimal, image.stem)) or -1), image.name))


class ImageFolder(FrameSource):
    """A folder of images of one size."""

    def __init__(self, path: Path) -> None:
        self._files = image_files(path)
        if not self._files:
            raise UserError(f"{path} holds no PNG or JPG images.")
        self.path, self.rate, self.count = path, FOLDER_RATE, len(self._files)
        self.names = tuple(image.stem for image in self._files)
        sizes = [_image_size(image) for image in self._files]
        self.width, self.height = sizes[0]
        for image, size in zip(self._files, sizes, strict=True):
            if size != sizes[0]:
                raise UserError(
                    f"{image} is {size[0]}x{size[1]} and {self._files[0].name} is {self.width}x{self.height}: "
                    "all images of a folder must have one size."
                )

    def frames_at(self, positions: Iterable[int]) -> Iterator[np.ndarray]:
        for position in positions:
            if position >= len(self._files):
                return
            image = self._files[position]
            frame = read_image(image)
            if frame.shape != (self.height, self.width, 3):
                raise UserError(f"{image} changed its size while it was read.")
            yield frame


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}).") from error


def read_image(path: Path) -> np.ndarray:
    """One image as (height, width, 3) uint8 RGB.

    Grey becomes three equal channels, 16 bits are rounded to 8, an alpha channel is dropped if everything is opaque.
    Raises :class:`UserError` for transparency, for other pixel formats, and for a file that cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("I;16", "I;16L", "I;16B"):
                grey = ((np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
                raise UserError(f"{path} has pixels of type {image.mode!r}: save it as 8-bit RGB.")
            if "A" in image.getbands() or "transparency" in image.info:
                alpha = np.asarray(image.convert("RGBA"))[:, :, 3]
                if alpha.min() != 255:
                    raise UserError(f"{path} has transparent pixels: save it as RGB without transparency.")
            return np.asarray(image.convert("RGB"))
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}).") from error


class VideoFile(FrameSource):
    """A video file. A picture that the file asks to be shown rotated is rotated."""

    def __init__(self, path: Path, *, threads: int) -> None:
        self.path, self._threads = path, threads
        self.height = self.width = 0
        with ExitStack() as stack:
            container = self._open(stack)
            stream = container.streams.video[0]
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or FOLDER_RATE)
            self.count = stream.frames or None
            first = next(self._decode(container, check_end=False), None)
            if first is None:
                raise UserError(f"{path} holds no frames.")
            self.height, self.width, _ = _to_rgb(first).shape

    def frames_at(self, positions: Iterable[int]) -> Iterator[np.ndarray]:
        remaining = iter(positions)
        position = next(remaining, None)
        with ExitStack() as stack:
            container = self._open(stack)
            for index, decoded in enumerate(self._decode(container, check_end=True)):
                if position is None:
                    return
                if index == position:
                    frame = _to_rgb(decoded)
                    if frame.shape != (self.height, self.width, 3):
                        raise UserError(f"{self.path} changes its size at frame {index}: cut it there.")
                    yield frame
                    position = next(remaining, None)

    def _open(self, stack: ExitStack) -> Any:
        try:
            container = stack.enter_context(av.open(str(self.path), options={"err_detect": "explode"}))
        except (av.FFmpegError, OSError) as error:
            raise UserError(f"{self.path} cannot be read as a video ({_reason(error)}).") from error
        if not container.streams.video:
            raise UserError(f"{self.path} holds no video stream.")
        context = container.streams.video[0].codec_context
        context.thread_type = "NONE" if self._threads == 1 else "AUTO"
        context.thread_count = self._threads
        return container

    def _decode(self, container: Any, *, check_end: bool) -> Iterator[Any]:
        """Decoded frames in order of display; verifies every packet and, at the end, the promised duration."""
        stream = container.streams.video[0]
        end = 0  # of the last packet, in units of stream.time_base
        index = 0
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise UserError(f"{self.path} is damaged or cut off after frame {index}.")
                if packet.pts is not None:
                    end = max(end, packet.pts + (packet.duration or 0))
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise UserError(f"{self.path} is damaged at frame {index}.")
                    yield frame
                    index += 1
        except (av.FFmpegError, OSError) as error:
            raise UserError(f"{self.path} is damaged at frame {index} ({_reason(error)}).") from error
        promised = _promised_end(container, stream)
        # Two frames of tolerance: containers round durations, and the last packet's may be unknown.
        if check_end and promised is not None and end * stream.time_base < promised - 2 / self.rate:
            raise UserError(
                f"{self.path} is cut off: it ends after {index} frames, {float(end * stream.time_base):.2f} "
                f"of {float(promised):.2f} seconds."
            )


def _promised_end(container: Any, stream: Any) -> Fraction | None:
    """When the container says that the video stream ends, in seconds of its clock; None where it says nothing.

    Matroska gives no duration of a stream but in a tag; its overall duration counts only if nothing else is inside.
    """
    if stream.duration:
        return ((stream.start_time or 0) + stream.duration) * stream.time_base
    start = (stream.start_time or 0) * stream.time_base
    tag = stream.metadata.get("DURATION", "").split(":")
    if len(tag) == 3:
        return Fraction(int(tag[0]) * 3600 + int(tag[1]) * 60) + Fraction(tag[2][:9])
    if container.duration and len(container.streams) == 1:
        return start + Fraction(container.duration, av.time_base)
    return None


def _to_rgb(frame: Any) -> np.ndarray:
    """RGB by the frame's own colour matrix; untagged HD is BT.709 and untagged SD BT.601, as players assume."""
    hd_without_tag = frame.colorspace == AVCOL_SPC_UNSPECIFIED and frame.height >= 720
    matrix = Colorspace.ITU709 if hd_without_tag else None
    rgb = frame.to_ndarray(format="rgb24", src_colorspace=matrix, interpolation=EXACT)
    # The display matrix's angle is counter-clockwise, as is numpy's.
    return np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90)) if frame.rotation % 360 else rgb


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class FrameWriter:
    """Writes frames to a video file, or to a folder of PNG images where ``path`` has no video suffix.

    Use it as a context manager. Everything goes to a hidden neighbour of ``path``, which is renamed when the block ends
    and removed when it fails; so an existing video is replaced only by a complete one. An existing folder must be
    empty, since frames of two runs mixed in one folder would look like one result.

    ``pix_fmt`` is for H.264 with BT.709 colours; with subsampled chroma (yuv420p) an odd height or width is made even
    by repeating the last row or column. ``crf`` is x264's quality, 0 lossless to 51. ``keyframe_interval`` in frames.
    Raises :class:`UserError` if the output cannot be made there.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        rate: Fraction = FOLDER_RATE,
        pix_fmt: str = "yuv420p",
        crf: int = 16,
        preset: str = "medium",
        keyframe_interval: int = 250,
    ) -> None:
        self.path = Path(path)
        self.count = 0
        self._rate, self._pix_fmt = rate, pix_fmt
        self._options = {"crf": str(crf), "preset": preset, "g": str(keyframe_interval)}
        self._is_video = self.path.suffix.lower() in WRITABLE_SUFFIXES
        self._partial = self.path.with_name(f".{self.path.stem}.partial{self.path.suffix}")
        self._shape: tuple[int, ...] = ()
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> Self:
        if not self._is_video and self.path.suffix.lower() in (*IMAGE_SUFFIXES, *READABLE_SUFFIXES, ".gif"):
            raise UserError(
                f"{self.path} cannot be written: use {', '.join(WRITABLE_SUFFIXES)}, or a folder's name for PNG images."
            )
        if self._is_video and self.path.is_dir():
            raise UserError(f"{self.path} is a folder: give the name of a video file.")
        if not self._is_video and self.path.is_file():
            raise UserError(f"{self.path} is a file: give a folder's name, or a video file's with its suffix.")
        if not self._is_video and self.path.is_dir() and any(self.path.iterdir()):
            raise UserError(f"{self.path} is not empty: give a new or an empty folder for the images.")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_partial()
            if self._is_video:
                self._container = av.open(str(self._partial), "w")
            else:
                self._partial.mkdir()
        except (av.FFmpegError, OSError) as error:
            raise UserError(f"{self.path} cannot be written ({_reason(error)}).") from error
        return self

    def write(self, frame: np.ndarray, name: str | None = None) -> None:
        """Append a (height, width, 3) uint8 RGB frame; all must have one size.

        ``name`` is the image's name without suffix in a folder (default ``frame_0000``); a video has no use for it.
        """
        assert frame.dtype == np.uint8, frame.dtype
        assert frame.ndim == 3, frame.shape
        assert frame.shape[2] == 3, frame.shape
        self._shape = self._shape or frame.shape
        assert frame.shape == self._shape, f"frame of {frame.shape} after frames of {self._shape}"
        if self._is_video:
            self._encode(frame)
        else:
            target = self._partial / f"{name or f'frame_{self.count:04d}'}.png"
            assert not target.exists(), f"two frames are named {target.name}"
            Image.fromarray(frame).save(target, compress_level=3)
        self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                assert self.count, "no frame was written"
                if self._is_video:
                    self._container.mux(self._stream.encode())
                    self._container.close()
                os.replace(self._partial, self.path)
        finally:
            if self._container is not None:
                with suppress(av.FFmpegError):  # the first error is the one to show
                    self._container.close()
            self._remove_partial()

    def _encode(self, frame: np.ndarray) -> None:
        if self._pix_fmt == "yuv420p":
            height, width, _ = frame.shape
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._rate, options=self._options)
            self._stream.height, self._stream.width, _ = frame.shape
            self._stream.pix_fmt = self._pix_fmt
            context = self._stream.codec_context
            context.colorspace, context.color_range = AVCOL_SPC_BT709, ColorRange.MPEG
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
            format=self._pix_fmt, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, interpolation=EXACT
        )
        picture.pts, picture.time_base = self.count, 1 / self._rate
        self._container.mux(self._stream.encode(picture))

    def _remove_partial(self) -> None:
        if self._partial.is_dir():
            shutil.rmtree(self._partial)
        else:
            self._partial.unlink(missing_ok=True)
