"""Frames out of video files; with :mod:`tecogan_dist.video.writer` all that knows codecs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, ColorTrc, Interpolation, VideoReformatter

from tecogan_dist.base.errors import UserError
from tecogan_dist.video.formats import FOLDER_RATE
from tecogan_dist.video.source import Damaged, FrameSource, Picture
from tecogan_dist.video.writer import EXACT, reason

AVCOL_SPC_UNSPECIFIED = 2
PREVIEW = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
# What a file may be, by FFmpeg's names: none of the formats that name other files or addresses (playlists, lists of
# parts), so that a file of unknown origin cannot have others opened; for the same reason only the file protocol.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,mxf,nut,rm,wtv,dv,gif,ivf,obu,av1,"
    "h264,hevc,m4v,yuv4mpegpipe"
)
OPEN_OPTIONS: dict[str, Any] = {
    "options": {"err_detect": "explode"},
    "container_options": {"format_whitelist": FORMATS, "protocol_whitelist": "file"},
    "metadata_errors": "replace",
}


class VideoFile(FrameSource):
    """A video file.

    A picture that the file asks to be shown rotated is rotated. Frames are taken as they are stored, each once, also
    where they are not shown for equally long (variable rate): ``rate`` is the average. High dynamic range is refused:
    its values mean nothing to a network that has learned from others, and there is more than one way to reduce it.
    """

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
                raise UserError(f"{path} holds no frames: give another video.")
            if first.color_trc in HDR:
                raise UserError(
                    f"{path} is high dynamic range video ({HDR[first.color_trc]}): convert it to SDR (BT.709) first."
                )
            self.height, self.width, _ = _to_rgb(first).shape

    def previews(self, side: int) -> Iterator[np.ndarray]:
        with ExitStack() as stack:
            size: tuple[int, int] | None = None
            for index, decoded in enumerate(self._decode(self._open(stack), check_end=True)):
                size = size or (decoded.height, decoded.width)
                if size != (decoded.height, decoded.width):
                    raise UserError(f"{self.path} changes its size at frame {index}: cut it there.")
                factor = max(1.0, max(size) / side)
                height, width = (max(1, round(pixels / factor)) for pixels in size)
                yield decoded.to_ndarray(format="rgb24", height=height, width=width, interpolation=PREVIEW)

    def count_frames(self) -> int:
        with ExitStack() as stack:
            container = self._open(stack)
            stream = container.streams.video[0]
            if stream.frames and container.format.name.startswith("mov"):
                return int(stream.frames)  # the length of the table by which an mp4 is read; others only state it
            count = end = 0
            with suppress(av.FFmpegError, OSError):
                for packet in container.demux(stream):
                    count += packet.size > 0
                    end = max(end, (packet.pts or 0) + (packet.duration or 0))
            promised = _promised_end(container, stream)
            if promised is not None and end * stream.time_base < promised - 2 / self.rate:
                start = (stream.start_time or 0) * stream.time_base
                count = max(count, round((promised - start) * self.rate))
            return count

    def frames_at(self, positions: Iterable[int]) -> Iterator[np.ndarray]:
        return map(_to_rgb, self._decoded_at(positions))

    def pictures_at(self, positions: Iterable[int]) -> Iterator[Picture]:
        return (
            _Decoded(frame) if frame.format.name == "yuv444p" and not frame.rotation % 360 else _to_rgb(frame)
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
            raise Damaged(f"{self.path} cannot be read as a video ({reason(error)}).") from error
        if not container.streams.video:
            raise UserError(f"{self.path} holds no video stream: give another file.")
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
                    raise Damaged(f"{self.path} is damaged or cut off after frame {index}.")
                if packet.pts is not None:
                    end = max(end, packet.pts + (packet.duration or 0))
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise Damaged(f"{self.path} is damaged at frame {index}.")
                    yield frame
                    index += 1
        except (av.FFmpegError, OSError) as error:
            raise Damaged(f"{self.path} is damaged at frame {index} ({reason(error)}).") from error
        promised = _promised_end(container, stream)
        # Two frames of tolerance: containers round durations, and the last packet's may be unknown.
        if check_end and promised is not None and end * stream.time_base < promised - 2 / self.rate:
            raise Damaged(
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
