"""The streams beside a film: copied packet by packet, bit for bit, where the output's container takes them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Discard, Disposition

from tecogan_dist.base.console import printable
from tecogan_dist.video.opening import open_container

TRIED = 3
"""First packets of a stream that are given to a trial of the output: what a container refuses, it refuses at once."""
SEARCHED = 5000
"""Packets of other streams that are searched for the first ones of each stream."""
OWN_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands", "rotate"}
"""What a file says of how itself was made."""
STATISTICS = ("BPS", "DURATION", "NUMBER_OF_FRAMES", "NUMBER_OF_BYTES", "_STATISTICS_")
"""Beginnings of tags that count a stream's contents; Matroska's writers put them in."""
MOV = ("mp4", "mov", "ipod")
MAC_LANGUAGES = {
    "deu": "ger",
    "nld": "dut",
    "swe": "sve",
    "fre": "fra",
    "ell": "gre",
    "isl": "ice",
    "zho": "chi",
    "rum": "ron",
    "cze": "ces",
    "slo": "slk",
    "sqi": "alb",
    "mkd": "mac",
    "hrv": "hr ",
    "srp": "sr ",
    "fao": "fo ",
}
"""A .mov has numbers for languages, which FFmpeg finds by these names alone (`mov_mdhd_language_map` of isom.c)."""
COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}


@dataclass(frozen=True)
class Span:
    """A part of the source's clock in seconds, None where it is open; ``offset`` is added to what is in it."""

    start: Fraction | None = None
    stop: Fraction | None = None
    offset: Fraction = Fraction(0)


class OtherStreams:
    """The streams of an opened source but the film, added to ``output`` in the source's order.

    ``sentences`` says which were left out. :meth:`packets` gives what is to be muxed.
    """

    def __init__(self, path: Path, source: Any, film: Any, output: Any, *, name: str, span: Span, suffix: str) -> None:
        self.sentences: list[str] = []
        self._source, self._span = source, span
        self._targets: dict[int, Any] = {}
        self._last: dict[int, int] = {}
        self._covers: set[int] = set()
        self._decoded: dict[int, Iterator[int]] = {}
        first = _first_packets(path, film.index)
        for stream in source.streams:
            if stream.index == film.index:
                continue
            if self._is_made_anew(stream, film, name):
                continue
            packets = first.get(stream.index, [])
            if name in ("matroska", "webm") and self._as_attachment(stream, packets, output, name):
                continue
            if _takes(name, stream, packets):
                self._targets[stream.index] = _added(output, stream)
                if stream.type == "video" and any(packet.dts is None for packet in packets):
                    self._decoded[stream.index] = _decoding_times(path, stream.index)
            else:
                self.sentences.append(
                    f"{_described(stream)} cannot be in a {suffix} file and is left out"
                    + (": use .mkv to keep it." if name not in ("matroska",) else ".")
                )

    def _is_made_anew(self, stream: Any, film: Any, name: str) -> bool:
        """An mp4's track of chapters, and tracks of timecode where a film has a timecode among its tags."""
        if stream.type == "data" and stream.discard == Discard.all:
            return True  # FFmpeg has read it as chapters
        is_timecode = stream.type == "data" and "timecode" in film.metadata and stream.metadata.get("timecode")
        return bool(is_timecode and name in MOV)

    def _as_attachment(self, stream: Any, packets: list[Any], output: Any, name: str) -> bool:
        """Matroska has covers as attached files, and FFmpeg does not write them as streams."""
        codec = stream.codec_context.name if stream.codec_context is not None else ""
        is_cover = stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)
        if not (is_cover and name == "matroska" and packets and codec in COVERS):
            return False
        file, kind = COVERS[codec]
        output.add_attachment(stream.metadata.get("filename", file), kind, bytes(packets[0]))
        return True

    def packets(self) -> Iterator[tuple[Fraction, Any]]:
        """Times in the output and packets, in the source's order."""
        if not self._targets:
            return
        for packet in self._source.demux([self._source.streams[index] for index in self._targets]):
            if packet.size or packet.pts is not None:
                moved = self._moved(packet)
                if moved is not None:
                    yield moved

    def _moved(self, packet: Any) -> tuple[Fraction, Any] | None:
        stream, span = packet.stream, self._span
        base, target = Fraction(stream.time_base), self._targets[stream.index]
        shown = packet.pts if packet.pts is not None else packet.dts
        if shown is None:  # as of a stream without any times: one after the other
            shown = self._last.get(stream.index, 0)
        is_cover = bool(stream.disposition & Disposition.attached_pic)
        offset = round(span.offset / base)
        duration = packet.duration or 0
        if is_cover:
            if stream.index in self._covers:
                return None
            self._covers.add(stream.index)
        elif (span.stop is not None and shown * base >= span.stop) or _is_before(packet, shown, span):
            return None
        if is_mov_text_gap(packet, target):
            return None
        decoded = self._decoded.get(stream.index)
        if decoded is not None:
            packet.dts = next(decoded, packet.dts)
        if packet.pts is None:
            packet.pts = shown
        if packet.dts is None:
            packet.dts = packet.pts
        if span.start is not None and not is_cover and stream.type == "subtitle" and shown * base < span.start:
            begin = -(-span.start // base)  # one that is on the screen when the span begins
            packet.duration = duration - (begin - shown)
            packet.pts = packet.dts = begin
        packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
        self._last[stream.index] = shown + duration
        time = packet.dts * base
        packet.stream = target
        return time, packet


def _is_before(packet: Any, shown: int, span: Span) -> bool:
    if span.start is None:
        return False
    base = Fraction(packet.stream.time_base)
    end = shown + (packet.duration or 0) if packet.stream.type == "subtitle" else shown
    return end * base < span.start or (end * base == span.start and end != shown)


def is_mov_text_gap(packet: Any, target: Any) -> bool:
    """Whether a packet is an mp4's "no text now", which its writer puts in by itself."""
    context = target.codec_context
    return packet.size == 2 and context is not None and context.name == "mov_text" and bytes(packet) == b"\0\0"


def copy_tags(source: Any, target: Any, *, whole: bool) -> None:
    """The tags of a container or a stream, without what is only true of the source's file."""
    for key, value in source.metadata.items():
        if key not in OWN_TAGS and (whole or not key.startswith(STATISTICS)) and not key.startswith("DURATION"):
            target.metadata[key] = value


def copy_stream_tags(source: Any, target: Any, output: Any, *, whole: bool) -> None:
    """The tags of a stream. An mp4 calls a track's title its name when it is read, and takes only a title to write."""
    copy_tags(source, target, whole=whole)
    title = source.metadata.get("name")
    if title and "title" not in source.metadata:
        target.metadata["title"] = title
        del target.metadata["name"]
    language = source.metadata.get("language", "")
    if output.format.name == "mov" and language in MAC_LANGUAGES:
        target.metadata["language"] = MAC_LANGUAGES[language]


def chapters(source: Any, span: Span) -> list[dict[str, Any]]:
    """A source's chapters, cut to the span and moved with it."""
    found: list[dict[str, Any]] = []
    for chapter in source.chapters():
        base = Fraction(chapter["time_base"] or Fraction(1, av.time_base))
        start, end = chapter["start"] * base, chapter["end"] * base
        if (span.stop is not None and start >= span.stop) or (span.start is not None and end <= span.start):
            continue
        start = start if span.start is None else max(start, span.start)
        end = end if span.stop is None else min(end, span.stop)
        moved = (round((time + span.offset) / base) for time in (start, end))
        found.append({**chapter, "start": max(0, next(moved)), "end": max(0, next(moved))})
    return found


def _first_packets(path: Path, film: int) -> dict[int, list[Any]]:
    """The first packets of each stream but number ``film``."""
    found: dict[int, list[Any]] = {}
    with ExitStack() as stack, suppress(av.FFmpegError, OSError):
        source = open_container(path, stack)
        others = [stream for stream in source.streams if stream.index != film and stream.type != "attachment"]
        if not others:
            return found
        for number, packet in enumerate(source.demux(others)):
            packets = found.setdefault(packet.stream.index, [])
            if packet.size and len(packets) < TRIED:
                packets.append(packet)
            is_enough = len(found) == len(others) and all(len(some) >= TRIED for some in found.values())
            if number >= SEARCHED or is_enough:
                break
    return found


def decoding_times(pts: np.ndarray) -> np.ndarray:
    """Times of decoding for packets in order of decoding with these times of display.

    They are the times of display, in order, as many places earlier as packets come before their turn: never later than
    a packet's own, and always growing if no two frames are shown at once.
    """
    count = np.arange(len(pts))
    order = np.argsort(pts, kind="stable")
    ranks = np.empty(len(pts), np.int64)
    ranks[order] = count
    depth = int((count - ranks).max(initial=0))
    shown = pts[order]
    step = max(1, int(shown[1] - shown[0])) if len(shown) > 1 else 1
    before = shown[:1] - step * np.arange(depth, 0, -1)
    return np.concatenate([before, shown])[: len(pts)]


def _decoding_times(path: Path, index: int) -> Iterator[int]:
    """Those of a stream whose file says only when frames are shown, as Matroska does; one after the other."""
    with ExitStack() as stack:
        container = open_container(path, stack)
        packets = container.demux(container.streams[index])
        pts = np.array([packet.pts for packet in packets if packet.size and packet.pts is not None], np.int64)
    return map(int, decoding_times(pts))


def _added(output: Any, stream: Any) -> Any:
    target = output.add_stream_from_template(stream, opaque=True)
    target.time_base = stream.time_base
    target.disposition = stream.disposition
    copy_stream_tags(stream, target, output, whole=True)
    return target


def _takes(name: str, stream: Any, packets: list[Any]) -> bool:
    """Whether a container of this format takes the stream, by trying it with the stream alone."""
    if name == "webm" and stream.type == "attachment":
        return False  # FFmpeg leaves them out without a word
    try:
        with av.open(io.BytesIO(), "w", format=name) as trial:
            target = _added(trial, stream)
            trial.start_encoding()
            first = min((packet.pts for packet in packets if packet.pts is not None), default=0)
            step = max(1, round(Fraction(1, 20) / stream.time_base))  # apart on any container's clock
            for number, packet in enumerate(packets):
                copied = av.Packet(bytes(packet))
                copied.dts = number * step
                copied.pts = copied.dts if packet.pts is None else packet.pts - first + TRIED * step
                copied.duration, copied.time_base = packet.duration, packet.time_base
                copied.is_keyframe, copied.stream = True, target
                trial.mux(copied)
    except (av.FFmpegError, ValueError, OSError):
        return False
    return True


def _described(stream: Any) -> str:
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else (getattr(stream, "name", None) or "unknown")
    language = stream.metadata.get("language", "")
    marks = ", ".join(filter(None, (printable(codec), printable(language) if language not in ("", "und") else "")))
    return f"stream {stream.index} ({stream.type}: {marks})"
