"""Images as they come from elsewhere: each is converted right, or is one sentence; none starts a program or waits."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.video.images import decode_image, read_image
from tecogan_dist.video.open import open_video
from tecogan_dist.video.source import MOST_PIXELS
from tests.support.properties import EXAMPLES
from tests.support.video_files import write_video

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
ORIENTATION = 0x0112


def encoded(form: str, image: np.ndarray | Image.Image = PIXELS, **options: object) -> bytes:
    data = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(data, format=form, **options)
    return data.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *more: bytes, depth: int = 8, colours: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    content = chunk(b"IHDR", header) + b"".join(more) + chunk(b"IDAT", zlib.compress(bytes(999)))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def folder_of(path: Path, *images: bytes) -> Path:
    path.mkdir()
    for number, data in enumerate(images):
        (path / f"{number}.png").write_bytes(data)
    return path


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 12\n(PLACE) (w) file\nshowpage\n"
DAMAGED = bytearray(encoded("PNG"))
DAMAGED[len(DAMAGED) // 2] ^= 1


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (EPS, "neither PNG nor JPEG"),
        (encoded("WEBP"), "neither PNG nor JPEG"),
        (encoded("TIFF"), "neither PNG nor JPEG"),
        (encoded("GIF"), "neither PNG nor JPEG"),
        (b"", "neither PNG nor JPEG"),
        (png(60_000, 60_000), f"claims more pixels than the {MOST_PIXELS // 10**6} million"),
        (png(13_000, 13_000), "has 13000x13000 pixels"),
        (bytes(DAMAGED), "it is damaged"),
        (encoded("PNG")[:-20], "it is cut off"),
        (encoded("PNG")[:40], "or damaged"),
        (encoded("JPEG")[:-200], "cannot be read as an image"),
        (encoded("PNG", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])]), "is an animation"),
        (encoded("PNG", np.dstack([PIXELS, PIXELS[..., 0]])), "transparent pixels"),
        (png(16, 12, chunk(b"tRNS", struct.pack(">H", 0)), depth=16, colours=0), "transparent pixels"),
        (png(16, 12, chunk(b"PLTE", bytes(6)), chunk(b"tRNS", b"\0"), depth=1, colours=3), "transparent pixels"),
    ],
    ids=range(15),
)
def test_what_is_not_a_frame_is_one_sentence(tmp_path: Path, data: bytes, sentence: str) -> None:
    target = tmp_path / "made"
    folder = folder_of(tmp_path / "in", encoded("PNG"), data.replace(b"PLACE", str(target).encode()))
    with pytest.raises(UserError, match=sentence) as caught:
        list(open_video(folder).frames())
    assert "1.png" in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_an_image_that_is_to_be_shown_turned_is_turned(tmp_path: Path, orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    plain, turned = encoded(form), encoded(form, exif=exif)
    if form == "PNG" and orientation == 6:  # notes may stand behind the pixels, too
        note = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        turned = plain[:-12] + note + plain[-12:]
    source = open_video(folder_of(tmp_path / "in", turned))
    (frame,) = source.frames()
    stored = decode_image(plain, name="plain")
    shown = {
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored[::-1].transpose(1, 0, 2),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: stored.transpose(1, 0, 2)[::-1],
    }.get(orientation, stored)
    assert np.array_equal(frame, shown)
    assert (source.height, source.width) == shown.shape[:2]


def test_damaged_notes_change_nothing() -> None:
    for notes in (b"", b"MM", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\xff\xff" * 9):
        data = encoded("PNG")
        data = data[:33] + chunk(b"eXIf", notes) + data[33:]
        assert np.array_equal(decode_image(data, name="it"), PIXELS)
        decode_image(encoded("JPEG", exif=b"Exif\0\0" + notes), name="it")


def test_cmyk_and_16_bits_of_colour_become_rgb() -> None:
    assert (
        np.abs(decode_image(encoded("JPEG", np.full((16, 16), 90, np.uint8)), name="grey").astype(int) - 90).max() < 3
    )
    white = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    assert decode_image(encoded("JPEG", white), name="white").min() > 250
    rows = b"".join(b"\0" + struct.pack(">6H", 0x1234, 0x8000, 0xFFFF, 0, 0x7F00, 0xFE01) for _ in range(2))
    wide = png(2, 2, depth=16).replace(chunk(b"IDAT", zlib.compress(bytes(999))), chunk(b"IDAT", zlib.compress(rows)))
    assert decode_image(wide, name="wide")[0].tolist() == [[0x12, 0x80, 0xFF], [0, 0x7F, 0xFE]]


def _fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_fifo, "is a FIFO"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: path.symlink_to("nowhere"), "is a link to what does not"),
        (lambda path: path.symlink_to("/proc/self/environ"), "system's own files"),
    ],
)
def test_only_files_are_opened(tmp_path: Path, make: Callable[[Path], None], sentence: str) -> None:
    folder = folder_of(tmp_path / "in", encoded("PNG"))
    make(folder / "1.png")
    with pytest.raises(UserError, match=sentence):
        open_video(folder)
    make(tmp_path / "film.mp4")
    with pytest.raises(UserError):
        open_video(tmp_path / "film.mp4")


def sentence_of(path: Path, data: bytes, read: Callable[[Path], object]) -> str:
    """What reading a file with these bytes says; nothing if they can be read."""
    path.write_bytes(data)
    try:
        read(path)
    except UserError as error:
        return str(error)
    return ""


@EXAMPLES
@given(data=st.binary(max_size=300), start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1"]))
def test_any_bytes_are_an_image_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes
) -> None:
    assert len(sentence_of(tmp_path_factory.getbasetemp() / "any.png", start + data, read_image)) < 500


WHOLE = [encoded("PNG"), encoded("JPEG"), encoded("PNG", Image.fromarray(PIXELS).convert("P"))]


@EXAMPLES
@given(
    whole=st.sampled_from(WHOLE),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    length=st.integers(0, 10**6),
)
def test_changed_bytes_of_an_image_are_an_image_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, edits: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(whole)
    for position, value in edits:
        data[position % len(data)] = value
    if length % 2:
        del data[length % len(data) :]
    assert len(sentence_of(tmp_path_factory.getbasetemp() / "changed.png", bytes(data), read_image)) < 500


def read_video(path: Path) -> None:
    source = open_video(path, threads=1)
    assert source.count_frames() < 10**7
    for _ in source.frames():
        pass


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"v{suffix}", 4).read_bytes() for suffix in (".mp4", ".mkv")]


@EXAMPLES
@given(
    kind=st.integers(0, 1),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=4)), max_size=4),
    length=st.integers(0, 10**6),
)
def test_changed_bytes_of_a_video_are_a_video_or_one_sentence(
    videos: list[bytes],
    tmp_path_factory: pytest.TempPathFactory,
    kind: int,
    edits: list[tuple[int, bytes]],
    length: int,
) -> None:
    data = bytearray(videos[kind])
    for position, value in edits:
        # The headers: an mp4's are at its end.
        place = position % 900
        place = place if kind else max(0, len(data) - 1 - place)
        data[place : place + len(value)] = value
    if length % 2:
        del data[length % len(data) :]
    path = tmp_path_factory.getbasetemp() / ("changed.mkv" if kind else "changed.mp4")
    assert len(sentence_of(path, bytes(data), read_video)) < 500
