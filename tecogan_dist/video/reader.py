"""Frames out of video files: in order, or from any frame on, with what happens where a file is damaged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import Interpolation

from tecogan_dist.base.errors import UserError
from tecogan_dist.video.colours import HDR, UNSAID_CHROMA, Decoded, depth_of, hdr_refusal, is_opaque, to_rgb
from tecogan_dist.video.decoding import Decoding, Place, decoded_frames, decoded_from
from tecogan_dist.video.matroska import is_cut_off
from tecogan_dist.video.opening import check_unchanged, identity, open_film, promised_end, rate_of, reason
from tecogan_dist.video.source import MOST_FRAMES, Damaged, FrameSource, Picture
from tecogan_dist.video.timeline import Timeline, read_timeline

PREVIEW = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
OnDamage = Literal["stop", "repeat"]


class VideoFile(FrameSource):
    """A video file.

    A picture that the file asks to be shown rotated is rotated. Frames are taken as they are stored, each once, also
    where they are not shown for equally long (variable rate): ``rate`` is the average, and :meth:`timeline` says when
    each one is shown. Of several video streams it is the first that is not a cover picture, or number ``video_stream``
    of these; all other streams are left alone.

    ``deep``: of more than 8 bits, frames are uint16 RGB from 0 to 65535. Without it they are rounded to 8 bits, and
    high dynamic range is refused: its values in 8 bits are too few, and there is more than one way to reduce it.

    With a ``timeline``, which :func:`tecogan_dist.video.timeline.read_timeline` has read before, frames from the middle
    on are decoded from the key frame before them, and are those of a decoding from the start. ``on_damage``: at what
    cannot be decoded "stop" raises :class:`Damaged`, and "repeat" gives the last good frame once more, at the time of
    the one that is missing; ``damaged`` then holds the numbers of these. ``deinterlace`` makes one full frame of each
    pair of fields (FFmpeg's bwdif).
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int,
        timeline: Timeline | None = None,
        video_stream: int | None = None,
        deep: bool = False,
        on_damage: OnDamage = "stop",
        deinterlace: bool = False,
    ) -> None:
        self.path, self.damaged = path, set[int]()
        self._identity = identity(path)
        # What is made up where data is missing depends on the number of threads.
        self._threads = 1 if on_damage == "repeat" else threads
        self._timeline, self._video_stream = timeline, video_stream
        self._repeat, self._deinterlace = on_damage == "repeat", deinterlace
        self.height = self.width = 0
        with ExitStack() as stack:
            decoding = self._open(stack)
            stream = decoding.stream
            self.rate = rate_of(path, stream, video_stream=video_stream)
            self.count = stream.frames or None
            if stream.metadata.get("alpha_mode") == "1":  # VP8's and VP9's is a second video, which is not decoded here
                raise transparent(path)
            first = next(decoded_frames(decoding, skip_damage=self._repeat), None)
            if first is None:
                raise UserError(f"{path} holds no frames: give another video.")
            self._chroma = UNSAID_CHROMA.get(stream.codec_context.codec.canonical_name)
            self._is_deep = deep and depth_of(first.format) > 8
            self.dtype = np.dtype(np.uint16 if self._is_deep else np.uint8)
            if first.color_trc in HDR and not self._is_deep:
                raise hdr_refusal(path, first.color_trc)
            if first.rotation % 90:
                raise UserError(
                    f"{path} is to be shown turned by {first.rotation} degrees: encode it as it should look."
                )
            self.height, self.width, _ = self._rgb(first).shape

    def timeline(self) -> Timeline:
        """When each frame is shown; read from the packets when it is first asked for."""
        if self._timeline is None:
            self._timeline = read_timeline(self.path, video_stream=self._video_stream, to_the_end=not self._repeat)
        return self._timeline

    def is_cut_off(self) -> bool:
        """Whether the file ends before what it promises, which nothing can be put in place of."""
        with ExitStack() as stack:
            container, stream = open_film(self.path, stack, video_stream=self._video_stream)
            count = 0
            with suppress(av.FFmpegError, OSError):
                for packet in container.demux(stream):
                    count += packet.size > 0
            name = container.format.name
            return count < stream.frames or (name.startswith("matroska") and is_cut_off(self.path))

    def previews(self, side: int) -> Iterator[np.ndarray]:
        with ExitStack() as stack:
            size: tuple[int, int] | None = None
            for index, decoded in self._numbered(stack, 0):
                size = size or (decoded.height, decoded.width)
                if size != (decoded.height, decoded.width):
                    raise UserError(f"{self.path} changes its size at frame {index}: cut it there.")
                factor = max(1.0, max(size) / side)
                height, width = (max(1, round(pixels / factor)) for pixels in size)
                with self._converting():
                    preview = decoded.to_ndarray(format="rgb24", height=height, width=width, interpolation=PREVIEW)
                self.is_of_fields = bool(decoded.interlaced_frame) and not self._deinterlace
                yield preview

    def count_frames(self) -> int:
        with ExitStack() as stack:
            container, stream = open_film(self.path, stack, video_stream=self._video_stream)
            if stream.frames and container.format.name.startswith("mov"):
                return self._possible(stream.frames)  # the length of the table that an mp4 is read by, not a statement
            count = end = 0
            with suppress(av.FFmpegError, OSError):
                for packet in container.demux(stream):
                    count += packet.size > 0
                    end = max(end, (packet.pts or 0) + (packet.duration or 0))
            promised = promised_end(container, stream)
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
            Decoded(frame)
            if frame.format.name == "yuv444p" and not frame.rotation % 360 and not self._is_deep
            else self._rgb(frame)
            for frame in self._decoded_at(positions)
        )

    def _decoded_at(self, positions: Iterable[int]) -> Iterator[Any]:
        remaining = iter(positions)
        position = next(remaining, None)
        if position is None:
            return
        with ExitStack() as stack:
            for index, decoded in self._numbered(stack, position):
                if position is None:
                    check_unchanged(self.path, self._identity)
                    return
                if index == position:
                    if _shown_size(decoded) != (self.height, self.width):
                        raise UserError(f"{self.path} changes its size at frame {index}: cut it there.")
                    yield decoded
                    position = next(remaining, None)

    def _numbered(self, stack: ExitStack, start: int) -> Iterator[tuple[int, Any]]:
        """Frames with their numbers, from ``start`` or from some frame before it on."""
        if self._repeat:
            self.timeline()
        if self._timeline is None or (not start and not self._repeat):
            frames: Iterator[tuple[int, Any]] = enumerate(self._all(self._open(stack)))
        else:
            place = Place(self._timeline, start, self._repeat, self._deinterlace, self.damaged)
            frames = decoded_from(lambda: self._open(stack), place)
        yield from frames
        check_unchanged(self.path, self._identity)

    def _open(self, stack: ExitStack) -> Decoding:
        container, stream = open_film(self.path, stack, threads=self._threads, video_stream=self._video_stream)
        return Decoding(self.path, container, stream)

    def _all(self, decoding: Decoding) -> Iterator[Any]:
        return decoded_frames(decoding, check_end=True, deinterlace=self._deinterlace)

    @contextmanager
    def _converting(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (av.FFmpegError, ValueError, OSError) as error:
            raise UserError(
                f"{self.path} has pixels that cannot be read as RGB ({reason(error)}): convert it first, as with "
                f'ffmpeg -i "{self.path}" -vf zscale=m=709,format=yuv420p -crf 12 -c:a copy "plain.mkv".'
            ) from error

    def _rgb(self, frame: Any) -> np.ndarray:
        with self._converting():
            if not is_opaque(frame):
                raise transparent(self.path)
            return to_rgb(frame, deep=self._is_deep, chroma=self._chroma)


def transparent(path: Path) -> UserError:
    return UserError(f"{path} has transparent pixels: encode it without transparency.")


def _shown_size(frame: Any) -> tuple[int, int]:
    return (frame.width, frame.height) if frame.rotation % 180 else (frame.height, frame.width)
