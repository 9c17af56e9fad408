"""Videos as they come from elsewhere: odd, lying, damaged, hostile; each is read as it should be or is one sentence."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.prepare import main
from tecogan_dist.data.clips import ClipStore, open_clip
from tecogan_dist.video.matroska import SEGMENT, is_cut_off
from tecogan_dist.video.open import open_video
from tecogan_dist.video.source import Damaged
from tecogan_dist.video.writer import FrameWriter
from tests.support.video_files import coded_frame, write_video

PQ, HLG, BT2020_10 = 16, 18, 14
BT2020_NCL = 9


def write(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    codec: str,
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    **context: int,
) -> Path:
    """A video of RGB frames, or of uint16 ones whose channels are the planes of ``pix_fmt``; ``times`` in 1/100 s."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        for key, value in context.items():
            setattr(stream.codec_context, key, value)
        for index, frame in enumerate(frames):
            if not index:
                stream.height, stream.width = frame.shape[:2]
            if frame.dtype == np.uint8:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            else:
                picture = av.VideoFrame(stream.width, stream.height, pix_fmt)
                for plane, channel in zip(picture.planes, np.moveaxis(frame, 2, 0), strict=True):
                    rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
                    rows[:, : plane.width] = channel
                    plane.update(rows.tobytes())
            picture.pts = index if times is None else times[index]
            picture.time_base = Fraction(1, 25) if times is None else Fraction(1, 100)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def coded(count: int, *, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return [coded_frame(0, index, height=height, width=width) for index in range(count)]


def prepare(output: Path, *arguments: object) -> ClipStore:
    main([*map(str, arguments), "--output", str(output)])
    return ClipStore.open(output)


@pytest.mark.parametrize(("written", "claimed"), [(40, 100), (40, 7)])
def test_a_frame_count_that_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], written: int, claimed: int
) -> None:
    video = write(tmp_path / "v.avi", coded(12) * 3 + coded(4), codec="mpeg4", options={"qscale": "2"})
    data = bytearray(video.read_bytes())
    struct.pack_into("<I", data, data.index(b"strh") + 40, claimed)
    struct.pack_into("<I", data, data.index(b"avih") + 24, claimed)
    video.write_bytes(data)
    assert open_video(video).count == claimed
    store = prepare(tmp_path / "store", video, "--scene-length", 10)
    assert [(s.source_start, s.frames) for s in store.scenes] == [(0, 10), (10, 10), (20, 10), (30, 10)]
    table = capsys.readouterr().out
    # A promise of more looks like a file that was cut off; one of less takes nothing away.
    assert ("is cut off: it ends after 40 frames" in table) == (claimed > written)


def test_a_cut_off_file_promises_what_it_had(tmp_path: Path) -> None:
    for suffix in (".mkv", ".avi"):
        whole = write_video(tmp_path / f"whole{suffix}", 60)
        assert open_video(whole).count_frames() == 60
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        assert open_video(cut).count_frames() == {".mkv": 60, ".avi": 30}[suffix]  # FFmpeg estimates an avi's
        with pytest.raises(Damaged, match=r"cut off|damaged"):
            list(open_video(cut).frames())
        with pytest.raises(Damaged, match=r"cut off|damaged"):
            list(open_video(cut).previews(64))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate(tmp_path: Path, suffix: str) -> None:
    times = [0, 1, 2, 30, 31, 32, 90, 91, 130, 131, 132, 170]
    video = write(tmp_path / f"v{suffix}", coded(12), codec="ffv1", pix_fmt="yuv444p", times=times)
    source = open_video(video)
    assert source.count_frames() == 12
    blue = [round((frame[..., 2].mean() - 16) / 6) for frame in source.frames()]
    assert blue == list(range(12))  # each frame once, in order
    assert suffix == ".mkv" or 5 < source.rate < 9  # Matroska keeps what the encoder said
    assert [(s.source_start, s.frames) for s in prepare(tmp_path / "s", video, "--scene-length", 6).scenes] == [
        (0, 6),
        (6, 6),
    ]


@pytest.mark.parametrize(("codec", "suffix"), [("libvpx-vp9", ".webm"), ("ffv1", ".mkv")])
def test_odd_sizes(tmp_path: Path, codec: str, suffix: str) -> None:
    video = write(tmp_path / f"v{suffix}", coded(6, height=51, width=67), codec=codec, options={"crf": "4"})
    store = prepare(tmp_path / "store", video)
    (scene,) = store.scenes
    assert (scene.height, scene.width, scene.frames) == (51, 67, 6)
    for index, frame in enumerate(open_clip(store.path, scene).frames()):
        assert np.abs(frame.astype(int) - coded_frame(0, index, height=51, width=67)).mean() < 4
    (halved,) = prepare(tmp_path / "halved", video, "--downscale", 2).scenes
    assert (halved.height, halved.width) == (25, 33)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (270, 1)])
def test_a_picture_that_is_to_be_shown_rotated_is_rotated(tmp_path: Path, degrees: int, turns: int) -> None:
    """A phone's video; ``degrees`` clockwise, as numpy's ``turns`` are not."""
    frame = coded_frame(0, 5, height=48, width=64)
    video = write(tmp_path / "v.mp4", [frame] * 3, codec="libx264", pix_fmt="yuv444p", options={"crf": "4"})
    data = bytearray(video.read_bytes())
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    matrix = (cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *matrix)
    video.write_bytes(data)
    store = prepare(tmp_path / "store", video)
    (scene,) = store.scenes
    expected = np.rot90(frame, turns)
    assert (scene.height, scene.width) == expected.shape[:2]
    assert np.abs(next(open_clip(store.path, scene).frames()).astype(int) - expected).mean() < 3


@pytest.mark.parametrize(("matrix", "planes"), [(1, (250, 409, 960)), (BT2020_NCL, (294, 387, 960))])
def test_ten_bits_are_rounded_to_eight(tmp_path: Path, matrix: int, planes: tuple[int, int, int]) -> None:
    """Pure red in limited-range 10-bit Y, Cb, Cr by the definitions of BT.709 and BT.2020 (non-constant luminance)."""
    levels = [np.full((48, 64, 3), planes, np.uint16)] * 3
    video = write(
        tmp_path / "v.mkv",
        levels,
        codec="libx265",
        pix_fmt="yuv444p10le",
        options={"x265-params": "lossless=1:log-level=none"},
        colorspace=matrix,
        color_trc=BT2020_10 if matrix == BT2020_NCL else 1,
    )
    store = prepare(tmp_path / "store", video)
    for source in (open_video(video), open_clip(store.path, store.scenes[0])):
        for frame in source.frames():
            assert np.abs(frame.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize(("transfer", "name"), [(PQ, "PQ"), (HLG, "HLG")])
def test_high_dynamic_range_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], transfer: int, name: str
) -> None:
    video = write(
        tmp_path / "v.mp4",
        [np.full((48, 64, 3), 512, np.uint16)] * 3,
        codec="libx265",
        pix_fmt="yuv444p10le",
        options={"x265-params": "log-level=none"},
        colorspace=BT2020_NCL,
        color_trc=transfer,
    )
    with pytest.raises(UserError, match=rf"v\.mp4 is high dynamic range video \({name}\): convert it to SDR"):
        open_video(video)
    prepare(tmp_path / "store", video, write_video(tmp_path / "good.mp4", 12))
    assert f"high dynamic range video ({name})" in capsys.readouterr().out


def test_a_single_frame_is_no_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in (".mp4", ".mkv"):
        video = write_video(tmp_path / f"v{suffix}", 1)
        for cut in ("fixed", "whole", "detected"):
            with pytest.raises(UserError, match="no scene was made"):
                prepare(tmp_path / "store", video, "--cut", cut)
            assert "has 1 frame: too few" in capsys.readouterr().out or cut == "detected"


def write_with_hidden_frame(path: Path) -> Path:
    """24 frames in 25 packets: VP8 has frames that are not shown, whose first byte lacks bit 4 (RFC 6386, 9.1)."""
    shown = write(path.with_name("shown.webm"), coded(12) * 2, codec="libvpx", options={"b": "300k"})
    with av.open(str(shown)) as source, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if packet.dts is None:
                continue
            data = bytes(packet)
            if index == 20:
                hidden = av.Packet(bytes([data[0] & ~0x10]) + data[1:])
                hidden.pts = hidden.dts = packet.dts - 1
                hidden.time_base, hidden.stream = packet.time_base, stream
                copy.mux(hidden)
            packet.stream = stream
            copy.mux(packet)
    return path


def test_packets_that_are_no_frames_are_not_counted_on(tmp_path: Path) -> None:
    video = write_with_hidden_frame(tmp_path / "v.webm")
    assert open_video(video).count_frames() == 25
    store = prepare(tmp_path / "store", video, "--strict")
    assert [s.frames for s in store.scenes] == [24]
    assert prepare(tmp_path / "store", video, "--strict").scenes == store.scenes
    cut = prepare(tmp_path / "cut", video, "--strict", "--scene-length", 5)
    assert [s.frames for s in cut.scenes] == [5, 5, 5, 5]


def test_a_change_of_size_ends_what_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [
        write(tmp_path / f"{height}.ts", coded(12, height=height), codec="libx264", options={"g": "6"})
        for height in (48, 64)
    ]
    video = tmp_path / "v.ts"
    video.write_bytes(b"".join(part.read_bytes() for part in parts))
    for cut in ("fixed", "detected"):
        store = prepare(tmp_path / cut, video, "--scene-length", 6, "--cut", cut, "--minimum-length", 6)
        assert [(s.source_start, s.height) for s in store.scenes] == [(0, 48), (6, 48)]
        assert "changes its size at frame 12: cut it there" in capsys.readouterr().out


def test_files_that_name_other_files_are_no_videos(tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mp4", 5)
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile '{good}'\n")
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{good}\n#EXT-X-ENDLIST\n")
    for name in ("concat", "list"):
        with pytest.raises(Damaged, match="cannot be read as a video"):
            open_video(tmp_path / f"{name}.mp4")


def test_a_name_with_a_colon_is_a_file_and_text_inside_need_not_be_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_video(tmp_path / "v.mkv", 5).read_bytes()
    (tmp_path / "concat:a|b.mkv").write_bytes(data.replace(b"Lavf", b"\xff\xfe\xfd\xfc"))
    assert len(list(open_video("concat:a|b.mkv").frames())) == 5


def remuxed(source: Path, target: Path, *, cover: bool = False, sound: bool = False) -> Path:
    """A copy, with a cover picture as its first stream, or with sound."""
    with av.open(str(source)) as film, av.open(str(target), "w") as copy:
        if cover:
            picture = copy.add_stream("png", rate=1)
            picture.width, picture.height, picture.pix_fmt = 40, 30, "rgb24"
            picture.disposition = Disposition.attached_pic
        stream = copy.add_stream_from_template(film.streams.video[0])
        if sound:
            copy.add_stream("pcm_s16le", rate=8000, layout="mono")
        for packet in film.demux(video=0):
            if cover and packet.pts == 0:
                copy.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((30, 40, 3), np.uint8), format="rgb24")))
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    return target


def test_a_cover_is_not_the_film(tmp_path: Path) -> None:
    video = remuxed(write_video(tmp_path / "v.mp4", 5), tmp_path / "cover.mp4", cover=True)
    with av.open(str(video)) as container:
        assert len(container.streams.video) == 2
    source = open_video(video)
    assert (source.width, source.height, len(list(source.frames()))) == (64, 48, 5)


def test_a_matroska_file_that_lost_its_last_frames(tmp_path: Path) -> None:
    """Beside sound there is no duration of the film itself; the file says how long it should be."""
    video = remuxed(write_video(tmp_path / "v.mp4", 30), tmp_path / "v.mkv", sound=True)
    assert len(list(open_video(video).frames())) == 30
    with av.open(str(video)) as container:
        last = [packet.pos for packet in container.demux(video=0) if packet.size][-3]
    video.write_bytes(video.read_bytes()[:last])
    with pytest.raises(Damaged, match=r"v\.mkv is (cut off|damaged)"):
        list(open_video(video).frames())
    assert is_cut_off(video)
    data = bytearray(video.read_bytes())
    size = data.index(SEGMENT) + 4
    data[size : size + 8] = b"\x01" + b"\xff" * 7  # as a live recording, which promises nothing
    video.write_bytes(data)
    assert not is_cut_off(video)
    assert not is_cut_off(tmp_path / "v.mp4")


@pytest.mark.parametrize(("level", "is_refused"), [(255, False), (200, True)])
def test_transparent_video_is_refused(tmp_path: Path, level: int, is_refused: bool) -> None:
    video = tmp_path / "v.mkv"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgra"
        picture = av.VideoFrame.from_ndarray(np.full((48, 64, 4), level, np.uint8), format="rgba")
        container.mux(stream.encode(picture.reformat(format="bgra")))
        container.mux(stream.encode())
    if is_refused:
        with pytest.raises(UserError, match=r"v\.mkv has transparent pixels"):
            open_video(video)
    else:
        assert next(open_video(video).frames()).min() >= 254


def test_transparency_that_is_not_decoded_is_refused(tmp_path: Path) -> None:
    """VP9's is a second video beside the first: the pictures came without it, and were said to have it."""
    frames = [np.full((48, 64, 4), 200, np.uint8)] * 3
    with av.open(str(tmp_path / "v.webm"), "w") as container:
        stream: Any = container.add_stream("libvpx-vp9", rate=25, options={"auto-alt-ref": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgba").reformat(format="yuva420p")))
        container.mux(stream.encode())
    with pytest.raises(UserError, match=r"v\.webm has transparent pixels"):
        open_video(tmp_path / "v.webm")


def test_rates_that_no_video_has_are_refused(tmp_path: Path) -> None:
    for rate in (Fraction(1, 7200), Fraction(50_000)):
        with FrameWriter(tmp_path / "v.mkv", rate=rate, pix_fmt="yuv444p") as writer:
            for frame in coded(3):
                writer.write(frame)
        with pytest.raises(UserError, match="frames a second, which no video has"):
            open_video(tmp_path / "v.mkv")
