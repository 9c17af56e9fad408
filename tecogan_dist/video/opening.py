"""Video files opened with care: what FFmpeg may open, for how long, and which of a file's streams is the film."""

from __future__ import annotations

import itertools
import os
import re
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from tecogan_dist.base.errors import UserError
from tecogan_dist.video.formats import FOLDER_RATE
from tecogan_dist.video.source import MOST_PIXELS, Damaged, check_pixels

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
    # genpts: an avi says when frames are decoded, and not when they are shown.
    "container_options": {"format_whitelist": FORMATS, "protocol_whitelist": "file", "fflags": "+genpts"},
    "metadata_errors": "replace",
    "timeout": SECONDS,
}
DURATION = re.compile(r"(\d{1,6}):(\d{1,2}):(\d{1,2}(?:\.\d{1,6})?)\d*")
RATES = (Fraction(1, 3600), Fraction(1000))
"""Frames a second that somebody may mean: from one an hour on."""
MEASURED = 200
"""Packets that a rate is measured by."""
IDENTITY = tuple[int, int, int]


def open_container(path: Path, stack: ExitStack) -> Any:
    """The opened container, closed with ``stack``. Raises :class:`Damaged`."""
    try:
        # An absolute path: of a relative one FFmpeg would take "concat:a.mp4" for a protocol.
        return stack.enter_context(av.open(str(path.absolute()), **OPEN_OPTIONS))
    except (av.FFmpegError, OSError) as error:
        raise Damaged(f"{path} cannot be read as a video ({reading_reason(error)}): give another file.") from error


def open_film(path: Path, stack: ExitStack, *, threads: int = 1, video_stream: int | None = None) -> tuple[Any, Any]:
    """The container and its film, ready to be decoded by ``threads`` (0: as many as FFmpeg likes).

    ``video_stream`` counts the streams that are no covers, from 0; None: the first. Raises :class:`UserError` for a
    file without film, and what :func:`open_container` raises.
    """
    container = open_container(path, stack)
    streams = film_streams(container)
    if not streams:
        raise UserError(f"{path} holds no video stream: give another file.")
    if (video_stream or 0) >= len(streams):
        raise UserError(f"{path} has {len(streams)} video streams, counted from 0: give one of these.")
    stream = streams[video_stream or 0]
    context = stream.codec_context
    if context is None:
        raise UserError(f"{path} holds video of a kind that cannot be decoded here: encode it as H.264.")
    check_pixels(context.width, context.height, path)
    context.options = {"max_pixels": str(MOST_PIXELS)}  # the stream itself may say otherwise than the container
    context.thread_type = "NONE" if threads == 1 else "AUTO"
    context.thread_count = threads
    return container, stream


def film_streams(container: Any) -> list[Any]:
    """All video streams but pictures beside the film, as covers are."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def rate_of(path: Path, stream: Any, *, video_stream: int | None = None) -> Fraction:
    """Frames a second on average: as the file says, or by its first packets where it says what cannot be.

    H.264 of variable rate says how fine its clock is, and FFmpeg takes that for a rate. Raises :class:`UserError`.
    """
    said = Fraction(stream.average_rate or stream.guessed_rate or FOLDER_RATE)
    if RATES[0] <= said <= RATES[1]:
        return said
    with ExitStack() as stack, suppress(av.FFmpegError, OSError):
        container, film = open_film(path, stack, video_stream=video_stream)
        packets = itertools.islice((packet for packet in container.demux(film) if packet.size), MEASURED)
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
        if len(times) > 2 and times[-1] > times[0]:
            measured = (len(times) - 1) / ((times[-1] - times[0]) * Fraction(film.time_base))
            if RATES[0] <= measured <= RATES[1]:
                return measured
    raise UserError(f"{path} has {float(said):.6g} frames a second, which no video has: encode it again.")


def promised_end(container: Any, stream: Any) -> Fraction | None:
    """When the container says that the video stream ends, in seconds of its clock; None where it says nothing.

    Matroska gives no duration of a stream but in a tag; its overall duration counts only if nothing else is inside. The
    duration of an mp4's stream counts what is empty before it, if an edit list takes away some of it, or does not
    otherwise: the smaller promise is taken.
    """
    if stream.duration:
        begins = max(0, stream.start_time or 0) if container.format.name.startswith("mov") else 0
        return ((stream.start_time or 0) + stream.duration - begins) * stream.time_base
    start = (stream.start_time or 0) * stream.time_base
    tag = DURATION.fullmatch(stream.metadata.get("DURATION", ""))
    if tag:
        return Fraction(int(tag[1]) * 3600 + int(tag[2]) * 60) + Fraction(tag[3])
    if container.duration and len(container.streams) == 1:
        return start + Fraction(container.duration, av.time_base)
    return None


def identity(path: Path) -> IDENTITY:
    """What changes when somebody writes to a file: its number, its size and the time of its last change."""
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def check_unchanged(path: Path, before: IDENTITY) -> None:
    """Raise :class:`UserError` if the file is another than it was when :func:`identity` was asked."""
    try:
        now: IDENTITY | None = identity(path)
    except OSError:
        now = None
    if now != before:
        raise UserError(f"{path} changed while it was read: start again when nothing writes to it.")


def reading_reason(error: Exception) -> str:
    if isinstance(error, av.ExitError):
        return f"nothing that can be read came for {SECONDS:.0f} seconds"
    return reason(error)


def reason(error: Exception) -> str:
    """What the system or FFmpeg says, without the file's name."""
    return getattr(error, "strerror", None) or str(error)
