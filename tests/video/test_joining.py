"""Segments become one video again: its pictures at the source's times, all other streams bit for bit."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from tecogan_dist.base.errors import UserError
from tecogan_dist.video.checking import segment_frames, verify_joined, verify_segment
from tecogan_dist.video.codecs import Wishes, choose
from tecogan_dist.video.joining import check_clock, join
from tecogan_dist.video.open import open_video
from tecogan_dist.video.properties import of_images
from tecogan_dist.video.segments import SegmentWriter
from tecogan_dist.video.source import Damaged
from tecogan_dist.video.timeline import read_timeline
from tests.support.films import Made, moving, packets_of, shown_at, variable_times, write_film


def opened(path: Path) -> Any:
    """PyAV's container; its types say that every clock may be missing."""
    return av.open(str(path))


CUTS = (1, 14, 15, 31)
CODECS = [
    (".mp4", Wishes()),
    (".mov", Wishes(preset="veryfast")),
    (".mp4", Wishes(codec="hevc", preset="ultrafast")),
    (".mp4", Wishes(codec="av1", preset="12")),
    (".mp4", Wishes(codec="vp9", preset="8")),
    (".mov", Wishes(codec="prores")),
]


def odd_film(path: Path, count: int = 40, **settings: Any) -> Path:
    """Variable rate, B-frames, a film that begins 100 ms after its sound, whose first packet is before 0."""
    return write_film(path, moving(count), times=variable_times(count, start=9000), sound="aac", **settings)


@pytest.mark.parametrize(("suffix", "wishes"), CODECS)
def test_times_and_sound_are_the_sources(tmp_path: Path, suffix: str, wishes: Wishes) -> None:
    source = odd_film(tmp_path / "source.mp4")
    made = Made(source, tmp_path / f"out{suffix}", cuts=CUTS, wishes=wishes)
    assert made.join() == []
    assert shown_at(made.output) == shown_at(source)
    assert packets_of(made.output, "audio") == packets_of(source, "audio")
    ours = read_timeline(made.output)
    assert (ours.last_duration, ours.time_base) == (made.timeline.last_duration, made.timeline.time_base)
    decoded = [time for _, time, _ in packets_of(made.output, "video")]
    assert all(first < second for first, second in itertools.pairwise(decoded))
    assert all(shown >= time for shown, time, _ in packets_of(made.output, "video"))
    frames = list(open_video(made.output).frames())
    wrong = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames, open_video(source).frames(), strict=True)]
    assert max(wrong) < 12  # of noise in colours; a frame in another's place is off by 50
    verify_joined(made.output, timeline=made.timeline)


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_matroska_keeps_its_own_clock_exactly_and_says_where_it_rounds(tmp_path: Path, suffix: str) -> None:
    times = [100 + 33 * index + index % 3 for index in range(20)]
    source = write_film(tmp_path / "s.mkv", moving(20), times=times, clock=Fraction(1, 1000), sound="libopus")
    made = Made(source, tmp_path / f"out{suffix}", cuts=(7,), wishes=Wishes(preset="8" if suffix == ".webm" else None))
    assert made.join() == []
    assert shown_at(made.output) == shown_at(source)
    assert packets_of(made.output, "audio") == packets_of(source, "audio")
    fine = write_film(tmp_path / "s.mp4", moving(20), times=variable_times(20))
    (sentence,) = Made(fine, tmp_path / f"fine{suffix}", wishes=made_wishes(suffix)).join()
    assert "steps of 1 ms" in sentence
    verify_joined(tmp_path / f"fine{suffix}", timeline=read_timeline(fine))
    assert max(abs(a - b) for a, b in zip(shown_at(tmp_path / f"fine{suffix}"), shown_at(fine), strict=True)) < 0.001


def made_wishes(suffix: str) -> Wishes:
    return Wishes(preset="8") if suffix == ".webm" else Wishes()


def test_sound_before_0_moves_all_streams_alike_in_matroska(tmp_path: Path) -> None:
    source = odd_film(tmp_path / "source.mp4")
    made = Made(source, tmp_path / "out.mkv")
    assert any("21 ms later, equally for all streams" in sentence for sentence in made.join())
    moved = shown_at(made.output)[0] - shown_at(source)[0]
    ours, theirs = packets_of(made.output, "audio"), packets_of(source, "audio")
    assert [data for *_, data in ours] == [data for *_, data in theirs]
    assert abs(ours[0][0] - theirs[0][0] - moved) < Fraction(1, 1000)


def rich_film(path: Path, *, with_files: bool) -> Path:
    """Film, a second film, two sounds, subtitles, chapters, tags, a cover, and a font where ``with_files``."""
    film = odd_film(path.with_name("plain.mp4"), 30)
    other = write_film(path.with_name("other.mp4"), moving(10, height=32, width=32))
    kept: list[Any] = []
    with opened(film) as first, av.open(str(other)) as second, av.open(str(path), "w") as copy:
        copy.metadata.update({"title": "A film", "artist": "Somebody"})
        targets = {}
        for number, stream in enumerate([*first.streams, *second.streams]):
            targets[number] = copy.add_stream_from_template(stream, opaque=True)
        again = copy.add_stream_from_template(first.streams.audio[0], opaque=True)
        targets[1].metadata.update({"language": "deu", "title": "Original"})
        again.metadata.update({"language": "eng"})
        targets[1].disposition = Disposition.default
        again.disposition = Disposition.comment
        text: Any = copy.add_mux_stream("subrip" if with_files else "mov_text")
        text.metadata["language"] = "fra"
        text.time_base = Fraction(1, 1000)
        if with_files:
            copy.add_attachment("font.ttf", "application/x-truetype-font", b"no real font")
        copy.set_chapters(
            [
                {"id": 1, "start": 0, "end": 600, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}},
                {"id": 2, "start": 600, "end": 1300, "time_base": Fraction(1, 1000), "metadata": {"title": "Two"}},
            ]
        )
        for number, container in ((0, first), (2, second)):
            for packet in container.demux():
                if packet.dts is None:
                    continue
                index = packet.stream.index + number
                if index == 1:
                    twin = av.Packet(bytes(packet))
                    twin.pts, twin.dts, twin.duration = packet.pts, packet.dts, packet.duration
                    twin.time_base, twin.stream, twin.is_keyframe = packet.time_base, again, True
                    kept.append(twin)
                packet.stream = targets[index]
                kept.append(packet)
        for begin, line in ((200, "Hello"), (700, "World")):
            data = line.encode() if with_files else len(line).to_bytes(2, "big") + line.encode()
            packet = av.Packet(data)
            packet.pts = packet.dts = begin
            packet.duration, packet.time_base, packet.stream = 400, Fraction(1, 1000), text
            kept.append(packet)
        for packet in sorted(kept, key=lambda packet: packet.dts * packet.time_base):
            copy.mux(packet)
    return path


def described(path: Path) -> list[tuple[str, str, str | None, int]]:
    with opened(path) as container:
        return [
            (s.type, s.codec_context.name if s.codec_context else "", s.language, int(s.disposition))
            for s in container.streams
        ]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
def test_all_other_streams_are_copied(tmp_path: Path, suffix: str) -> None:
    source = rich_film(tmp_path / f"rich{suffix}", with_files=suffix == ".mkv")
    made = Made(source, tmp_path / f"out{suffix}", cuts=(10,))
    assert [stream.kind for stream in made.properties.streams if stream.kind == "video"] == ["video"]
    assert made.join() == []
    assert described(made.output) == described(source)
    for kind, number in (("audio", 0), ("audio", 1), ("subtitles", 0), ("video", 1)):
        assert packets_of(made.output, kind, number) == packets_of(source, kind, number), (kind, number)
    with opened(source) as before, opened(made.output) as after:
        tags = [{key.lower(): text for key, text in container.metadata.items()} for container in (before, after)]
        for key in ("title", "artist"):
            assert tags[0][key] == tags[1][key]
        assert after.streams.audio[0].metadata.get("title") == before.streams.audio[0].metadata.get("title")
        chapters = [
            [
                (c["start"] * (c["time_base"] or 1), c["end"] * (c["time_base"] or 1), c["metadata"])
                for c in container.chapters()
            ]
            for container in (before, after)
        ]
        assert chapters[0] == chapters[1]
        assert len(chapters[0]) == 2
        if suffix == ".mkv":
            assert after.streams.attachments[0].data == b"no real font"
            assert after.streams.attachments[0].name == "font.ttf"


def test_what_a_container_cannot_hold_is_named(tmp_path: Path) -> None:
    source = rich_film(tmp_path / "rich.mkv", with_files=True)
    made = Made(source, tmp_path / "out.mp4")
    sentences = made.join()
    assert len(sentences) == 2
    assert (
        "stream 4 (subtitle: subrip, fra) cannot be in a .mp4 file and is left out: use .mkv to keep it." in sentences
    )
    assert any("attachment" in sentence for sentence in sentences)
    assert packets_of(made.output, "audio", 1) == packets_of(source, "audio", 1)
    made = Made(source, tmp_path / "out.webm", wishes=Wishes(preset="8"))
    assert sum("aac" in sentence for sentence in made.join()) == 2


@pytest.mark.parametrize(
    ("suffix", "title", "language"), [(".mp4", "name", "deu"), (".mov", "name", "ger"), (".mkv", "title", "deu")]
)
def test_a_track_keeps_its_title_and_its_language(tmp_path: Path, suffix: str, title: str, language: str) -> None:
    """An mp4 calls the title a name when it is read; .mov files know languages by a list of their own."""
    source = rich_film(tmp_path / "rich.mp4", with_files=False)
    with opened(source) as container:
        assert container.streams.audio[0].metadata["name"] == "Original"
    made = Made(source, tmp_path / f"out{suffix}")
    made.join()
    with opened(made.output) as container:
        tags = container.streams.audio[0].metadata
        assert (tags.get(title), tags.get("language")) == ("Original", language)


def test_what_is_left_out_without_a_word_elsewhere_is_named(tmp_path: Path) -> None:
    source = rich_film(tmp_path / "rich.mkv", with_files=True)
    sentences = Made(source, tmp_path / "out.webm", wishes=Wishes(preset="8")).join()
    assert any("attachment" in sentence and "left out" in sentence for sentence in sentences)
    plain = write_film(tmp_path / "s.mkv", moving(4), clock=Fraction(1, 1000), options={"bf": "0"})
    with opened(plain) as first, av.open(str(tmp_path / "c.mkv"), "w") as copy:
        target = copy.add_stream_from_template(first.streams.video[0], opaque=True)
        copy.set_chapters(
            [{"id": 1, "start": 0, "end": 90, "time_base": Fraction(1, 1000), "metadata": {"title": "A"}}]
        )
        for packet in first.demux(first.streams.video[0]):
            if packet.dts is not None:
                packet.stream = target
                copy.mux(packet)
    assert ".avi files have no chapters: they are left out." in Made(tmp_path / "c.mkv", tmp_path / "out.avi").join()


def test_hevc_of_narrow_pictures_leaves_memory_alone(tmp_path: Path) -> None:
    """x265 wrote beside its memory at widths of up to 48: glibc's checks see it where they are installed."""
    script = """
import sys
import numpy as np
from pathlib import Path
from tecogan_dist.video.codecs import Wishes, choose
from tecogan_dist.video.properties import of_images
from tecogan_dist.video.segments import SegmentWriter
noise = np.random.default_rng(0).integers(0, 255, (8, 32, 48, 3), dtype=np.uint8)
for width in (32, 48):
    encoding, _ = choose(".mkv", of_images(width, 32), Wishes(codec="hevc"))
    for _ in range(4):
        with SegmentWriter(Path(sys.argv[1]), encoding=encoding) as writer:
            for frame in noise:
                writer.write(frame[:, :width])
"""
    checks = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"}
    command = [sys.executable, "-c", script, str(tmp_path / "v.mp4")]
    done = subprocess.run(command, env={**os.environ, **checks}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_part_is_cut_out_of_all_streams(tmp_path: Path) -> None:
    source = rich_film(tmp_path / "rich.mkv", with_files=True)
    made = Made(source, tmp_path / "part.mkv", cuts=(14,))
    start, stop = 8, 21
    made.join(start, stop)
    times = shown_at(source)
    begin, end = times[start], times[stop]
    assert shown_at(made.output) == [time - begin for time in times[start:stop]]
    for number in (0, 1):
        expected = [(t - begin, data) for t, _, data in packets_of(source, "audio", number) if begin <= t < end]
        assert [(t, data) for t, _, data in packets_of(made.output, "audio", number)] == expected
    with opened(made.output) as container:
        texts = [(p.pts, p.duration, bytes(p)) for p in container.demux(subtitles=0) if p.size]
        assert [(c["start"] * (c["time_base"] or 1), c["metadata"]["title"]) for c in container.chapters()] == [
            (0, "One"),
            (Fraction(3, 5) - begin, "Two"),
        ]
    # The first text is on the screen when the part begins, for what is left of it.
    (hello, *_), (world, *_) = packets_of(source, "subtitles")
    assert texts[0] == (0, int((hello - begin) * 1000) + 400, b"Hello")
    assert texts[1] == (int((world - begin) * 1000), 400, b"World")
    verify_joined(made.output, timeline=made.timeline, start=start, stop=stop)


def test_claps_stay_in_sync_over_minutes(tmp_path: Path) -> None:
    """White frames and clicks at the same moments, in a film of variable rate that begins after its sound."""
    count, every = 3000, 97
    times = variable_times(count, start=13500, seed=5)
    frames = [np.full((16, 16, 3), 235 if index % every == 50 else 16, np.uint8) for index in range(count)]
    samples = np.zeros(int((times[-1] / 90000 + 1) * 48000), np.float32)
    claps = [round(Fraction(times[index], 90000) * 48000) for index in range(50, count, every)]
    for clap in claps:
        samples[clap : clap + 24] = 0.9
    source = write_film(tmp_path / "s.mp4", frames, times=times, sound="aac", samples=samples)
    made = Made(source, tmp_path / "out.mp4", cuts=range(250, count, 250), wishes=Wishes(preset="ultrafast"))
    assert made.timeline.end > 120
    assert made.join() == []
    for path in (source, made.output):
        with opened(path) as container:
            flashes = [
                Fraction(f.pts or 0) * (f.time_base or 1)
                for f in container.decode(video=0)
                if f.to_ndarray()[:16].mean() > 150
            ]
        with opened(path) as container:
            sound = np.zeros(len(samples) + 48000, np.float32)
            for block in container.decode(audio=0):
                begin = round(Fraction(block.pts or 0) * (block.time_base or 1) * 48000)
                data = block.to_ndarray()[0][max(0, -begin) :]
                sound[max(0, begin) : max(0, begin) + len(data)] = data
        assert len(flashes) == len(claps) > 25
        for flash, clap in zip(flashes, claps, strict=True):
            near = np.abs(sound[clap - 480 : clap + 480])
            assert abs(int(near.argmax()) - 480 - 12) <= 24  # where it was put, within half a millisecond
            assert abs(flash - Fraction(clap, 48000)) <= Fraction(1, 48000)


def test_what_is_joined_depends_on_nothing_else(tmp_path: Path) -> None:
    source = rich_film(tmp_path / "rich.mkv", with_files=True)
    for suffix in (".mp4", ".mkv", ".mov"):
        first = Made(source, tmp_path / f"first{suffix}", cuts=(10, 20))
        second = Made(source, tmp_path / f"second{suffix}", cuts=(10, 20))
        first.join()
        second.join()
        assert first.output.read_bytes() == second.output.read_bytes()


def test_segments_that_do_not_fit_together(tmp_path: Path) -> None:
    source = odd_film(tmp_path / "source.mp4", 20)
    made = Made(source, tmp_path / "out.mp4", cuts=(10,))
    first, second = made.segments()
    other = Made(source, tmp_path / "out.mp4", cuts=(10,), wishes=Wishes(quality=30))
    strange = other.segments(name="other")[1]
    with pytest.raises(UserError, match="was encoded otherwise"):
        join([first, strange], output=made.output, encoding=made.encoding, source=source, timeline=made.timeline)
    with pytest.raises(UserError, match="hold 10 frames and should hold 20"):
        join([first], output=made.output, encoding=made.encoding, source=source, timeline=made.timeline, stop=20)
    second.write_bytes(second.read_bytes()[:-200])
    with pytest.raises(Damaged, match="cannot be read"):
        join([first, second], output=made.output, encoding=made.encoding, source=source, timeline=made.timeline)
    assert not made.output.exists()


def test_segments_are_verified(tmp_path: Path) -> None:
    source = odd_film(tmp_path / "source.mp4", 20)
    made = Made(source, tmp_path / "out.mp4")
    (segment,) = made.segments()
    verify_segment(segment, made.encoding, count=20, height=48, width=64)
    assert len(list(segment_frames(segment, made.encoding))) == 20
    with pytest.raises(Damaged, match="has 20 frames and should have 21"):
        verify_segment(segment, made.encoding, count=21, height=48, width=64)
    with pytest.raises(Damaged, match="has frames of 64x48, not 60x48"):
        verify_segment(segment, made.encoding, count=20, height=48, width=60)
    made.join()
    with pytest.raises(UserError, match="has 20 frames and should have 10"):
        verify_joined(made.output, timeline=made.timeline, stop=10)
    late = write_film(tmp_path / "late.mp4", moving(20))
    with pytest.raises(UserError, match="off their times"):
        verify_joined(late, timeline=made.timeline)


def test_a_segment_that_fails_leaves_nothing(tmp_path: Path) -> None:
    made = Made(odd_film(tmp_path / "source.mp4", 5), tmp_path / "out.mp4")
    path = tmp_path / "part.mp4"

    def write(sizes: list[int]) -> None:
        with SegmentWriter(path, encoding=made.encoding) as writer:
            for size in sizes:
                writer.write(np.zeros((size, size, 3), np.uint8))

    with pytest.raises(UserError, match="comes after frames of"):
        write([32, 34])
    with pytest.raises(UserError, match="has no frame"):
        write([])
    assert not list(tmp_path.glob("*part*"))
    write([33, 33])
    assert next(open_video(path).frames()).shape == (34, 34, 3)


def test_gifs_come_and_go_with_their_delays(tmp_path: Path) -> None:
    frames = [np.full((48, 64, 3), (40 * index, 90, 200 - 30 * index), np.uint8) for index in range(6)]
    times = [0, 9000, 12600, 45000, 48600, 90000]
    source = write_film(tmp_path / "s.mp4", frames, times=times)
    made = Made(source, tmp_path / "out.gif", cuts=(2, 3))
    assert made.join() == ["GIFs have 256 colours and no sound: nothing but the pictures is kept."]
    assert shown_at(made.output) == shown_at(source)
    for frame, expected in zip(open_video(made.output).frames(), frames, strict=True):
        assert np.abs(frame.astype(int) - expected).max() <= 12
    again = Made(made.output, tmp_path / "again.mp4")
    assert again.join() == []
    assert shown_at(again.output) == shown_at(source)
    timeline = read_timeline(made.output)
    assert timeline.durations.tolist()[:5] == [10, 4, 36, 4, 46]


def test_an_avi_has_one_rate(tmp_path: Path) -> None:
    source = write_film(tmp_path / "s.mp4", moving(20), sound="libmp3lame")
    made = Made(source, tmp_path / "out.avi", cuts=(7,))
    assert made.join() == [".avi files do not say when a stream begins: sound is in time if it began with the film."]
    assert len(list(open_video(made.output).frames())) == 20
    assert [data for *_, data in packets_of(made.output, "audio")] == [data for *_, data in packets_of(source, "audio")]
    verify_joined(made.output, timeline=made.timeline)
    with pytest.raises(UserError, match="not shown for equally long"):
        check_clock(".avi", read_timeline(odd_film(tmp_path / "v.mp4")))


def test_a_broadcast_begins_at_0(tmp_path: Path) -> None:
    """MPEG-TS has a clock that begins anywhere."""
    times = [90000 * 3600 + 3600 * index for index in range(20)]
    source = write_film(
        tmp_path / "s.ts",
        moving(20),
        times=times,
        sound="aac",
        sound_start=48000 * 3600 - 4800,
        samples=np.random.default_rng(0).uniform(-0.2, 0.2, 48000).astype(np.float32),
        options={"bf": "2", "g": "5"},
    )
    made = Made(source, tmp_path / "out.mp4")
    made.join()
    film, sound = shown_at(made.output), packets_of(made.output, "audio")
    assert min(film[0], sound[0][0]) == 0
    assert film[0] - sound[0][0] == shown_at(source)[0] - packets_of(source, "audio")[0][0]


@pytest.mark.parametrize(
    ("codec", "suffix"), [("h264", ".mp4"), ("hevc", ".mp4"), ("av1", ".mp4"), ("vp9", ".webm"), ("prores", ".mov")]
)
def test_segments_do_not_depend_on_the_machines_cores(tmp_path: Path, codec: str, suffix: str) -> None:
    """On one core, in another process: the same bytes. Frames are small, where x264 once drew lots."""
    speed = {"hevc": "ultrafast", "av1": "12", "vp9": "8"}.get(codec)
    encoding, _ = choose(suffix, of_images(64, 48), Wishes(codec=codec, preset=speed))
    for count in (1, 2, 24):
        np.save(tmp_path / "frames.npy", np.stack(moving(count)))
        (tmp_path / "encoding.json").write_text(json.dumps(encoding.to_plain()))
        for core in (None, min(os.sched_getaffinity(0))):
            command = [sys.executable, "-c", SEGMENT, str(tmp_path), f"{core}{encoding.suffix}"]
            placed = (lambda core=core: os.sched_setaffinity(0, {core})) if core is not None else None
            subprocess.run(command, check=True, preexec_fn=placed, stderr=subprocess.DEVNULL)
        one, *others = [path.read_bytes() for path in tmp_path.glob(f"*{encoding.suffix}")]
        assert others == [one]


SEGMENT = """
import json, sys
from pathlib import Path
import numpy as np
from tecogan_dist.video.codecs import Encoding
from tecogan_dist.video.properties import of_images
from tecogan_dist.video.segments import SegmentWriter

folder = Path(sys.argv[1])
encoding = Encoding.from_plain(json.loads((folder / "encoding.json").read_text()))
with SegmentWriter(folder / sys.argv[2], encoding=encoding) as writer:
    for frame in np.load(folder / "frames.npy"):
        writer.write(frame)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_covers_are_kept(tmp_path: Path, suffix: str) -> None:
    film = odd_film(tmp_path / "plain.mp4", 10)
    source = tmp_path / "cover.mp4"
    with av.open(str(film)) as before, av.open(str(source), "w") as copy:
        targets = {stream.index: copy.add_stream_from_template(stream, opaque=True) for stream in before.streams}
        picture: Any = copy.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 32, 32, "yuvj420p"
        picture.disposition = Disposition.attached_pic
        cover = picture.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8), format="rgb24"))
        cover += picture.encode(None)
        for packet in before.demux():
            if packet.dts is not None:
                packet.stream = targets[packet.stream.index]
                copy.mux(packet)
        copy.mux(cover)
    made = Made(source, tmp_path / f"out{suffix}", cuts=(4,))
    assert [stream.kind for stream in made.properties.streams] == ["audio", "cover"]
    sentences = made.join()
    assert not any("left out" in sentence for sentence in sentences)
    with av.open(str(made.output)) as after:
        covers = [stream for stream in after.streams.video if stream.disposition & Disposition.attached_pic]
        assert len(covers) == 1
        data = [bytes(packet) for packet in after.demux(covers[0]) if packet.size]
    assert data == [bytes(packet) for packet in cover if packet.size]
