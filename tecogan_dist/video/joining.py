"""One video from segments: their packets one after the other, with the source's clock and all its other streams."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tecogan_dist.base.atomic import replacing
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import advice
from tecogan_dist.base.invariants import present, require
from tecogan_dist.video.codecs import Encoding
from tecogan_dist.video.gifs import write_gif
from tecogan_dist.video.opening import open_container, open_film, reading_reason, reason
from tecogan_dist.video.segments import open_output, tag
from tecogan_dist.video.source import Damaged
from tecogan_dist.video.streams import MOV, OtherStreams, Span, chapters, copy_stream_tags, copy_tags
from tecogan_dist.video.timeline import Timeline, constant

NAMES = {
    ".mp4": "mp4",
    ".m4v": "ipod",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
}
"""FFmpeg's names of containers."""
FREE_CLOCKS = ("mpegts", "mpeg", "wtv")
"""Formats whose clock begins anywhere, as with the day of a broadcast: there the output begins at 0."""
FINEST = 2**31 - 1
"""Ticks a second that an mp4 can count."""


@dataclass(frozen=True)
class _Scan:
    """What a segment's packets say: how many there are, and by how many places they are decoded before they are shown.

    ``setup`` is all that must be equal in segments of one stream.
    """

    count: int
    depth: int
    setup: tuple[Any, ...]


def join(
    segments: Sequence[Path],
    *,
    output: Path,
    encoding: Encoding,
    source: Path | None = None,
    timeline: Timeline | None = None,
    start: int = 0,
    stop: int | None = None,
    video_stream: int | None = None,
) -> list[str]:
    """Join segments into ``output``, whole or not at all; sentences on what could not be kept.

    The segments are of ``encoding`` and hold the frames ``start`` to ``stop`` of the source, in order. Each is shown
    when the ``timeline`` says (None: at the encoding's rate), the last one as long as there. Of a part that begins in
    the middle the first frame is at 0. All other streams of ``source`` (None: there are none), its chapters and tags
    are copied, cut to the same part. Equal segments, source and timeline give equal bytes.

    Raises :class:`UserError` for segments that do not fit together, and if the output cannot be written.
    """
    require(len(segments) > 0, "there are segments to join")
    scans = [_scan(segment) for segment in segments]
    for segment, scan in zip(segments, scans, strict=True):
        if scan.setup != scans[0].setup:
            raise UserError(f"{segment} was encoded otherwise than {segments[0]}: start again with --restart.")
    count = sum(scan.count for scan in scans)
    whole = timeline or constant(start + count, Fraction(*encoding.rate))
    stop = start + count if stop is None else stop
    if stop - start != count or stop > len(whole):
        raise UserError(f"the segments of {output} hold {count} frames and should hold {stop - start}: start again.")
    suffix = output.suffix.lower()
    check_clock(suffix, whole)
    if suffix == ".avi":
        whole = constant(len(whole), Fraction(*encoding.rate))
    part = whole.part(start, stop)
    with _reported(output), replacing(output) as partial:
        if suffix == ".gif":
            return write_gif(segments, partial, part, has_streams=source is not None)
        film = _Film(segments, part, max(scan.depth for scan in scans))
        order = _Order(NAMES[suffix], suffix, encoding, source, video_stream, whole, start, stop)
        return _write(film, partial, order)


def check_clock(suffix: str, timeline: Timeline) -> None:
    """Raise :class:`UserError` for a video of variable rate that is to become an .avi, which has one rate."""
    if suffix == ".avi" and not timeline.is_constant:
        raise UserError(
            "the input's frames are not shown for equally long, and .avi files have one rate: use .mp4 or .mkv."
        )


class _reported:
    def __init__(self, output: Path) -> None:
        self._output = output

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (av.FFmpegError, OSError)):
            what = advice(error) if isinstance(error, OSError) else "check the disk's space and permissions"
            raise UserError(f"{self._output} cannot be written ({reason(error)}): {what}.") from error


@dataclass(frozen=True)
class _Order:
    """Where the output comes from and how it is clocked."""

    name: str
    suffix: str
    encoding: Encoding
    source: Path | None
    video_stream: int | None
    timeline: Timeline
    start: int
    stop: int


def _write(film: _Film, partial: Path, order: _Order) -> list[str]:
    sentences: list[str] = []
    with ExitStack() as stack:
        original: Any = None
        stream: Any = None
        if order.source is not None:
            original, stream = open_film(order.source, stack, video_stream=order.video_stream)
        span, clock = _span(order, original), order.timeline.time_base
        if order.name in MOV and clock.denominator > FINEST:
            clock = Fraction(1, 10**6)
            sentences.append("the source's clock is finer than an mp4's can be: times are rounded to 1/1000000 s.")
        output = stack.enter_context(open_output(partial, order.name, **_options(order.name, clock, original)))
        target = film.add_to(output, stack, name=order.name, encoding=order.encoding)
        target.time_base = clock
        beside: Iterator[tuple[Fraction, Any]] = iter(())
        if original is not None:
            others = OtherStreams(
                present(order.source, "it is open"),
                original,
                stream,
                output,
                name=order.name,
                span=span,
                suffix=order.suffix,
            )
            sentences += others.sentences
            copy_tags(original, output, whole=span.start is None and span.stop is None)
            copy_stream_tags(stream, target, output, whole=False)
            target.disposition = stream.disposition
            output.set_chapters(chapters(original, span))
            beside = others.packets()
            if order.name == "avi" and len(original.streams) > 1:
                sentences.append(
                    ".avi files do not say when a stream begins: sound is in time if it began with the film."
                )
            if order.name == "avi" and original.chapters():
                sentences.append(".avi files have no chapters: they are left out.")
        output.start_encoding()
        target_clock = Fraction(target.time_base)
        if film.is_rounded(target_clock, span.offset):
            sentences.append(
                f"{order.suffix} files count time in steps of {float(1000 * target_clock):g} ms: times of frames "
                "are rounded to that; .mp4 and .mov keep them exactly."
            )
        for _, packet in heapq.merge(film.packets(target, span.offset), beside, key=lambda item: item[0]):
            output.mux(packet)
        output.close()
    late = _start_of(partial) - (order.timeline.time(order.start) + order.timeline.start + span.offset)
    if abs(late) > target_clock:
        sentences.append(
            f"all times in the output are {float(1000 * late):.0f} ms later, equally for all streams: sound begins "
            f"before 0 in the input, and {order.suffix} files do not."
        )
    return sentences


def _start_of(path: Path) -> Fraction:
    """When the film of a joined file begins."""
    with ExitStack() as stack:
        _, stream = open_film(path, stack)
        return Fraction((stream.start_time or 0) * stream.time_base)


def _span(order: _Order, original: Any) -> Span:
    """Which part of the source's clock the other streams are cut to, and how far all times are moved."""
    timeline, start, stop = order.timeline, order.start, order.stop
    first = int(timeline.pts[start]) * timeline.time_base
    end = None if stop == len(timeline) else int(timeline.pts[stop]) * timeline.time_base
    if start:
        return Span(first, end, -first)
    if original is None or not any(name in FREE_CLOCKS for name in original.format.name.split(",")):
        return Span(None, end)
    begins = [stream.start_time * stream.time_base for stream in original.streams if stream.start_time is not None]
    return Span(None, end, -min([first, *begins]))


def _options(name: str, clock: Fraction, original: Any) -> dict[str, str]:
    """mp4: ticks in which all times of all streams are whole numbers, also those of its edit lists."""
    if name not in MOV:
        return {}
    clocks = [clock.denominator]
    if original is not None:
        clocks += [
            stream.time_base.denominator for stream in original.streams if stream.time_base and stream.type != "data"
        ]
    finest = math.lcm(*clocks)
    options = {"movie_timescale": str(finest if finest <= FINEST else clock.denominator)}
    if clock.numerator == 1:
        options["video_track_timescale"] = str(clock.denominator)
    return options


class _Film:
    """The packets of all segments as one stream."""

    def __init__(self, segments: Sequence[Path], part: Timeline, depth: int) -> None:
        self._segments, self._part, self._depth = segments, part, depth

    def add_to(self, output: Any, stack: ExitStack, *, name: str, encoding: Encoding) -> Any:
        _, template = _opened(self._segments[0], stack)
        target = output.add_stream_from_template(template, opaque=True)
        if name in MOV and template.codec_context.codec.canonical_name == "hevc":
            target.codec_context.codec_tag = "hvc1"  # QuickTime plays no other
        tag(target.codec_context, encoding)
        target.codec_context.sample_aspect_ratio = Fraction(*encoding.sample_aspect)
        target.codec_context.framerate = Fraction(*encoding.rate)
        return target

    def is_rounded(self, clock: Fraction, offset: Fraction) -> bool:
        """Whether times of frames are not whole numbers of ``clock``."""
        ratio, moved = self._part.time_base / clock, offset / clock
        if ratio.denominator == 1 and moved.denominator == 1:
            return False
        first = int(self._part.pts[0]) * ratio + moved
        steps = np.diff(self._part.pts)
        return first.denominator != 1 or bool((steps * ratio.numerator % ratio.denominator).any())

    def packets(self, target: Any, offset: Fraction) -> Iterator[tuple[Fraction, Any]]:
        """Times of decoding in seconds and packets, in that order.

        Decoding times are the display times of the frames ``depth`` places earlier: never later than a packet's own,
        and always growing.
        """
        base = self._part.time_base
        pts, durations = self._part.pts, self._part.durations
        moved = round(offset / base)
        step, place, begin = max(1, int(durations[0])), 0, 0
        for segment in self._segments:
            ranks = _ranks(segment)
            with ExitStack() as stack:
                for packet, rank in zip(_packets(segment, stack), ranks, strict=True):
                    shown = begin + int(rank)
                    early = place - self._depth
                    decoded = int(pts[early]) if early >= 0 else int(pts[0]) + early * step
                    packet.pts, packet.dts = int(pts[shown]) + moved, decoded + moved
                    packet.duration, packet.time_base = int(durations[shown]), base
                    packet.stream = target
                    place += 1
                    yield packet.dts * base, packet
            begin += len(ranks)


def _opened(segment: Path, stack: ExitStack) -> tuple[Any, Any]:
    container = open_container(segment, stack)
    if len(container.streams.video) != 1:
        raise Damaged(f"the segment {segment} holds no film: start again with --restart.")
    return container, container.streams.video[0]


def _packets(segment: Path, stack: ExitStack) -> Iterator[Any]:
    container, stream = _opened(segment, stack)
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except (av.FFmpegError, OSError) as error:
        raise Damaged(f"the segment {segment} is damaged ({reading_reason(error)}): remove it.") from error


def _ranks(segment: Path) -> np.ndarray:
    """For each packet in order of decoding, which frame it is in order of display."""
    with ExitStack() as stack:
        pts = np.array([packet.pts for packet in _packets(segment, stack)], np.int64)
    ranks = np.empty(len(pts), np.int64)
    ranks[np.argsort(pts, kind="stable")] = np.arange(len(pts))
    return ranks


def _scan(segment: Path) -> _Scan:
    ranks = _ranks(segment)
    if not len(ranks):
        raise Damaged(f"the segment {segment} holds no frames: remove it.")
    with ExitStack() as stack:
        _, stream = _opened(segment, stack)
        context = stream.codec_context
        setup = (context.codec.canonical_name, context.width, context.height, context.pix_fmt, context.extradata)
    return _Scan(len(ranks), int((np.arange(len(ranks)) - ranks).max()), setup)
