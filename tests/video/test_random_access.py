"""Frames from the middle of a video are those of a decoding from its start, whatever its key frames are like."""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.video import decoding
from tecogan_dist.video.checking import verify_joined
from tecogan_dist.video.open import open_video
from tecogan_dist.video.reader import VideoFile
from tecogan_dist.video.source import Damaged
from tecogan_dist.video.timeline import Timeline, _from_frames, read_timeline
from tests.support.films import CLOCK, Made, moving, shown_at, variable_times, write_film

QUIET = "log-level=none"
FILMS: dict[str, dict[str, Any]] = {
    "h264_b.mp4": {"codec": "libx264", "options": {"g": "9", "bf": "3"}},
    "h264_open.mkv": {"codec": "libx264", "options": {"g": "9", "bf": "3", "x264-params": "open-gop=1:b-pyramid=2"}},
    "h264_refresh.mp4": {"codec": "libx264", "options": {"g": "12", "intra-refresh": "1"}},
    "h264.ts": {"codec": "libx264", "options": {"g": "9", "bf": "2"}, "clock": Fraction(1, 25)},
    "hevc.mp4": {"codec": "libx265", "options": {"g": "9", "x265-params": f"{QUIET}:open-gop=1:bframes=4"}},
    "hevc.mkv": {"codec": "libx265", "options": {"g": "9", "x265-params": f"{QUIET}:open-gop=0"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "9", "lag-in-frames": "8", "auto-alt-ref": "1"}},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "9", "lag-in-frames": "8", "auto-alt-ref": "1"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"g": "9", "preset": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "9"}, "clock": Fraction(1, 25)},
    "mpeg4_b.avi": {"codec": "mpeg4", "options": {"g": "9", "bf": "2"}, "clock": Fraction(1, 25)},
    "mpeg4_b.mp4": {"codec": "mpeg4", "options": {"g": "9", "bf": "2"}, "clock": Fraction(1, 25)},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "9", "bf": "2"}, "clock": Fraction(1, 25)},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "ffv1.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
}


def made(tmp_path: Path, name: str, count: int = 40) -> Path:
    settings: dict[str, Any] = dict(FILMS[name])
    times = None if "clock" in settings else variable_times(count, start=9000)
    return write_film(tmp_path / name, moving(count), times=times, **settings)


@pytest.mark.parametrize("name", FILMS)
def test_frames_from_the_middle_are_those_of_the_whole(tmp_path: Path, name: str) -> None:
    path = made(tmp_path, name)
    whole = list(open_video(path).frames())
    timeline = read_timeline(path)
    assert len(timeline) == len(whole) == 40
    if timeline.is_exact:
        expected = shown_at(path)
        assert [int(pts) * timeline.time_base for pts in timeline.pts] == expected
    for threads in (1, 3):
        source = open_video(path, timeline=timeline, threads=threads)
        for start, stop in ((0, 3), (1, 4), (8, 11), (9, 12), (10, 20), (17, 19), (26, 30), (36, None), (39, None)):
            part = list(source.frames(start, stop))
            assert len(part) == (stop or 40) - start, (name, start)
            for frame, expected_frame in zip(part, whole[start:stop], strict=True):
                assert np.array_equal(frame, expected_frame), (name, start)
    assert [
        np.array_equal(*pair)
        for pair in zip(source.frames_at([3, 21, 39, 70]), [whole[i] for i in (3, 21, 39)], strict=True)
    ] == [True] * 3


def test_the_middle_is_not_decoded_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path, "h264_b.mp4")
    timeline = read_timeline(path)
    source = open_video(path, timeline=timeline)
    seen: list[int] = []
    whole = decoding._checked

    def recorded(opened: decoding.Decoding, key: int | None, line: Timeline) -> object:
        for number, frame in whole(opened, key, line):
            seen.append(number)
            yield number, frame

    monkeypatch.setattr(decoding, "_checked", recorded)
    assert len(list(source.frames(30, 33))) == 3
    assert min(seen) == 27
    assert max(seen) < 36


@pytest.mark.parametrize("name", ["h264_b.mp4", "mpeg4.avi", "vp9.webm", "hevc.mkv"])
def test_a_table_of_key_frames_that_lies(tmp_path: Path, name: str) -> None:
    """All frames are said to be key frames: what a seek brings is looked at, and decoding begins further back."""
    path = made(tmp_path, name)
    whole = list(open_video(path).frames())
    timeline = read_timeline(path)
    lying = replace(timeline, keys=np.ones(40, bool))
    for start in (3, 13, 22, 31, 39):
        for frame, expected in zip(open_video(path, timeline=lying).frames(start), whole[start:], strict=True):
            assert np.array_equal(frame, expected), start


def test_packets_without_pictures_and_edit_lists(tmp_path: Path) -> None:
    """An edit list that begins in the middle takes away packets that are decoded and not shown."""
    path = made(tmp_path, "h264_b.mp4")
    data = bytearray(path.read_bytes())
    place = data.index(b"elst")
    version = data[place + 4]
    count = struct.unpack_from(">I", data, place + 8)[0]
    assert (version, count) in ((0, 1), (0, 2))
    entry = place + 12 + 12 * (count - 1)
    length, media = struct.unpack_from(">ii", data, entry)
    timeline = read_timeline(path)
    skipped = int(timeline.pts[13] - timeline.pts[0])
    struct.pack_into(">ii", data, entry, length - skipped // 90, media + skipped)  # 1/1000 s, and the film's ticks
    edited = tmp_path / "edited.mp4"
    edited.write_bytes(data)
    whole = list(open_video(path).frames())
    shown = read_timeline(edited)
    seen = list(open_video(edited).frames())
    assert timeline.time_base == CLOCK
    assert len(shown) == len(seen) == 40 - 13
    for frame, expected in zip(seen, whole[13:], strict=True):
        assert np.array_equal(frame, expected)
    for start in (0, 1, 5, 20):
        for frame, expected in zip(open_video(edited, timeline=shown).frames(start), seen[start:], strict=True):
            assert np.array_equal(frame, expected)


def test_times_of_a_timeline(tmp_path: Path) -> None:
    times = variable_times(30, start=4320)
    path = write_film(tmp_path / "v.mp4", moving(30), times=times)
    timeline = read_timeline(path)
    assert timeline.pts.tolist() == times
    assert timeline.durations[:-1].tolist() == np.diff(times).tolist()
    assert timeline.durations[-1] == 3600  # the encoder's 1/25 s
    assert (timeline.start, timeline.time_base) == (times[0] * CLOCK, CLOCK)
    assert timeline.end == (times[-1] + 3600) * CLOCK
    assert not timeline.is_constant
    for index in (0, 1, 17, 29):
        assert timeline.index_at(timeline.time(index)) == index
        assert timeline.index_at(timeline.time(index + 1) - CLOCK) == index
    assert timeline.index_at(1000) == 30
    timeline.save(tmp_path / "line.npz")
    loaded = Timeline.load(tmp_path / "line.npz")
    assert loaded.pts.tolist() == times
    assert (loaded.keys == timeline.keys).all()
    assert (loaded.time_base, loaded.last_duration, loaded.is_exact) == (CLOCK, 3600, True)
    (tmp_path / "line.npz").write_bytes(b"no timeline")
    with pytest.raises(UserError, match="is damaged"):
        Timeline.load(tmp_path / "line.npz")
    assert read_timeline(write_film(tmp_path / "c.mp4", moving(8))).is_constant


def damaged_film(tmp_path: Path, packets: tuple[int, ...], *, bf: int = 0) -> tuple[Path, list[int]]:
    """A film some of whose packets are rubbish; which frames these are."""
    path = write_film(tmp_path / "v.mp4", moving(40), options={"g": "10", "bf": str(bf)})
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        found = [(packet.pos, packet.size, packet.pts) for packet in container.demux(video=0) if packet.size]
    order = sorted(pts for _, _, pts in found if pts is not None)
    numbers = []
    for number in packets:
        position, size, pts = found[number]
        assert position is not None
        assert pts is not None
        data[position + 4 : position + size] = np.random.default_rng(0).bytes(size - 4)
        numbers.append(order.index(pts or 0))
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(data)
    return bad, numbers


def test_damage_stops_or_is_replaced_by_the_last_good_frame(tmp_path: Path) -> None:
    path, numbers = damaged_film(tmp_path, (13, 14, 25))
    with pytest.raises(Damaged, match=r"is damaged at frame 1[34]"):
        list(open_video(path).frames())
    source = open_video(path, on_damage="repeat")
    assert isinstance(source, VideoFile)
    frames = list(source.frames())
    assert source.damaged == set(numbers) == {13, 14, 25}
    assert len(frames) == 40
    good = list(open_video(tmp_path / "v.mp4").frames())
    for index in (*range(13), *range(20, 25), *range(30, 40)):
        assert np.array_equal(frames[index], good[index])
    for index in (13, 14):
        assert np.array_equal(frames[index], good[12])
    assert np.array_equal(frames[25], frames[24])
    previews = list(source.previews(32))
    assert len(previews) == 40
    for start in (0, 5, 12, 13, 14, 15, 21, 25, 26, 35):
        again = open_video(path, on_damage="repeat", timeline=source.timeline())
        for frame, expected in zip(again.frames(start), frames[start:], strict=True):
            assert np.array_equal(frame, expected), start


@pytest.mark.parametrize("packets", [(13, 14, 25), (1,), (13,), (3,), (5, 30)])
def test_damage_among_b_frames_takes_no_other_frames_away(tmp_path: Path, packets: tuple[int, ...]) -> None:
    """Rubbish after a good beginning changes the order in which frames come out, where nothing else fails."""
    whole = write_film(tmp_path / "v.mp4", moving(40), options={"g": "10"})
    good, times = list(open_video(whole).frames()), read_timeline(whole).pts.tolist()
    with av.open(str(whole)) as container:
        found: list[Any] = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for seed in range(3):
        data = bytearray(whole.read_bytes())
        for number in packets:
            position, size = found[number]
            begin = position + max(5, size // 3)
            data[begin : position + size] = np.random.default_rng(number + seed).bytes(position + size - begin)
        path = tmp_path / f"bad{seed}.mp4"
        path.write_bytes(data)
        source = open_video(path, on_damage="repeat")
        assert isinstance(source, VideoFile)
        assert source.timeline().pts.tolist() == times
        frames = list(source.frames())
        assert len(frames) == 40
        broken = {number // 10 for number in packets}
        for index in range(40):
            if index // 10 not in broken:
                assert np.array_equal(frames[index], good[index]), index
        for start in (0, 5, 10, 15, 26, 39):
            again = open_video(path, on_damage="repeat", timeline=source.timeline())
            assert len(list(again.frames(start))) == 40 - start


def test_a_damaged_packet_is_not_the_end(tmp_path: Path) -> None:
    """A film in fields, two packets a frame, or without times: frames after the damage are found all the same."""
    path, _ = damaged_film(tmp_path, (13,))
    line = _from_frames(path, None, to_the_end=False)
    assert len(line) == 39
    assert line.pts[-1] == read_timeline(tmp_path / "v.mp4").pts[-1]


def test_the_last_frame_of_a_program_stream_is_as_short_as_others(tmp_path: Path) -> None:
    """FFmpeg's duration of a stream in an .mpg is no promise of its end: the last frame was shown for 300 ms."""
    film = {"codec": "mpeg2video", "clock": Fraction(1, 25), "options": {"bf": "2", "g": "6"}}
    source = write_film(tmp_path / "v.mpg", moving(8), sound="mp2", **film)  # type: ignore[arg-type]
    assert read_timeline(source).last_duration == 3600
    made = Made(source, tmp_path / "o.mp4")
    made.join()
    verify_joined(made.output, timeline=made.timeline)


def test_damaged_key_and_first_frames(tmp_path: Path) -> None:
    for packets in ((0,), (10,), (39,)):
        path, numbers = damaged_film(tmp_path, packets)
        source = open_video(path, on_damage="repeat")
        assert isinstance(source, VideoFile)
        frames = list(source.frames())
        assert len(frames) == 40
        assert set(numbers) <= source.damaged
        for start in (0, 1, 9, 10, 12, 20, 39):
            again = open_video(path, on_damage="repeat", timeline=source.timeline())
            for frame, expected in zip(again.frames(start), frames[start:], strict=True):
                assert np.array_equal(frame, expected), (packets, start)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = write_film(tmp_path / "v.mp4", moving(40))
    source = open_video(path)
    frames = source.frames()
    next(frames)
    with open(path, "ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match=r"v\.mp4 changed while it was read"):
        list(frames)
    frames = open_video(path).frames(0, 10)
    next(frames)
    path.touch()
    with pytest.raises(UserError, match="changed while it was read"):
        list(frames)
