"""Frames in and out of video files and folders of images: what is written comes back, or is refused by name."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.video.open import open_video
from tecogan_dist.video.writer import FrameWriter
from tests.support.video_files import coded_frame, read_code, write_video


def write_images(folder: Path, names: list[str], *, size: tuple[int, int] = (20, 16)) -> Path:
    folder.mkdir()
    for value, name in enumerate(names):
        Image.new("RGB", size, (10 * value, 0, 0)).save(folder / name)
    return folder


def write_sizes(path: Path, sizes: list[int]) -> None:
    with FrameWriter(path) as writer:
        for size in sizes:
            writer.write(np.zeros((size, size, 3), np.uint8))


def test_a_video_keeps_its_colours_frames_and_rate(tmp_path: Path) -> None:
    frames = [coded_frame(0, index, height=64, width=80) for index in range(12)]
    with FrameWriter(tmp_path / "v.mp4", rate=Fraction(30000, 1001), pix_fmt="yuv444p", crf=10) as writer:
        for frame in frames:
            writer.write(frame)
    source = open_video(tmp_path / "v.mp4")
    assert (source.height, source.width, source.rate, source.count) == (64, 80, Fraction(30000, 1001), 12)
    read = list(source.frames())
    assert len(read) == 12
    for before, after in zip(frames, read, strict=True):
        assert np.abs(before.astype(int) - after).mean() < 1.5
    assert [read_code(frame)[1] for frame in source.frames(3, 7)] == [3, 4, 5, 6]
    assert [read_code(frame)[1] for frame in source.frames_at([2, 5, 11, 40])] == [2, 5, 11]
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (90, 120, 200)])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (720, 64)])
def test_delivery_video_has_the_colours_that_went_in(
    tmp_path: Path, colour: tuple[int, int, int], height: int, width: int
) -> None:
    with FrameWriter(tmp_path / "v.mp4") as writer:
        writer.write(np.full((height, width, 3), colour, np.uint8))
    (frame,) = open_video(tmp_path / "v.mp4").frames()
    assert np.abs(frame.astype(int) - colour).max() <= 4


def test_colours_of_videos_made_by_others_follow_their_tags(tmp_path: Path) -> None:
    """Limited-range Y, Cb, Cr of pure red, by the definitions of BT.601 and BT.709, in files tagged or not."""
    red_601, red_709 = (81, 90, 240), (63, 102, 240)
    for name, height, tag, planes in [
        ("sd_untagged", 480, None, red_601),
        ("hd_untagged", 720, None, red_709),
        ("sd_709", 480, 1, red_709),
        ("hd_601", 720, 6, red_601),
    ]:
        path = tmp_path / f"{name}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
            stream.height, stream.width, stream.pix_fmt = height, 64, "yuv444p"
            if tag is not None:
                stream.codec_context.colorspace = tag
            yuv = np.stack([np.full((height, 64), value, np.uint8) for value in planes])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(yuv, format="yuv444p")))
            container.mux(stream.encode())
        (frame,) = open_video(path).frames()
        assert np.abs(frame.astype(int) - (255, 0, 0)).max() <= 3, name


def test_odd_sizes_are_padded_to_even_ones(tmp_path: Path) -> None:
    frame = coded_frame(0, 0, height=33, width=51)
    with FrameWriter(tmp_path / "v.mp4") as writer:
        writer.write(frame)
    (read,) = open_video(tmp_path / "v.mp4").frames()
    assert read.shape == (34, 52, 3)
    assert np.abs(read[:33, :51].astype(int) - frame).mean() < 3


def test_a_failure_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", 5)
    before = video.read_bytes()
    for output in (video, tmp_path / "images"):
        with pytest.raises(UserError, match="after frames of"):
            write_sizes(output, [32, 32, 34])
    assert video.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


@pytest.mark.parametrize("name", ["v.mp4", "images"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, name: str) -> None:
    left = tmp_path / f".{Path(name).stem}.partial{Path(name).suffix}"
    if name == "images":
        left.mkdir()
        (left / "frame_0007.png").write_bytes(b"half")
    else:
        left.write_bytes(b"half")
    write_sizes(tmp_path / name, [32, 32])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert open_video(tmp_path / name).count == 2


def test_a_video_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, rename = os.fsync, os.replace

    def recorded_sync(file: int) -> None:
        order.append(f"sync {Path(os.readlink(f'/proc/self/fd/{file}')).name}")
        sync(file)

    def recorded_rename(source: Path, target: Path) -> None:
        order.append(f"rename to {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "replace", recorded_rename)
    write_sizes(tmp_path / "v.mp4", [32, 32])
    assert order == ["sync .v.partial.mp4", "rename to v.mp4"]


def test_an_output_that_cannot_take_its_name_is_one_sentence(tmp_path: Path) -> None:
    def write() -> None:
        with FrameWriter(tmp_path / "images") as writer:
            writer.write(np.zeros((16, 16, 3), np.uint8))
            (tmp_path / "images" / "other").mkdir(parents=True)

    with pytest.raises(UserError, match="images cannot be written"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_nothing_written_is_not_an_output(tmp_path: Path) -> None:
    for name in ("v.mp4", "images"):
        with pytest.raises(UserError, match="its input has no frame"), FrameWriter(tmp_path / name):
            pass
    assert not list(tmp_path.iterdir())


def test_a_folder_of_images_round_trips_exactly(tmp_path: Path) -> None:
    frames = [coded_frame(0, index, height=17, width=23) for index in range(3)]
    with FrameWriter(tmp_path / "named") as writer:
        for index, frame in enumerate(frames):
            writer.write(frame, name=f"output_{index:04d}")
    source = open_video(tmp_path / "named")
    assert source.names == ("output_0000", "output_0001", "output_0002")
    assert (source.rate, source.count) == (24, 3)
    assert np.array_equal(np.stack(list(source.frames())), np.stack(frames))
    with FrameWriter(tmp_path / "plain") as writer:
        writer.write(frames[0])
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["frame_0000.png"]
    with pytest.raises(UserError, match="not empty"), FrameWriter(tmp_path / "plain"):
        pass


@pytest.mark.parametrize("name", ["a.webm", "a.png", "a.gif"])
def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be written"), FrameWriter(tmp_path / name):
        pass


def test_images_are_sorted_by_all_digits_of_their_names(tmp_path: Path) -> None:
    source = open_video(write_images(tmp_path / "images", ["f10.png", "f9.jpg", "f8.png", "f11.jpeg"]))
    assert source.names == ("f8", "f9", "f10", "f11")


def test_grey_opaque_palette_and_16_bit_images_become_rgb(tmp_path: Path) -> None:
    ramp = (np.arange(256, dtype=np.uint32).reshape(16, 16) * 257).astype(np.uint16)
    grey8 = (ramp // 257).astype(np.uint8)
    rgb = np.stack([grey8, grey8[::-1], grey8.T], axis=2)
    images = {
        "grey8": (Image.fromarray(grey8), np.repeat(grey8[..., None], 3, 2)),
        "grey16": (Image.fromarray(ramp), np.repeat(grey8[..., None], 3, 2)),
        "rgba": (Image.fromarray(rgb).convert("RGBA"), rgb),
        "palette": (Image.fromarray(grey8).convert("P"), np.repeat(grey8[..., None], 3, 2)),
        "bilevel": (Image.fromarray(grey8 > 100), np.repeat(((grey8 > 100) * 255)[..., None], 3, 2)),
    }
    for name, (image, expected) in images.items():
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "0.png")
        (frame,) = open_video(tmp_path / name).frames()
        assert frame.dtype == np.uint8
        assert np.array_equal(frame, expected), name


def test_bad_images_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "sizes", ["0.png", "1.png"])
    Image.new("RGB", (21, 16)).save(folder / "2.png")
    with pytest.raises(UserError, match=r"2\.png is 21x16 and 0\.png is 20x16"):
        open_video(folder)

    folder = write_images(tmp_path / "text", ["0.png"])
    (folder / "1.png").write_text("no image")
    with pytest.raises(UserError, match=r"1\.png cannot be read as an image"):
        open_video(folder)

    folder = write_images(tmp_path / "cut", ["0.png"])
    noise = np.random.default_rng(0).integers(0, 255, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "1.png")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:500])
    with pytest.raises(UserError, match=r"1\.png cannot be read as an image"):
        list(open_video(folder).frames())

    folder = write_images(tmp_path / "clear", ["0.png"])
    Image.new("RGBA", (20, 16), (1, 2, 3, 100)).save(folder / "1.png")
    with pytest.raises(UserError, match=r"1\.png has transparent pixels"):
        list(open_video(folder).frames())

    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no PNG or JPG"):
        open_video(tmp_path / "empty")


def test_bad_videos_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.mp4 does not exist"):
        open_video(tmp_path / "no.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"text\.mp4 cannot be read as a video"):
        open_video(tmp_path / "text.mp4")
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(UserError, match="give the folder"):
        open_video(tmp_path / "one.png")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(UserError, match=r"sound\.mkv holds no video stream"):
        open_video(tmp_path / "sound.mkv")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_a_cut_off_video_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    data = write_video(tmp_path / f"whole{suffix}", 100).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UserError, match="cut"):
        list(open_video(cut).frames())


@pytest.mark.parametrize("kept", [0.5, 0.98])
def test_a_cut_off_download_is_refused(tmp_path: Path, kept: float) -> None:
    """With its index in front, as on the web, a cut-off mp4 opens and only its frames are missing."""
    whole = write_video(tmp_path / "whole.mp4", 100)
    with (
        av.open(str(whole)) as source,
        av.open(str(tmp_path / "web.mp4"), "w", options={"movflags": "faststart"}) as web,
    ):
        stream = web.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = stream
                web.mux(packet)
    data = (tmp_path / "web.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * kept)])
    opened = open_video(cut)
    assert opened.count == 100
    with pytest.raises(UserError, match=r"cut\.mp4"):
        list(opened.frames())


def test_a_damaged_video_is_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", 100)
    data = bytearray(video.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    video.write_bytes(data)
    with pytest.raises(UserError, match=r"v\.mp4 is damaged at frame \d+"):
        list(open_video(video).frames())


@pytest.mark.parametrize(("height", "pix_fmt"), [(64, "yuv444p"), (720, "yuv444p"), (64, "yuv420p")])
def test_parts_of_pictures_are_those_of_frames(tmp_path: Path, height: int, pix_fmt: str) -> None:
    """Bit for bit, by either colour matrix, whether a part can be converted by itself or not."""
    path = write_video(tmp_path / "a.mp4", 4, height=height, width=90, pix_fmt=pix_fmt)
    source = open_video(path)
    frames = list(source.frames_at([0, 2, 3]))
    for frame, picture in zip(frames, source.pictures_at([0, 2, 3]), strict=True):
        assert picture.shape == frame.shape == (height, 90, 3)
        for rows, columns in (
            (slice(0, 33), slice(0, 47)),
            (slice(7, 40), slice(11, 88)),
            (slice(31, 64), slice(1, 2)),
        ):
            assert np.array_equal(picture[rows, columns], frame[rows, columns])
