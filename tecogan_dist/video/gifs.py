"""A GIF from segments: one palette of 256 colours for the whole film, found in a first pass over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.filter import Graph

from tecogan_dist.video.opening import open_film
from tecogan_dist.video.segments import open_output
from tecogan_dist.video.timeline import Timeline

TICK = Fraction(1, 100)
SHORTEST = 2
"""Ticks: what is shown for less, players show for a tenth of a second."""
DITHER = "dither=bayer:bayer_scale=3"
"""A pattern that stands still; noise would flicker, and grow the file."""


def write_gif(segments: Sequence[Path], output: Path, part: Timeline, *, has_streams: bool) -> list[str]:
    """Write the frames of all segments, with the times of ``part`` rounded to 1/100 s; sentences on what is lost."""
    palette = _palette(segments)
    times = _times(part)
    with ExitStack() as stack:
        container = stack.enter_context(open_output(output, "gif"))
        stream: Any = None
        graph = Graph()
        sink: Any = None
        for index, frame in enumerate(_frames(segments)):
            frame.pts, frame.time_base = times[index], TICK
            if stream is None:
                stream = container.add_stream("gif", rate=100)
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "pal8"
                stream.codec_context.time_base = TICK
                stream.codec_context.thread_count = 1
                sink = _painting(graph, frame, palette)
            graph.push(frame, at=0)
            for painted in _pulled(sink):
                container.mux(stream.encode(painted))
        graph.push(None)
        for painted in _pulled(sink):
            container.mux(stream.encode(painted))
        for packet in stream.encode(None):
            container.mux(packet)
        container.close()
    sentences = ["GIFs have 256 colours and no sound: nothing but the pictures is kept."] if has_streams else []
    if any(int(time) * part.time_base % TICK for time in part.pts - part.pts[0]):
        sentences.append("GIFs count time in steps of 10 ms, 20 at least: times of frames are rounded to that.")
    return sentences


def _times(part: Timeline) -> list[int]:
    """In ticks from 0 on, none closer to the one before than SHORTEST."""
    times: list[int] = []
    for pts in part.pts:
        time = round(int(pts - part.pts[0]) * part.time_base / TICK)
        times.append(max(time, times[-1] + SHORTEST) if times else 0)
    return times


def _frames(segments: Sequence[Path]) -> Iterator[Any]:
    for segment in segments:
        with ExitStack() as stack:
            container, stream = open_film(segment, stack)
            for packet in container.demux(stream):
                yield from packet.decode()


def _palette(segments: Sequence[Path]) -> Any:
    graph = Graph()
    sink: Any = None
    for frame in _frames(segments):
        if sink is None:
            source = graph.add_buffer(template=frame, time_base=TICK)
            sink = graph.add("buffersink")
            graph.link_nodes(source, graph.add("palettegen", "stats_mode=full:reserve_transparent=0"), sink).configure()
        graph.push(frame)
    graph.push(None)
    return sink.pull()


def _painting(graph: Graph, frame: Any, palette: Any) -> Any:
    film = graph.add_buffer(template=frame, time_base=TICK, name="film")
    colours = graph.add_buffer(template=palette, time_base=TICK, name="colours")
    use, sink = graph.add("paletteuse", DITHER), graph.add("buffersink")
    film.link_to(use, 0, 0)
    colours.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    palette.pts, palette.time_base = 0, TICK
    graph.push(palette, at=1)
    colours.push(None)
    return sink


def _pulled(sink: Any) -> Iterator[Any]:
    while True:
        try:
            yield sink.pull()
        except (av.BlockingIOError, av.EOFError):
            return
