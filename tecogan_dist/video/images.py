"""Frames out of folders of PNG and JPG images, and single images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.video.formats import FOLDER_RATE, IMAGE_SUFFIXES
from tecogan_dist.video.source import FrameSource


def image_files(folder: Path) -> list[Path]:
    """The PNG and JPG files of a folder, sorted by all digits of their names read as one number, then by name."""
    images = (entry for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES and entry.name[0] != ".")
    return sorted(images, key=digits_of)


def digits_of(path: PurePath) -> tuple[bool, int, str, str]:
    """A key that sorts by all digits of a name read as one number, however long, then by the name."""
    digits = "".join(filter(str.isdecimal, path.stem))
    number = digits.lstrip("0")
    return bool(digits), len(number), number, path.name


class ImageFolder(FrameSource):
    """A folder of images of one size, in the order of :func:`image_files`. Raises :class:`UserError` for any other."""

    def __init__(self, path: Path) -> None:
        self._files = image_files(path)
        if not self._files:
            raise UserError(f"{path} holds no PNG or JPG images: give a folder that does.")
        self.path, self.rate, self.count = path, FOLDER_RATE, len(self._files)
        self.names = tuple(image.stem for image in self._files)
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
            frame = read_image(image)
            if frame.shape != (self.height, self.width, 3):
                raise UserError(f"{image} changed its size while it was read: start again when nothing writes to it.")
            yield frame

    def previews(self, side: int) -> Iterator[np.ndarray]:
        step = max(1, max(self.height, self.width) // side)
        for frame in self.frames():
            yield np.ascontiguousarray(frame[::step, ::step])

    def count_frames(self) -> int:
        return len(self._files)


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): save it again as PNG or JPG.") from error


def read_image(path: Path) -> np.ndarray:
    """One image as (height, width, 3) uint8 RGB.

    Grey becomes three equal channels, 16 bits are rounded to 8, an alpha channel is dropped if everything is opaque.
    Raises :class:`UserError` for transparency, for other pixel formats, and for a file that cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("I;16", "I;16L", "I;16B"):
                grey = ((np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
                raise UserError(f"{path} has pixels of type {image.mode!r}: save it as 8-bit RGB.")
            if "A" in image.getbands() or "transparency" in image.info:
                alpha = np.asarray(image.convert("RGBA"))[:, :, 3]
                if alpha.min() != 255:
                    raise UserError(f"{path} has transparent pixels: save it as RGB without transparency.")
            return np.asarray(image.convert("RGB"))
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): save it again as PNG or JPG.") from error
