"""Small real films with sound, subtitles and odd clocks, and what their packets say."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tecogan_dist.video.codecs import Encoding, Wishes, choose
from tecogan_dist.video.joining import join
from tecogan_dist.video.open import open_video
from tecogan_dist.video.properties import Properties, read_properties
from tecogan_dist.video.reader import VideoFile
from tecogan_dist.video.segments import SegmentWriter
from tecogan_dist.video.timeline import Timeline, read_timeline

CLOCK = Fraction(1, 90000)
SOUND_RATE = 48000


def moving(count: int, *, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames of noise that moves two pixels a frame, so that a wrong one is seen."""
    noise = np.random.default_rng(1).integers(0, 255, (height // 4, (width + 2 * count) // 4 + 1, 3), dtype=np.uint8)
    large = noise.repeat(4, axis=0).repeat(4, axis=1)
    return [np.ascontiguousarray(large[:height, 2 * index : 2 * index + width]) for index in range(count)]


def variable_times(count: int, *, start: int = 0, seed: int = 0) -> list[int]:
    """Times in units of CLOCK, 22 to 66 ms apart."""
    steps = np.random.default_rng(seed).integers(2000, 6000, count)
    return [start + int(time) for time in np.concatenate([[0], np.cumsum(steps)[:-1]])]


def write_film(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    times: Sequence[int] | None = None,
    clock: Fraction = CLOCK,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    sound: str | None = None,
    sound_start: int = 0,
    samples: np.ndarray | None = None,
    container_options: dict[str, str] | None = None,
    format: str | None = None,
    **context: Any,
) -> Path:
    """A film of RGB frames, uint8 or uint16, at ``times`` of ``clock`` (default: 25 a second), with B-frames.

    ``sound``: an audio codec; ``samples`` (default noise as long as the film) begin ``sound_start`` samples after 0.
    """
    times = [index * round(Fraction(1, 25) / clock) for index in range(len(frames))] if times is None else times
    with av.open(str(path), "w", format=format, container_options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        height, width, _ = frames[0].shape
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = clock
        for key, value in context.items():
            setattr(stream.codec_context, key, value)
        packets: list[Any] = []
        if sound is not None:
            packets += _sound(container, sound, sound_start, samples, times[-1] * clock)
        for frame, time in zip(frames, times, strict=True):
            name = "rgb24" if frame.dtype == np.uint8 else "rgb48le"
            picture = av.VideoFrame.from_ndarray(frame, format=name).reformat(format=pix_fmt)
            picture.pts, picture.time_base = time, clock
            packets += stream.encode(picture)
        packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: Fraction(packet.dts or 0) * packet.time_base):
            container.mux(packet)
    return path


def _sound(container: Any, codec: str, start: int, samples: np.ndarray | None, length: Fraction) -> list[Any]:
    stream = container.add_stream(codec, rate=SOUND_RATE, layout="mono")
    if samples is None:
        samples = np.random.default_rng(2).uniform(-0.2, 0.2, int(length * SOUND_RATE)).astype(np.float32)
    size = 1024 if codec != "libopus" else 960
    packets: list[Any] = []
    for begin in range(0, len(samples) - size, size):
        part = samples[None, begin : begin + size]
        name = "fltp" if codec == "aac" else "flt" if codec == "libopus" else "s16"
        data = part if name != "s16" else (part * 32767).astype(np.int16)
        block = av.AudioFrame.from_ndarray(np.ascontiguousarray(data), format=name, layout="mono")
        block.sample_rate, block.pts, block.time_base = SOUND_RATE, start + begin, Fraction(1, SOUND_RATE)
        packets += stream.encode(block)
    for packet in [*packets, *(late := stream.encode(None))]:
        packet.stream = stream
    return [*packets, *late]


def packets_of(path: Path, kind: str, number: int = 0) -> list[tuple[Fraction, Fraction, bytes]]:
    """Times of display and of decoding in seconds, and contents, of the packets of a stream."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[number]
        return [
            (Fraction(packet.pts or 0) * packet.time_base, (packet.dts or 0) * packet.time_base, bytes(packet))
            for packet in container.demux(stream)
            if packet.size
        ]


def shown_at(path: Path) -> list[Fraction]:
    """When each frame is shown, by the decoder."""
    with av.open(str(path)) as container:
        return [Fraction(frame.pts or 0) * (frame.time_base or 1) for frame in container.decode(video=0)]


class Made:
    """A source copied, frame by frame, through segments into an output."""

    def __init__(self, source: Path, output: Path, *, cuts: Sequence[int] = (), wishes: Wishes | None = None) -> None:
        self.source, self.output = source, output
        self.properties: Properties = read_properties(source)
        self.timeline: Timeline = read_timeline(source)
        self.encoding: Encoding
        self.encoding, self.notes = choose(output.suffix, self.properties, wishes)
        self.cuts = list(cuts)

    def segments(self, start: int = 0, stop: int | None = None, *, name: str = "segment") -> list[Path]:
        stop = len(self.timeline) if stop is None else stop
        film = open_video(self.source, timeline=self.timeline, deep=self.encoding.deep)
        assert isinstance(film, VideoFile)
        files = []
        bounds = [start, *(cut for cut in self.cuts if start < cut < stop), stop]
        for number, (first, last) in enumerate(itertools.pairwise(bounds)):
            file = self.output.with_name(f"{self.output.stem}_{name}_{number}{self.encoding.suffix}")
            with SegmentWriter(file, encoding=self.encoding) as writer:
                for frame in film.frames(first, last):
                    writer.write(frame)
            files.append(file)
        return files

    def join(self, start: int = 0, stop: int | None = None) -> list[str]:
        return join(
            self.segments(start, stop),
            output=self.output,
            encoding=self.encoding,
            source=self.source,
            timeline=self.timeline,
            start=start,
            stop=stop,
        )
