"""What a video is beside its frames, and that an output is the same: colours, shape, depth, fields."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorRange

from tecogan_dist.base.errors import UserError
from tecogan_dist.video.codecs import Encoding, Wishes, choose
from tecogan_dist.video.colours import from_rgb, to_rgb
from tecogan_dist.video.open import open_video
from tecogan_dist.video.properties import check_upscalable, of_images, read_properties
from tecogan_dist.video.writer import FrameWriter
from tests.support.films import Made, moving, shown_at, write_film

QUIET = "log-level=none"
HDR10 = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400:hdr10=1"


def ramps(count: int = 4, *, height: int = 48, width: int = 64, deep: bool = False) -> list[np.ndarray]:
    """Soft colours, which codecs and shared chroma keep."""
    x, y = np.meshgrid(np.linspace(0.15, 0.85, width), np.linspace(0.2, 0.8, height))
    frames = [np.stack([x, y, 1 - x * 0.8 - 0.01 * index], axis=2) for index in range(count)]
    return [np.round(frame * (65535 if deep else 255)).astype(np.uint16 if deep else np.uint8) for frame in frames]


def tags(path: Path) -> tuple[int, int, int, int]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "ffv1"])
@pytest.mark.parametrize(
    "given", [(1, 1, 1, 1), (6, 6, 6, 1), (5, 5, 6, 2), (9, 9, 14, 1), (1, 12, 13, 2), (7, 7, 7, 1)]
)
def test_colours_and_their_tags_are_kept(tmp_path: Path, codec: str, given: tuple[int, int, int, int]) -> None:
    matrix, primaries, transfer, levels = given
    source = write_film(
        tmp_path / "s.mkv",
        ramps(3),
        options={"crf": "1"},
        colorspace=matrix,
        color_primaries=primaries,
        color_trc=transfer,
        color_range=levels,
    )
    preset = {"av1": "10", "ffv1": None}.get(codec, "ultrafast")
    quality = None if codec == "ffv1" else 2
    made = Made(source, tmp_path / "o.mkv", wishes=Wishes(codec=codec, preset=preset, quality=quality))
    assert made.join() == []
    assert tags(made.output) == given
    again = read_properties(made.output)
    assert (again.matrix, again.primaries, again.transfer, again.full_range) == (*given[:3], levels == 2)
    before, after = (np.stack(list(open_video(path).frames())).astype(int) for path in (source, made.output))
    assert np.abs((before - after).mean(axis=(0, 1, 2))).max() < (1.2 if levels == 2 else 0.5)  # FFmpeg rounds twice
    assert np.abs(before - after).mean() < 2


def test_what_is_untagged_gets_the_tags_that_it_was_read_by(tmp_path: Path) -> None:
    for height, expected in ((48, (6, 1, 6)), (576, (6, 5, 6)), (480, (6, 6, 6)), (720, (1, 1, 1))):
        source = write_film(tmp_path / f"{height}.mp4", ramps(2, height=height))
        made = Made(source, tmp_path / f"o{height}.mp4")
        properties = made.properties
        assert (properties.matrix, properties.primaries, properties.transfer) == expected
        made.join()
        assert tags(made.output) == (*expected, 1)
        frames = zip(open_video(source).frames(), open_video(made.output).frames(), strict=True)
        assert max(np.abs(a.astype(int) - b).mean() for a, b in frames) < 1.5


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("place", ["left", "center", "topleft"])
def test_chroma_lies_where_the_source_has_it(tmp_path: Path, codec: str, place: str) -> None:
    options = {"crf": "1", "chroma_sample_location": place}
    options |= {"x265-params": QUIET} if codec == "libx265" else {}
    source = write_film(tmp_path / "s.mkv", ramps(), codec=codec, options=options)
    for wishes in (Wishes(quality=1), Wishes(codec="hevc", quality=1)):
        made = Made(source, tmp_path / "o.mkv", wishes=wishes)
        made.join()
        assert made.properties.chroma_location == read_properties(made.output).chroma_location == place
        frames = list(zip(open_video(source).frames(), open_video(made.output).frames(), strict=True))
        bias = np.mean([a.astype(int)[8:-8, 8:-8] - b[8:-8, 8:-8] for a, b in frames], axis=(0, 1, 2))
        assert np.abs(bias).max() < 0.3  # half a pixel of shift is more than 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_pixels_that_are_no_squares(tmp_path: Path, suffix: str) -> None:
    source = write_film(tmp_path / "s.mp4", ramps(), sample_aspect_ratio=Fraction(16, 11))
    made = Made(source, tmp_path / f"o{suffix}")
    assert made.properties.sample_aspect == Fraction(16, 11)
    made.join()
    assert read_properties(made.output).sample_aspect == Fraction(16, 11)


@pytest.mark.parametrize(
    ("codec", "suffix", "pix_fmt"), [("prores_ks", ".mov", "yuv422p10le"), ("libvpx-vp9", ".mp4", "yuv420p")]
)
def test_pixels_that_only_the_container_calls_no_squares(tmp_path: Path, codec: str, suffix: str, pix_fmt: str) -> None:
    film = write_film(
        tmp_path / f"s{suffix}", ramps(), codec=codec, pix_fmt=pix_fmt, sample_aspect_ratio=Fraction(4, 3)
    )
    properties = read_properties(film)
    assert properties.sample_aspect == Fraction(4, 3)
    for output, wished, is_said in (
        (".mkv", "vp9", True),
        (".webm", None, True),
        (".mkv", None, False),
        (".mp4", "av1", False),
    ):
        notes = choose(output, properties, Wishes(codec=wished))[1]
        assert any("pixels are 4:3" in note for note in notes) == is_said


WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Of red and blue in luma, from H.273."""


@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv422p10le", "yuv444p10le", "p010le"])
@pytest.mark.parametrize("full", [False, True])
def test_colours_are_the_standards_numbers(pix_fmt: str, matrix: int, full: bool) -> None:
    """FFmpeg's converter is half a level of chroma off in the full range, and takes 65280 of 65535 for white."""
    deep = "10" in pix_fmt
    bits = 10 if deep else 8
    red, blue = WEIGHTS[matrix]
    for colour in ((0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 60, 30), (20, 90, 220)):
        frame = np.full((16, 16, 3), colour, np.uint16) * 257 if deep else np.full((16, 16, 3), colour, np.uint8)
        picture = from_rgb(frame, pix_fmt=pix_fmt, matrix=matrix, full_range=full)
        r, g, b = (level / 255 for level in colour)
        luma = red * r + (1 - red - blue) * g + blue * b
        chroma = ((b - luma) / 2 / (1 - blue), (r - luma) / 2 / (1 - red))
        most, scale = 2**bits - 1, 2 ** (bits - 8)
        middle = 128 * scale
        expected = [luma * most if full else (16 + 219 * luma) * scale]
        expected += [middle + part * (most if full else 224 * scale) for part in chroma]
        planar = picture.reformat(format="yuv420p10le") if pix_fmt == "p010le" else picture
        kind = np.dtype("<u2" if deep else np.uint8)
        found = [np.frombuffer(memoryview(plane), kind)[3] for plane in planar.planes]
        assert np.abs(np.subtract(found, expected)).max() <= 1.01, (colour, found, expected)
        if colour[0] == colour[1] == colour[2]:
            assert [int(level) for level in found[1:]] == [middle, middle]
            assert abs(found[0] - expected[0]) <= 0.51
        picture.colorspace, picture.color_range = matrix, ColorRange.JPEG if full else ColorRange.MPEG
        again = to_rgb(picture, deep=deep)
        assert np.abs(again.astype(float) - frame).max() <= (400 if deep else 2.5)
        if colour == (255, 255, 255):
            assert again.min() == (65535 if deep else 255)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "nv12"])
def test_chroma_of_the_full_range_is_not_moved(pix_fmt: str) -> None:
    """By half a level on average, which turned pictures green by a level."""
    noise = np.random.default_rng(0).integers(40, 216, (8, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    picture = from_rgb(noise, pix_fmt=pix_fmt, matrix=1, full_range=True)
    picture.colorspace, picture.color_range = 1, ColorRange.JPEG
    assert np.abs((to_rgb(picture, chroma="left").astype(float) - noise).mean((0, 1))).max() < 0.25


@pytest.mark.parametrize("full", [False, True])
def test_pictures_without_chroma_keep_their_range(tmp_path: Path, full: bool) -> None:
    """FFmpeg's converter takes all of them to be of the full range: black became dark grey."""
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
        stream.codec_context.color_range = ColorRange.JPEG if full else ColorRange.MPEG
        grey = np.repeat(np.array([16, 126, 235], np.uint8), 16)[:, None].repeat(64, axis=1)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="gray")))
        container.mux(stream.encode())
    frame = next(open_video(path).frames())
    assert frame[::16, 5].tolist() == [[level] * 3 for level in ((16, 126, 235) if full else (0, 128, 255))]
    made = Made(path, tmp_path / "o.mp4", wishes=Wishes(quality=0))
    made.join()
    again = next(open_video(made.output).frames())
    assert np.abs(again.astype(int) - frame).max() <= 1


@pytest.mark.parametrize(("degrees", "swaps"), [(90, True), (180, False), (270, True)])
def test_rotated_pictures_are_upright_and_their_pixels_turned(tmp_path: Path, degrees: int, swaps: bool) -> None:
    source = write_film(tmp_path / "s.mp4", ramps(), sample_aspect_ratio=Fraction(4, 3))
    data = bytearray(source.read_bytes())
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    matrix = (cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *matrix)
    source.write_bytes(data)
    made = Made(source, tmp_path / "o.mp4")
    film = open_video(source)
    assert (made.properties.width, made.properties.height) == ((48, 64) if swaps else (64, 48))
    assert (film.width, film.height) == (made.properties.width, made.properties.height)
    assert made.properties.sample_aspect == (Fraction(3, 4) if swaps else Fraction(4, 3))
    made.join()
    again = read_properties(made.output)
    assert (again.rotation, again.width, again.sample_aspect) == (0, film.width, made.properties.sample_aspect)


def test_ten_bits_stay_ten_bits(tmp_path: Path) -> None:
    deep = ramps(deep=True)
    source = write_film(
        tmp_path / "s.mkv", deep, codec="libx265", pix_fmt="yuv420p10le", options={"crf": "1", "x265-params": QUIET}
    )
    film = open_video(source, deep=True)
    assert film.dtype == np.uint16
    before = list(film.frames())
    assert before[0].dtype == np.uint16
    assert np.abs(before[0].astype(int) - deep[0])[4:-4, 4:-4].mean() < 300  # five of 1023 levels
    assert open_video(source).dtype == np.uint8
    for suffix, wishes in (
        (".mp4", Wishes(quality=1)),
        (".mkv", Wishes(codec="hevc", quality=1)),
        (".mkv", Wishes(codec="ffv1")),
        (".mov", Wishes(codec="prores")),
    ):
        made = Made(source, tmp_path / f"o{suffix}", wishes=wishes)
        assert made.encoding.deep
        made.join()
        after = list(open_video(made.output, deep=True).frames())
        assert read_properties(made.output).bit_depth == 10
        assert np.abs(before[0].astype(int) - after[0])[4:-4, 4:-4].mean() < 150
    made = Made(source, tmp_path / "o.mp4", wishes=Wishes(eight_bits=True))
    made.join()
    assert read_properties(made.output).bit_depth == 8
    assert any("8 bits" in note for note in Made(source, tmp_path / "o.webm").notes)


@pytest.mark.parametrize(("codec", "suffix"), [("hevc", ".mp4"), ("hevc", ".mkv"), ("av1", ".mp4"), ("av1", ".mkv")])
def test_high_dynamic_range_keeps_all_that_it_says(tmp_path: Path, codec: str, suffix: str) -> None:
    source = write_film(
        tmp_path / "s.mkv",
        ramps(deep=True),
        codec="libx265",
        pix_fmt="yuv420p10le",
        options={"crf": "1", "x265-params": f"{QUIET}:{HDR10}"},
        colorspace=9,
        color_primaries=9,
        color_trc=16,
        color_range=1,
    )
    properties = read_properties(source)
    assert properties.is_hdr
    assert properties.mastering is not None
    assert properties.mastering.red == (Fraction(34000, 50000), Fraction(16000, 50000))
    assert (properties.mastering.minimum, properties.mastering.maximum) == (Fraction(50, 10000), 1000)
    assert properties.light_levels == (1000, 400)
    for refused in (lambda: check_upscalable(properties, source), lambda: open_video(source)):
        with pytest.raises(UserError, match=r"high dynamic range video .PQ.: convert it to SDR.*ffmpeg -i.*zscale"):
            refused()
    assert check_upscalable(properties, source, deep=True) == []
    preset = "10" if codec == "av1" else "ultrafast"
    made = Made(source, tmp_path / f"o{suffix}", cuts=(2,), wishes=Wishes(codec=codec, preset=preset, quality=2))
    made.join()
    again = read_properties(made.output)
    assert (again.matrix, again.primaries, again.transfer, again.bit_depth) == (9, 9, 16, 10)
    assert again.light_levels == properties.light_levels
    assert again.mastering is not None
    for ours, theirs in zip(numbers(again.mastering), numbers(properties.mastering), strict=True):
        assert abs(ours - theirs) < max(1e-4, 0.02 * theirs if theirs < 0.01 else 0)  # SVT-AV1's steps
    before, after = (list(open_video(path, deep=True).frames()) for path in (source, made.output))
    assert np.abs(before[3].astype(int) - after[3])[4:-4, 4:-4].mean() < 500


def numbers(mastering: Any) -> list[float]:
    points = (mastering.red, mastering.green, mastering.blue, mastering.white)
    return [*(float(value) for point in points for value in point), float(mastering.minimum), float(mastering.maximum)]


def test_high_dynamic_range_chooses_a_codec_that_keeps_it() -> None:
    properties = replaced(transfer=18, matrix=9, primaries=9, bit_depth=10)
    assert choose(".mp4", properties)[0].encoder == "libx265"
    assert choose(".webm", properties)[0].encoder == "libsvtav1"
    for suffix, codec in ((".mp4", "h264"), (".mp4", "vp9"), (".gif", None), (".avi", None)):
        with pytest.raises(UserError, match="high dynamic range cannot be kept"):
            choose(suffix, properties, Wishes(codec=codec))
    with pytest.raises(UserError, match="high dynamic range cannot be kept"):
        choose(".mp4", properties, Wishes(eight_bits=True))


def replaced(**changes: Any) -> Any:
    from dataclasses import replace

    return replace(of_images(64, 48), is_rgb=False, full_range=False, **changes)


def interlaced(tmp_path: Path) -> Path:
    return write_film(tmp_path / "s.mp4", moving(20), options={"x264-params": "tff=1", "bf": "2", "g": "6"})


def test_fields_are_refused_or_made_into_frames(tmp_path: Path) -> None:
    source = interlaced(tmp_path)
    properties = read_properties(source)
    assert properties.is_interlaced
    with pytest.raises(UserError, match=r"is interlaced: convert it with ffmpeg -i .*s\.mp4.* -vf bwdif"):
        check_upscalable(properties, source)
    assert check_upscalable(properties, source, deinterlace=True) == []
    assert not read_properties(write_film(tmp_path / "p.mp4", moving(4))).is_interlaced
    plain, made = list(open_video(source).frames()), list(open_video(source, deinterlace=True).frames())
    assert len(made) == len(plain) == 20
    assert not np.array_equal(made[5], plain[5])
    graph: Any = av.filter.Graph()  # FFmpeg's own, as its command line has it
    with av.open(str(source)) as container:
        frames = list(container.decode(video=0))
        ends = graph.add_buffer(template=frames[0], time_base=frames[0].time_base), graph.add("buffersink")
        graph.link_nodes(ends[0], graph.add("bwdif", "mode=send_frame"), ends[1]).configure()
        for frame in [*frames, None]:
            graph.vpush(frame)
        theirs = [graph.vpull() for _ in frames]
    for ours, their in zip(made, theirs, strict=True):
        assert np.array_equal(ours, their.to_ndarray(format="rgb24", interpolation=0x2000 | 0x40000 | 0x80000 | 4))
    line = open_video(source)
    for start, stop in ((0, 4), (1, 3), (7, 9), (13, None), (19, None)):
        again = open_video(source, deinterlace=True, timeline=line.timeline())  # type: ignore[attr-defined]
        for array, expected in zip(again.frames(start, stop), made[start:stop], strict=True):
            assert np.array_equal(array, expected)
    assert len(shown_at(source)) == 20


def test_deep_images(tmp_path: Path) -> None:
    frames = ramps(3, deep=True)
    with FrameWriter(tmp_path / "deep") as writer:
        for frame in frames:
            writer.write(frame)
    source = open_video(tmp_path / "deep", deep=True)
    assert source.dtype == np.uint16
    for frame, expected in zip(source.frames(), frames, strict=True):
        assert np.array_equal(frame, expected)
    for frame, expected in zip(open_video(tmp_path / "deep").frames(), frames, strict=True):
        assert frame.dtype == np.uint8
        assert np.abs(frame.astype(int) * 257 - expected).max() <= 257
    with FrameWriter(tmp_path / "flat") as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
    assert open_video(tmp_path / "flat", deep=True).dtype == np.uint8
    data = bytearray((tmp_path / "deep" / "frame_0001.png").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "deep" / "frame_0001.png").write_bytes(data)
    with pytest.raises(UserError, match=r"frame_0001\.png cannot be read as an image"):
        list(open_video(tmp_path / "deep", deep=True).frames())


def test_what_hangs_on_pictures_is_named(tmp_path: Path) -> None:
    path = write_film(tmp_path / "s.mp4", moving(3))
    properties = read_properties(path)
    assert properties.lost == ()
    assert check_upscalable(replaced(lost=("closed captions",)), path) == [f"{path}: closed captions cannot be kept."]
    assert Type.A53_CC.value


@pytest.mark.parametrize(
    ("suffix", "wishes", "sentence"),
    [
        (".mp4", {"codec": "h246"}, "there is no codec h246: did you mean"),
        (".webm", {"codec": "h264"}, ".webm files do not take h264: use vp9"),
        (".mp4", {"codec": "prores"}, ".mp4 files do not take prores.*or .mov, .mkv for prores"),
        (".wmv", {}, ".wmv is not a video"),
        (".mp4", {"quality": 52}, "h264 takes a quality from 0, the best, to 51, not 52"),
        (".mkv", {"codec": "ffv1", "quality": 5}, "ffv1 is lossless"),
        (".mp4", {"preset": "warp"}, "h264 takes the presets ultrafast"),
        (".mov", {"codec": "prores", "preset": "fast"}, "prores has no presets"),
        (".mp4", {"pix_fmt": "yuv411p"}, "h264 does not take the pixel format yuv411p: use yuv420p"),
        (".mp4", {"options": {"aqmode": "2"}}, "h264 has no option aqmode: did you mean aq-mode"),
        (".mp4", {"options": {"threads": "2"}}, "the option threads is set by this program"),
        (".mp4", {"options": {"aq-mode": "nonsense"}}, "h264 does not take these options: .*aq-mode"),
        (
            ".mp4",
            {"codec": "hevc", "options": {"x265-params": "nonsense=1"}},
            "hevc does not take these options: .*nonsense",
        ),
    ],
)
def test_wishes_that_cannot_be_met(suffix: str, wishes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        choose(suffix, of_images(64, 48), Wishes(**wishes))


def test_wishes_that_are_met(tmp_path: Path) -> None:
    wishes = Wishes(
        codec="libx264", quality=30, preset="fast", pix_fmt="yuv444p", options={"aq-mode": "2", "tune": "film"}
    )
    encoding, notes = choose(".mp4", of_images(64, 48), wishes)
    assert notes == []
    assert encoding.encoder == "libx264"
    assert {("crf", "30"), ("preset", "fast"), ("aq-mode", "2"), ("tune", "film")} <= set(encoding.options)
    assert Encoding.from_plain(encoding.to_plain()) == encoding
    with pytest.raises(UserError, match="record of an encoding is damaged"):
        Encoding.from_plain({"encoder": 3})
    source = write_film(tmp_path / "s.mp4", ramps())
    made = Made(source, tmp_path / "o.mp4", wishes=wishes)
    made.join()
    assert read_properties(made.output).pix_fmt == "yuv444p"
    sizes = []
    for quality in (2, 50):
        made = Made(write_film(tmp_path / "n.mp4", moving(5)), tmp_path / "q.mp4", wishes=Wishes(quality=quality))
        made.join()
        sizes.append(made.output.stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def test_a_graphics_card_that_is_not_there_is_said(tmp_path: Path) -> None:
    encoding, notes = choose(".mp4", of_images(64, 48), Wishes(codec="hevc_nvenc"))
    if encoding.encoder == "libx265":  # no such card here
        assert notes == ["hevc_nvenc does not work on this machine (an opening test failed): hevc is used."]
    else:
        assert notes == []
    made = Made(
        write_film(tmp_path / "s.mp4", moving(6)), tmp_path / "o.mp4", cuts=(3,), wishes=Wishes(codec="h264_nvenc")
    )
    made.join()
    assert len(list(open_video(made.output).frames())) == 6
