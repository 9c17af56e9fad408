"""Frames out of video files; with :mod:`tecogan_dist.video.writer` all that knows codecs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace, ColorTrc, Interpolation, VideoReformatter

from tecogan_dist.base.errors import UserError
from tecogan_dist.video.formats import FOLDER_RATE
from tecogan_dist.video.matroska import is_cut_off
from tecogan_dist.video.source import MOST_PIXELS, Damaged, FrameSource, Picture, check_pixels
from tecogan_dist.video.writer import EXACT, reason

AVCOL_SPC_UNSPECIFIED = 2
PREVIEW = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
MOST_FRAMES = 10**7
"""Four days of video; a promise of more is no reason to plan for them."""
RATES = (Fraction(1, 3600), Fraction(1000))
"""Frames a second that somebody may mean: from one an hour on."""
DURATION = re.compile(r"(\d{1,6}):(\d{1,2}):(\d{1,2}(?:\.\d{1,6})?)\d*")
HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
# What a file may be, by FFmpeg's names: none of the formats that name other files or addresses (playlists, lists of
# parts), so that a file of unknown origin cannot have others opened; for the same reason only the file protocol.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,mxf,nut,rm,wtv,dv,gif,ivf,obu,av1,"
    "h264,hevc,m4v,yuv4mpegpipe"
)
SECONDS = 60.0
"""For the next packet of a file, which takes milliseconds: FFmpeg searches gigabytes of rubbish, byte by byte."""
OPEN_OPTIONS: dict[str, Any] = {
    "options": {"err_detect": "explode"},
    "container_options": {"format_whitelist": FORMATS, "protocol_whitelist": "file"},
    "metadata_errors": "replace",
    "timeout": SECONDS,
}


class VideoFile(FrameSource):
    """A video file.

    A picture that the file asks to be shown rotated is rotated. Frames are taken as they are stored, each once, also
    where they are not shown for equally long (variable rate): ``rate`` is the average. High dynamic range is refused:
    its values mean nothing to a network that has learned from others, and there is more than one way to reduce it. Of
    several video streams it is the first that is not a cover picture; all other streams are left alone.
    """

    def __init__(self, path: Path, *, threads: int) -> None:
        self.path, self._threads = path, threads
        self.height = self.width = 0
        with ExitStack() as stack:
            container = self._open(stack)
            stream = _video_stream(container)
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or FOLDER_RATE)
            if not RATES[0] <= self.rate <= RATES[1]:
                raise UserError(
                    f"{path} has {float(self.rate):.6g} frames a second, which no video has: encode it again."
                )
            self.count = stream.frames or None
            first = next(self._decode(container, check_end=False), None)
            if first is None:
                raise UserError(f"{path} holds no frames: give another video.")
            if first.color_trc in HDR:
                raise UserError(
                    f"{path} is high dynamic range video ({HDR[first.color_trc]}): convert it to SDR (BT.709) first."
                )
            if first.rotation % 90:
                raise UserError(
                    f"{path} is to be shown turned by {first.rotation} degrees: encode it as it should look."
                )
            self.height, self.width, _ = self._rgb(first).shape

    def previews(self, side: int) -> Iterator[np.ndarray]:
        with ExitStack() as stack:
            size: tuple[int, int] | None = None
            for index, decoded in enumerate(self._decode(self._open(stack), check_end=True)):
                size = size or (decoded.height, decoded.width)
                if size != (decoded.height, decoded.width):
                    raise UserError(f"{self.path} changes its size at frame {index}: cut it there.")
                factor = max(1.0, max(size) / side)
                height, width = (max(1, round(pixels / factor)) for pixels in size)
                with self._converting():
                    preview = decoded.to_ndarray(format="rgb24", height=height, width=width, interpolation=PREVIEW)
                yield preview

    def count_frames(self) -> int:
        with ExitStack() as stack:
            container = self._open(stack)
            stream = _video_stream(container)
            if stream.frames and container.format.name.startswith("mov"):
                return self._possible(stream.frames)  # the length of the table that an mp4 is read by, not a statement
            count = end = 0
            with suppress(av.FFmpegError, OSError):
                for packet in container.demux(stream):
                    count += packet.size > 0
                    end = max(end, (packet.pts or 0) + (packet.duration or 0))
            promised = _promised_end(container, stream)
            if promised is not None and end * stream.time_base < promised - 2 / self.rate:
                start = (stream.start_time or 0) * stream.time_base
                count = max(count, round((promised - start) * self.rate))
            return self._possible(count)

    def _possible(self, count: int) -> int:
        if count > MOST_FRAMES:
            raise Damaged(f"{self.path} promises {count} frames, which no video has: it is damaged.")
        return count

    def frames_at(self, positions: Iterable[int]) -> Iterator[np.ndarray]:
        return map(self._rgb, self._decoded_at(positions))

    def pictures_at(self, positions: Iterable[int]) -> Iterator[Picture]:
        return (
            _Decoded(frame) if frame.format.name == "yuv444p" and not frame.rotation % 360 else self._rgb(frame)
            for frame in self._decoded_at(positions)
        )

    def _decoded_at(self, positions: Iterable[int]) -> Iterator[Any]:
        remaining = iter(positions)
        position = next(remaining, None)
        with ExitStack() as stack:
            container = self._open(stack)
            for index, decoded in enumerate(self._decode(container, check_end=True)):
                if position is None:
                    return
                if index == position:
                    if _shown_size(decoded) != (self.height, self.width):
                        raise UserError(f"{self.path} changes its size at frame {index}: cut it there.")
                    yield decoded
                    position = next(remaining, None)

    def _open(self, stack: ExitStack) -> Any:
        try:
            # An absolute path: of a relative one FFmpeg would take "concat:a.mp4" for a protocol.
            container = stack.enter_context(av.open(str(self.path.absolute()), **OPEN_OPTIONS))
        except (av.FFmpegError, OSError) as error:
            raise Damaged(
                f"{self.path} cannot be read as a video ({_reading_reason(error)}): give another file."
            ) from error
        stream = _video_stream(container)
        if stream is None:
            raise UserError(f"{self.path} holds no video stream: give another file.")
        context = stream.codec_context
        if context is None:
            raise UserError(f"{self.path} holds video of a kind that cannot be decoded here: encode it as H.264.")
        check_pixels(context.width, context.height, self.path)
        context.options = {"max_pixels": str(MOST_PIXELS)}  # the stream itself may say otherwise than the container
        context.thread_type = "NONE" if self._threads == 1 else "AUTO"
        context.thread_count = self._threads
        return container

    def _decode(self, container: Any, *, check_end: bool) -> Iterator[Any]:
        """Decoded frames in order of display; verifies every packet and, at the end, the promised duration."""
        stream = _video_stream(container)
        end = 0  # of the last packet, in units of stream.time_base
        index = 0
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise Damaged(f"{self.path} is damaged or cut off after frame {index}.")
                if packet.pts is not None:
                    end = max(end, packet.pts + (packet.duration or 0))
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise Damaged(f"{self.path} is damaged at frame {index}.")
                    yield frame
                    index += 1
        except (av.FFmpegError, OSError) as error:
            raise Damaged(f"{self.path} is damaged at frame {index} ({_reading_reason(error)}).") from error
        promised = _promised_end(container, stream)
        # Two frames of tolerance: containers round durations, and the last packet's may be unknown.
        if check_end and promised is not None and end * stream.time_base < promised - 2 / self.rate:
            raise Damaged(
                f"{self.path} is cut off: it ends after {index} frames, {float(end * stream.time_base):.2f} "
                f"of {float(promised):.2f} seconds."
            )
        if check_end and container.format.name.startswith("matroska") and is_cut_off(self.path):
            raise Damaged(f"{self.path} is cut off: it ends after {index} frames, in the middle of what it promises.")

    @contextmanager
    def _converting(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (av.FFmpegError, ValueError, OSError) as error:
            raise UserError(f"{self.path} has pixels that cannot be read as RGB ({reason(error)}).") from error

    def _rgb(self, frame: Any) -> np.ndarray:
        with self._converting():
            has_alpha = any(component.is_alpha for component in frame.format.components)
            if has_alpha and frame.to_ndarray(format="rgba", interpolation=EXACT)[:, :, 3].min() != 255:
                raise UserError(f"{self.path} has transparent pixels: encode it without transparency.")
            return _to_rgb(frame)


def _video_stream(container: Any) -> Any:
    """The first that is not a picture beside the film, as of a cover; None if there is none."""
    streams = (stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic)
    return next(streams, None)


def _promised_end(container: Any, stream: Any) -> Fraction | None:
    """When the container says that the video stream ends, in seconds of its clock; None where it says nothing.

    Matroska gives no duration of a stream but in a tag; its overall duration counts only if nothing else is inside.
    """
    if stream.duration:
        return ((stream.start_time or 0) + stream.duration) * stream.time_base
    start = (stream.start_time or 0) * stream.time_base
    tag = DURATION.fullmatch(stream.metadata.get("DURATION", ""))
    if tag:
        return Fraction(int(tag[1]) * 3600 + int(tag[2]) * 60) + Fraction(tag[3])
    if container.duration and len(container.streams) == 1:
        return start + Fraction(container.duration, av.time_base)
    return None


def _reading_reason(error: Exception) -> str:
    if isinstance(error, av.ExitError):
        return f"nothing that can be read came for {SECONDS:.0f} seconds"
    return reason(error)


class _Decoded:
    """A frame of full chroma resolution, whose pixels are converted one by one: a part of it takes a part of the time.

    A window's crop of a 720p frame takes 0.2 ms, the whole frame 7.5 ms, longer than its decoding.
    """

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._frame.height, self._frame.width, 3

    def __getitem__(self, rows_and_columns: tuple[slice, slice]) -> np.ndarray:
        frame = self._frame
        lines = (np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in frame.planes)
        planes = [plane[: frame.height, : frame.width][rows_and_columns] for plane in lines]
        part = av.VideoFrame.from_ndarray(np.stack(planes), format="yuv444p")
        part.colorspace, part.color_range = frame.colorspace, frame.color_range
        rgb: np.ndarray = _REFORMATTER.reformat(
            part, format="rgb24", src_colorspace=_matrix(frame), interpolation=EXACT
        ).to_ndarray()
        return rgb


_REFORMATTER = VideoReformatter()
"""Keeps swscale's tables from part to part."""


def _shown_size(frame: Any) -> tuple[int, int]:
    return (frame.width, frame.height) if frame.rotation % 180 else (frame.height, frame.width)


def _matrix(frame: Any) -> Colorspace | None:
    """The colour matrix that a frame does not name: untagged HD is BT.709; None: its own, or BT.601 for untagged SD."""
    return Colorspace.ITU709 if frame.colorspace == AVCOL_SPC_UNSPECIFIED and frame.height >= 720 else None


def _to_rgb(frame: Any) -> np.ndarray:
    """RGB by the frame's own colour matrix; untagged HD is BT.709 and untagged SD BT.601, as players assume."""
    rgb = frame.to_ndarray(format="rgb24", src_colorspace=_matrix(frame), interpolation=EXACT)
    # The display matrix's angle is counter-clockwise, as is numpy's.
    return np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90)) if frame.rotation % 360 else rgb
