"""When each frame of a video is shown: read from its packets, which takes a hundredth of the time of decoding."""

from __future__ import annotations

from array import array
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.invariants import require
from tecogan_dist.video.formats import FOLDER_RATE
from tecogan_dist.video.opening import open_film, promised_end, reading_reason
from tecogan_dist.video.packets import is_shown
from tecogan_dist.video.source import MOST_FRAMES, Damaged

MISSING = -(2**63)
"""FFmpeg's "no timestamp"."""
VERIFIED = 48
"""Frames that are decoded to see whether packets and frames agree: more than a decoder keeps back."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """The frames of a video in order of display.

    ``pts`` (int64, strictly increasing) are units of ``time_base`` seconds on the file's own clock, ``keys`` (bool)
    says which are key frames, ``last_duration`` is how long the last one is shown. ``is_exact`` is False where the
    file does not say when its frames are shown, or says it wrongly, and ``pts`` are made up from what it says.
    """

    pts: np.ndarray
    keys: np.ndarray
    last_duration: int
    time_base: Fraction
    is_exact: bool = True

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def durations(self) -> np.ndarray:
        """How long each frame is shown, int64: until the next one comes."""
        return np.diff(self.pts, append=self.pts[-1:] + self.last_duration)

    @property
    def start(self) -> Fraction:
        """When the first frame is shown, in seconds of the file's clock."""
        return int(self.pts[0]) * self.time_base

    @property
    def end(self) -> Fraction:
        """When the last frame is gone, in seconds of the file's clock."""
        return (int(self.pts[-1]) + self.last_duration) * self.time_base

    def time(self, index: int) -> Fraction:
        """When a frame is shown, in seconds after the first; of ``len(self)``: when the last one is gone."""
        return (int(self.pts[index]) * self.time_base if index < len(self) else self.end) - self.start

    def index_at(self, seconds: Fraction | float) -> int:
        """The frame that is shown ``seconds`` after the first one; ``len(self)`` from the end on."""
        ticks = (Fraction(seconds) + self.start) / self.time_base
        if ticks >= self.end / self.time_base:
            return len(self)
        return max(0, int(np.searchsorted(self.pts, ticks.numerator // ticks.denominator, side="right")) - 1)

    @property
    def is_constant(self) -> bool:
        """Whether all frames are shown equally long, as far as the clock can say (within one of its ticks)."""
        if len(self) < 3:
            return True
        step = Fraction(int(self.pts[-1] - self.pts[0]), len(self) - 1)
        grid = np.arange(len(self)) * float(step)
        return bool(np.abs(self.pts - self.pts[0] - grid).max() <= 1.0)

    def part(self, start: int, stop: int) -> Timeline:
        """The frames ``start`` to ``stop``, exclusive, on the same clock."""
        require(0 <= start < stop <= len(self), "a part of a timeline has frames")
        return Timeline(
            self.pts[start:stop],
            self.keys[start:stop],
            int(self.durations[stop - 1]),
            self.time_base,
            self.is_exact,
        )

    def save(self, path: Path) -> None:
        """Write it to a file of numpy's, without pickle: the same timeline is the same bytes."""
        clock = [self.time_base.numerator, self.time_base.denominator, self.last_duration, int(self.is_exact)]
        with open(path, "wb") as file:
            np.savez(file, pts=self.pts, keys=self.keys, clock=np.array(clock, np.int64))

    @staticmethod
    def load(path: Path) -> Timeline:
        """What :meth:`save` has written. Raises :class:`UserError` for anything else."""
        try:
            with np.load(path, allow_pickle=False) as data:
                pts, keys, clock = data["pts"], data["keys"], [int(number) for number in data["clock"]]
            if pts.dtype != np.int64 or keys.dtype != bool or len(pts) != len(keys) or not len(pts):
                raise ValueError("not a timeline")
            return Timeline(pts, keys, clock[2], Fraction(clock[0], clock[1]), bool(clock[3]))
        except (OSError, ValueError, KeyError, IndexError, ZeroDivisionError, EOFError) as error:
            raise UserError(f"{path} is damaged: remove it, and it is made again.") from error


def constant(count: int, rate: Fraction) -> Timeline:
    """That of ``count`` images shown at ``rate`` a second."""
    return Timeline(np.arange(count, dtype=np.int64), np.ones(count, bool), 1, 1 / rate)


def read_timeline(path: Path, *, video_stream: int | None = None, to_the_end: bool = True) -> Timeline:
    """The timeline of a video, from its packets; compared with the first frames that come out of the decoder.

    Where these disagree (fields in packets of their own, frames that are never shown), all frames are decoded. Packets
    that show nothing are no frames: invisible ones of VP8 and VP9, and those that an edit list takes away. Raises
    :class:`Damaged` for what cannot be read, unless ``to_the_end`` is False: then it ends where the file does, and has
    the frames whose packets are damaged.
    """
    timeline = _from_packets(path, video_stream, to_the_end)
    if timeline is not None:
        found = np.array(_first_frames(path, video_stream, to_the_end=to_the_end), np.int64)
        complete = not to_the_end or len(found) >= min(VERIFIED, len(timeline))
        if to_the_end:
            agrees = len(found) <= len(timeline) and np.array_equal(found, timeline.pts[: len(found)])
        else:
            agrees = _are_among(found, timeline.pts)
        if complete and (agrees or not timeline.is_exact):
            return timeline
    return _from_frames(path, video_stream, to_the_end)


def _are_among(found: np.ndarray, pts: np.ndarray) -> bool:
    """Whether frames that damage has left are some of these, and no other packets are between any two of them.

    Where each frame is two packets, as of fields, no two frames are neighbours.
    """
    places = np.sort(np.searchsorted(pts, found))
    are_there = bool(np.isin(found, pts).all())
    return are_there and (len(found) < 2 or bool((np.diff(places) == 1).any()))


def _from_packets(path: Path, video_stream: int | None, to_the_end: bool) -> Timeline | None:
    shown, decoded, keys, durations = array("q"), array("q"), array("b"), 0
    with ExitStack() as stack:
        container, stream = open_film(path, stack, video_stream=video_stream)
        codec = stream.codec_context.codec.canonical_name
        last = (MISSING, 0)
        try:
            for packet in container.demux(stream):
                if not packet.size or packet.is_discard or not is_shown(packet, codec):
                    continue
                _check_count(path, len(shown))
                shown.append(MISSING if packet.pts is None else packet.pts)
                decoded.append(MISSING if packet.dts is None else packet.dts)
                keys.append(packet.is_keyframe)
                durations += packet.duration or 0
                last = max(last, (shown[-1], packet.duration or 0))
        except (av.FFmpegError, OSError) as error:
            if to_the_end:
                raise Damaged(f"{path} is damaged after frame {len(shown)} ({reading_reason(error)}).") from error
        if not shown:
            return None
        times = np.array(shown, np.int64)
        order = np.argsort(times, kind="stable")
        pts, is_exact = times[order], True
        if pts[0] == MISSING:
            pts, is_exact = _made_up(np.array(decoded, np.int64), stream), False
            order = np.arange(len(pts))
        return _finished(pts, np.array(keys, bool)[order], last[1], container, stream, is_exact)


def _from_frames(path: Path, video_stream: int | None, to_the_end: bool) -> Timeline:
    shown, keys, duration = array("q"), array("b"), 0
    with ExitStack() as stack:
        container, stream = open_film(path, stack, threads=0 if to_the_end else 1, video_stream=video_stream)
        try:
            for packet in container.demux(stream):
                for frame in _decoded(packet, to_the_end):
                    _check_count(path, len(shown))
                    time = MISSING if frame.pts is None else frame.pts
                    if not to_the_end and shown and shown[-1] >= time > MISSING:
                        continue  # damage can bring frames out late
                    shown.append(time)
                    keys.append(frame.key_frame)
                    duration = frame.duration or duration
        except (av.FFmpegError, OSError) as error:
            if to_the_end:
                raise Damaged(f"{path} is damaged at frame {len(shown)} ({reading_reason(error)}).") from error
        if not shown:
            raise UserError(f"{path} holds no frames: give another video.")
        pts, is_exact = np.array(shown, np.int64), True
        if (pts == MISSING).any():
            pts, is_exact = _made_up(np.full(len(pts), MISSING, np.int64), stream), False
        return _finished(pts, np.array(keys, bool), duration, container, stream, is_exact)


def _decoded(packet: Any, to_the_end: bool) -> Any:
    try:
        return packet.decode()
    except (av.FFmpegError, OSError):
        if to_the_end:
            raise
        return ()  # one frame less, and not the end


def _check_count(path: Path, count: int) -> None:
    if count >= MOST_FRAMES:
        raise Damaged(f"{path} has more than {MOST_FRAMES} frames, which no video has: it is damaged.")


def _first_frames(path: Path, video_stream: int | None, *, to_the_end: bool) -> list[int]:
    """When the first frames are shown, by the decoder; without ``to_the_end`` what is damaged is left out."""
    found: list[int] = []
    with ExitStack() as stack:
        container, stream = open_film(path, stack, threads=0 if to_the_end else 1, video_stream=video_stream)
        packets = container.demux(stream)
        while len(found) < VERIFIED:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError):
                break
            if packet is None:
                break
            try:
                found += [MISSING if frame.pts is None else frame.pts for frame in packet.decode()]
            except (av.FFmpegError, OSError):
                if to_the_end:
                    break  # whoever reads the frames meets it, and says where it is
    return found[:VERIFIED]


def _made_up(decoded: np.ndarray, stream: Any) -> np.ndarray:
    """Times of frames in order of display, from the times of decoding, or from the rate alone."""
    if (decoded != MISSING).all() and (np.diff(decoded) > 0).all():
        return decoded
    step = 1 / (Fraction(stream.average_rate or stream.guessed_rate or FOLDER_RATE) * stream.time_base)
    return np.array([round(index * step) for index in range(len(decoded))], np.int64)


def _finished(
    pts: np.ndarray, keys: np.ndarray, last_duration: int, container: Any, stream: Any, is_exact: bool
) -> Timeline:
    if len(pts) > 1 and not (np.diff(pts) > 0).all():  # two frames at once, or a clock that goes back
        steps = np.arange(len(pts))
        pts, is_exact = np.maximum.accumulate(pts - steps) + steps, False
    typical = int(np.median(np.diff(pts))) if len(pts) > 1 else 0
    promised = promised_end(container, stream)
    duration = last_duration or typical
    if promised is not None and is_exact:
        ends = {promised}
        if container.format.name.startswith("mov"):  # see promised_end
            ends.add(promised + max(0, stream.start_time or 0) * stream.time_base)
        rests = [round(end / stream.time_base) - int(pts[-1]) for end in ends]
        # A promise is believed where it is not about something else: a sound that is longer, a table that is cut.
        most = max(10 * typical, last_duration, round(1 / stream.time_base))
        duration = min(
            (rest for rest in rests if 0 < rest <= most), key=lambda rest: abs(rest - duration), default=duration
        )
    if not duration:
        duration = round(1 / (Fraction(stream.average_rate or FOLDER_RATE) * stream.time_base))
    return Timeline(pts, keys, max(1, duration), Fraction(stream.time_base), is_exact)
