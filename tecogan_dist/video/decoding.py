"""Frames out of a decoder: all of a file, or from any frame on, each known to be the one that it is taken for.

From a key frame on a decoder gives what it gives when it comes from the start, if the file's table is right about where
key frames are and if they are what they are called. Both are checked: the times of the frames that come out must be
those of the timeline, one after the other. Where they are not, decoding begins at an earlier key frame, in the end at
the file's start.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph

from tecogan_dist.video.matroska import is_cut_off
from tecogan_dist.video.opening import RATES, promised_end, reading_reason
from tecogan_dist.video.source import Damaged
from tecogan_dist.video.timeline import Timeline

AHEAD = 4
"""Frames that must be the right ones before the first of them is believed: a false key frame shows in the next ones."""
UNSURE = Fraction(1, 5)
"""Seconds that may be missing at the end of a file whose rate is not known."""
FIELDS_AROUND = 3
"""Frames before one that its deinterlacing depends on, and one more."""


@dataclass(frozen=True)
class Decoding:
    """An opened file and the stream of it that is decoded."""

    path: Path
    container: Any
    stream: Any


@dataclass(frozen=True)
class Place:
    """Where in a film decoding is to begin, and how; numbers of frames that had to be replaced go to ``damaged``."""

    timeline: Timeline
    start: int
    repeat: bool
    deinterlace: bool
    damaged: set[int]


class _Elsewhere(Exception):
    """Decoding has not begun at the frame where it should."""


def decoded_frames(
    decoding: Decoding, *, check_end: bool = False, deinterlace: bool = False, skip_damage: bool = False
) -> Iterator[Any]:
    """All frames in order of display; verifies every packet and, with ``check_end``, the promised duration."""
    frames = _good_frames(decoding) if skip_damage else _all_frames(decoding, check_end=check_end)
    return deinterlaced(frames) if deinterlace else frames


def decoded_from(opened: Callable[[], Decoding], place: Place) -> Iterator[tuple[int, Any]]:
    """Numbers and frames from ``place.start`` on, or from some frame before it on; ``opened`` opens the file anew.

    Raises :class:`Damaged` where a frame is not there or cannot be decoded, unless ``place.repeat``: then the last good
    frame takes its place, or the first one where there is none before it.
    """
    wanted = max(0, place.start - FIELDS_AROUND) if place.deinterlace else place.start
    for key in _starting_points(place.timeline, wanted):
        numbered = _replaced(opened(), key, place) if place.repeat else _checked(opened(), key, place.timeline)
        try:
            first = _believed(numbered, key)
        except _Elsewhere:
            continue
        frames = itertools.chain(first, numbered)
        yield from _deinterlaced_numbers(frames) if place.deinterlace else frames
        return


def deinterlaced(frames: Iterable[Any]) -> Iterator[Any]:
    """One full frame for each frame of two fields, with its time."""
    return (frame for _, frame in _deinterlaced_numbers(enumerate(frames)))


def _deinterlaced_numbers(numbered: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    graph: Graph | None = None
    waiting: deque[tuple[int, int | None]] = deque()

    def ready(graph: Graph) -> Iterator[tuple[int, Any]]:
        while True:
            try:
                frame = graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
            number, frame.pts = waiting.popleft()
            yield number, frame

    for number, frame in numbered:
        if graph is None:
            graph = Graph()
            buffer = graph.add_buffer(template=frame, time_base=frame.time_base)
            graph.link_nodes(
                buffer, graph.add("bwdif", "mode=send_frame:parity=auto:deint=all"), graph.add("buffersink")
            ).configure()
        waiting.append((number, frame.pts))
        graph.vpush(frame)
        yield from ready(graph)
    if graph is not None:
        graph.vpush(None)
        yield from ready(graph)


def _all_frames(decoding: Decoding, *, check_end: bool) -> Iterator[Any]:
    path, container, stream = decoding.path, decoding.container, decoding.stream
    end = 0  # of the last packet, in units of stream.time_base
    index = 0
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise Damaged(f"{path} is damaged or cut off after frame {index}.")
            if packet.pts is not None:
                end = max(end, packet.pts + (packet.duration or 0))
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise Damaged(f"{path} is damaged at frame {index}.")
                yield frame
                index += 1
    except (av.FFmpegError, OSError) as error:
        raise Damaged(f"{path} is damaged at frame {index} ({reading_reason(error)}).") from error
    promised = promised_end(container, stream)
    rate = stream.average_rate or stream.guessed_rate or 1
    # Two frames of tolerance: containers round durations, and the last packet's may be unknown.
    tolerance = 2 / rate if rate <= RATES[1] else UNSURE
    if check_end and promised is not None and end * stream.time_base < promised - tolerance:
        raise Damaged(
            f"{path} is cut off: it ends after {index} frames, {float(end * stream.time_base):.2f} "
            f"of {float(promised):.2f} seconds."
        )
    if check_end and container.format.name.startswith("matroska") and is_cut_off(path):
        raise Damaged(f"{path} is cut off: it ends after {index} frames, in the middle of what it promises.")


def _good_frames(decoding: Decoding, first: int | None = None) -> Iterator[Any]:
    """The frames that can be decoded; those before time ``first`` are left out."""
    packets = decoding.container.demux(decoding.stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError, OSError):
            return  # what follows cannot be read
        try:
            frames = packet.decode()
        except (av.FFmpegError, OSError):
            continue
        for frame in frames:
            if not frame.is_corrupt and (first is None or frame.pts is None or frame.pts >= first):
                yield frame


def _starting_points(timeline: Timeline, wanted: int) -> Iterator[int | None]:
    """Key frames to begin at: the one before ``wanted``, then further and further back; None is the file's start."""
    if timeline.is_exact:
        keys = np.flatnonzero(timeline.keys[: wanted + 1])
        back = 1
        while back <= len(keys) and keys[-back]:
            yield int(keys[-back])
            back *= 2
    yield None


def _believed(numbered: Iterator[tuple[int, Any]], key: int | None) -> list[tuple[int, Any]]:
    """The first frames. Raises :class:`_Elsewhere`."""
    if key is None:
        return []
    try:
        first = list(itertools.islice(numbered, AHEAD))
    except Damaged as error:
        raise _Elsewhere from error
    if not first or first[0][0] != key or not first[0][1].key_frame:
        raise _Elsewhere
    return first


def _sought(decoding: Decoding, key: int, timeline: Timeline) -> int:
    """Go to a key frame; its time."""
    pts = int(timeline.pts[key])
    try:
        decoding.container.seek(pts, stream=decoding.stream, backward=True)
    except (av.FFmpegError, OSError) as error:
        raise _Elsewhere from error
    return pts


def _checked(decoding: Decoding, key: int | None, timeline: Timeline) -> Iterator[tuple[int, Any]]:
    """Numbers and frames from ``key`` on, all of them. Raises :class:`Damaged` where one is missing."""
    if key is None:
        frames, expected = _all_frames(decoding, check_end=True), 0
    else:
        frames, expected = _frames_after(decoding, _sought(decoding, key, timeline)), key
    for frame in frames:
        is_there = expected < len(timeline) and (not timeline.is_exact or frame.pts == timeline.pts[expected])
        if not is_there:
            raise Damaged(f"{decoding.path} is damaged at frame {expected}.")
        yield expected, frame
        expected += 1
    if expected < len(timeline):
        raise Damaged(f"{decoding.path} is damaged or cut off after frame {expected}.")


def _frames_after(decoding: Decoding, first: int) -> Iterator[Any]:
    """Frames from time ``first`` on, where the file has been brought to.

    A key frame can be followed by frames that are shown before it and that cannot be decoded without what came before
    (an open group of pictures): as many packets as there are of these may fail.
    """
    leading = 0
    try:
        for packet in decoding.container.demux(decoding.stream):
            leading += packet.size > 0 and packet.pts is not None and packet.pts < first
            try:
                frames = packet.decode()
            except (av.FFmpegError, OSError):
                leading -= 1
                if leading < 0:
                    raise
                continue
            for frame in frames:
                if frame.pts is None:
                    raise _Elsewhere
                if frame.pts < first:
                    continue
                if frame.is_corrupt:
                    raise Damaged(
                        f"{decoding.path} is damaged at {float(frame.pts * decoding.stream.time_base):.3f} s."
                    )
                yield frame
    except (av.FFmpegError, OSError) as error:
        raise Damaged(f"{decoding.path} is damaged ({reading_reason(error)}).") from error


def _replaced(decoding: Decoding, key: int | None, place: Place) -> Iterator[tuple[int, Any]]:
    """Numbers and frames from ``key`` on; the last good frame where one is missing."""
    timeline = place.timeline
    first = None if key is None else _sought(decoding, key, timeline)
    expected, last = key or 0, None
    for frame in _good_frames(decoding, first):
        number = _number(timeline, frame, expected)
        if number is None:
            continue
        for missing in range(expected, number):
            place.damaged.add(missing)
            yield missing, frame if last is None else last
        yield number, frame
        expected, last = number + 1, frame
    if last is None:
        if key is not None:
            raise _Elsewhere
        raise Damaged(f"{decoding.path} is damaged: not one of its {len(timeline)} frames can be decoded.")
    for missing in range(expected, len(timeline)):
        place.damaged.add(missing)
        yield missing, last


def _number(timeline: Timeline, frame: Any, expected: int) -> int | None:
    """Which frame it is; None for one that the timeline has not, or that has been replaced already."""
    if not timeline.is_exact:  # by counting alone, what is missing can only be replaced at the end
        return expected if expected < len(timeline) else None
    if frame.pts is None:
        return None
    number = int(np.searchsorted(timeline.pts, frame.pts))
    is_there = number < len(timeline) and timeline.pts[number] == frame.pts and number >= expected
    return number if is_there else None
