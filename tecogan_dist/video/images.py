"""Frames out of folders of PNG and JPG images, and single images: the one place that opens images from outside."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from tecogan_dist.base.atomic import reported_local
from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import open_regular
from tecogan_dist.video import deep_png
from tecogan_dist.video.formats import FOLDER_RATE, IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES, READABLE_SUFFIXES
from tecogan_dist.video.numbering import check_sequence, digits_of
from tecogan_dist.video.source import MOST_PIXELS, FrameSource, check_pixels

FORMATS = ("PNG", "JPEG")
"""By content, whatever a file is called. Pillow knows 40 formats, and starts Ghostscript for one of them."""
MOST_BYTES, MOST_NOTES = 2**30, 2**20
"""Of a file, and of the EXIF notes in it."""
PNG_START = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112
# What an EXIF orientation asks for, of an array of rows and columns; 1 is as it is stored.
TURNS: dict[object, Any] = {
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}
SWAP_SIDES = (5, 6, 7, 8)

# The size is checked here, and damaged notes beside the pixels are no reason to print a line of Pillow's.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def image_files(folder: Path) -> list[Path]:
    """The PNG and JPG files of a folder, sorted by all digits of their names read as one number, then by name."""
    images = (entry for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES and entry.name[0] != ".")
    return sorted(images, key=digits_of)


class ImageFolder(FrameSource):
    """A folder of images of one size and one sequence, in the order of :func:`image_files`.

    Hidden files, folders and files that are neither images nor videos are ignored. Raises :class:`UserError` for images
    of other formats and videos beside them, and for names that are not those of one sequence
    (:func:`tecogan_dist.video.numbering.check_sequence`, also for ``allow_gaps``).
    """

    def __init__(self, path: Path, *, allow_gaps: bool = False, deep: bool = False) -> None:
        with reported_local(path, "read"):
            self._files = image_files(path)
            others = sorted(
                entry.name
                for entry in path.iterdir()
                if entry.suffix.lower() in (*OTHER_IMAGE_SUFFIXES, *READABLE_SUFFIXES) and entry.name[0] != "."
            )
        if others:
            raise UserError(
                f"{path} holds {others[0]}, and frames are read from PNG and JPG images only, or from one video: save "
                "it as PNG or take it away."
            )
        if not self._files:
            raise UserError(f"{path} holds no PNG or JPG images: give a folder that does.")
        check_sequence(self._files, folder=path, allow_gaps=allow_gaps)
        self.path, self.rate, self.count = path, FOLDER_RATE, len(self._files)
        self.names = tuple(image.stem for image in self._files)
        self._is_deep = deep and is_deep_png(self._files[0])
        self.dtype = np.dtype(np.uint16 if self._is_deep else np.uint8)
        sizes = [_image_size(image) for image in self._files]
        self.width, self.height = sizes[0]
        for image, size in zip(self._files, sizes, strict=True):
            if size != sizes[0]:
                raise UserError(
                    f"{image} is {size[0]}x{size[1]} and {self._files[0].name} is {self.width}x{self.height}: "
                    "all images of a folder must be of one size."
                )

    def frames_at(self, positions: Iterable[int]) -> Iterator[np.ndarray]:
        for position in positions:
            if position >= len(self._files):
                return
            image = self._files[position]
            frame = read_deep_image(image) if self._is_deep else read_image(image)
            if frame.shape != (self.height, self.width, 3):
                raise UserError(f"{image} changed its size while it was read: start again when nothing writes to it.")
            yield frame

    def previews(self, side: int) -> Iterator[np.ndarray]:
        step = max(1, max(self.height, self.width) // side)
        for frame in self.frames():
            yield np.ascontiguousarray(frame[::step, ::step])

    def count_frames(self) -> int:
        return len(self._files)


def read_image(path: Path) -> np.ndarray:
    """One image as (height, width, 3) uint8 RGB, turned as its EXIF orientation asks for.

    PNG and JPEG, by content. Grey becomes three equal channels, 16 bits of grey are rounded to 8, of colours the upper
    8 are taken, an alpha channel is dropped if everything is opaque. Raises :class:`UserError` for other formats,
    transparency, animations, sizes that are not those of a frame, and a file that is damaged or cannot be read.
    """
    with _opened_file(path) as file:
        data = file.read(MOST_BYTES)
    return decode_image(data, name=path)


def decode_image(data: bytes, *, name: object) -> np.ndarray:
    """:func:`read_image` of a file's bytes; ``name`` names it in sentences."""
    if data.startswith(PNG_START):
        _check_png(data, name)
    with _pillow(io.BytesIO(data), name) as image, _decoding(name):
        image.load()
        if getattr(image, "is_animated", False) and image.format == "PNG":
            raise UserError(f"{name} is an animation: save its pictures as images of their own.")
        pixels = _pixels(image, name)
        return np.ascontiguousarray(TURNS.get(_orientation(image, io.BytesIO(data)), lambda same: same)(pixels))


def is_deep_png(path: Path) -> bool:
    """Whether an image is a PNG of 16 bits a channel without transparency."""
    with _opened_file(path) as file:
        return deep_png.is_deep(file.read(deep_png.HEAD))


def read_deep_image(path: Path) -> np.ndarray:
    """One image as (height, width, 3) uint16 RGB from 0 to 65535; those of 8 bits are widened. Else as `read_image`."""
    with _opened_file(path) as file:
        data = file.read(MOST_BYTES)
    if not deep_png.is_deep(data[: deep_png.HEAD]):
        return decode_image(data, name=path).astype(np.uint16) * 257
    _check_png(data, path)
    with _pillow(io.BytesIO(data), path) as image, _decoding(path):
        if "transparency" in image.info or getattr(image, "is_animated", False):
            raise UserError(f"{path} has transparent pixels, or several pictures: save it as one without transparency.")
        turn = TURNS.get(_orientation(image, io.BytesIO(data)), lambda same: same)
        return np.ascontiguousarray(turn(deep_png.decode(data)))


def _pixels(image: Image.Image, name: object) -> np.ndarray:
    if image.mode in ("I;16", "I;16L", "I;16B"):
        levels = np.asarray(image).astype(np.uint32)
        if (levels == image.info.get("transparency")).any():
            raise _transparent(name)
        return np.repeat(((levels * 255 + 32767) // 65535).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
        raise UserError(f"{name} has pixels of type {image.mode!r}: save it as 8-bit RGB.")
    if ("A" in image.getbands() or "transparency" in image.info) and (
        np.asarray(image.convert("RGBA"))[:, :, 3].min() != 255
    ):
        raise _transparent(name)
    return np.asarray(image.convert("RGB"))


def _transparent(name: object) -> UserError:
    return UserError(f"{name} has transparent pixels: save it as RGB without transparency.")


def _image_size(path: Path) -> tuple[int, int]:
    """Width and height as it is shown, by its header."""
    with _opened_file(path) as file, _pillow(file, path) as image, _decoding(path):
        width, height = image.size
        return (height, width) if _orientation(image, file) in SWAP_SIDES else (width, height)


def _opened_file(path: Path) -> BinaryIO:
    try:
        with reported_local(path, "read"):
            file = open_regular(path, what="image")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist, or is a link to what does not: give an image.") from error
    if os.fstat(file.fileno()).st_size > MOST_BYTES:
        file.close()
        raise UserError(f"{path} has more than {MOST_BYTES >> 30} GiB, which no frame has: give another image.")
    return file


def _pillow(file: BinaryIO, name: object) -> Image.Image:
    with _decoding(name):
        image = Image.open(file, formats=FORMATS)
        check_pixels(*image.size, name)
        return image


class _decoding:
    """Whatever Pillow raises for the bytes of a file, as one sentence.

    Its decoders raise what they happen to run into in hostile bytes, of about 15 kinds.
    """

    def __init__(self, name: object) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, MemoryError):
            raise UserError(f"{self._name} does not fit into memory: give a smaller image.") from error
        if isinstance(error, Image.DecompressionBombError):
            raise UserError(
                f"{self._name} claims more pixels than the {MOST_PIXELS // 10**6} million that a frame may have: give "
                "another image."
            ) from error
        if isinstance(error, Image.UnidentifiedImageError):
            raise _unreadable(self._name, "it is neither PNG nor JPEG, or damaged") from error
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise _unreadable(self._name, printable(error)) from error


def _unreadable(name: object, why: str) -> UserError:
    return UserError(f"{name} cannot be read as an image ({why}): save it again as PNG or JPG.")


def _orientation(image: Image.Image, file: BinaryIO) -> object:
    """What EXIF says; damaged notes say nothing. ``file`` is that of the image."""
    if image.format == "PNG":
        # Pillow would decode all pixels to look behind them.
        notes = next((file.read(min(length, MOST_NOTES)) for kind, length in png_chunks(file) if kind == b"eXIf"), b"")
    else:
        notes = image.info.get("exif", b"")
    exif = Image.Exif()
    try:
        exif.load(notes)
        value: object = exif.get(ORIENTATION, 1)
    except Exception:  # as of _decoding; the pixels are not affected
        return 1
    return value if isinstance(value, int) else 1


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk of a PNG, with ``file`` at the chunk's content, as far as it goes."""
    position = len(PNG_START)
    while True:
        file.seek(position)
        head = file.read(8)
        length, kind = struct.unpack(">I4s", head.ljust(8, b"\0"))
        if not kind.isalpha():
            return
        yield kind, length
        if kind == b"IEND":
            return
        position += length + 12


def _check_png(data: bytes, name: object) -> None:
    """Raise :class:`UserError` unless all of a PNG's checksums are right and its end is there; Pillow skips most."""
    view, position, kind = memoryview(data), len(PNG_START), b""
    while kind != b"IEND":
        end = position + 8 + int.from_bytes(view[position : position + 4], "big")
        if end + 4 > len(data):
            raise _unreadable(name, "it is cut off")
        kind = bytes(view[position + 4 : position + 8])
        is_right = zlib.crc32(view[position + 4 : end]) == int.from_bytes(view[end : end + 4], "big")
        if not (is_right and kind.isalpha()):
            raise _unreadable(name, "it is damaged")
        position = end + 4
