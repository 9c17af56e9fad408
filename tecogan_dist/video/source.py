"""What all readers of frames have in common.

A frame is a (height, width, 3) uint8 RGB array, or a uint16 one where a source was opened as deep and has more than 8
bits. Reading is lazy and in order, so a film never has to fit in memory.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from tecogan_dist.base.errors import UserError


class Damaged(UserError):
    """A file that is not what it was when it was made."""


MOST_PIXELS = 2**27
"""Of a frame: 16K video (15360x8640) has fewer."""
MOST_FRAMES = 10**7
"""Four days of video; a promise of more is no reason to plan for them."""


def check_pixels(width: int, height: int, name: object) -> None:
    """Raise :class:`UserError`, which names ``name``, for a size that a header claims and no frame has."""
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{name} has {width}x{height} pixels, and a frame may have {MOST_PIXELS // 10**6} million: give a smaller "
            "one."
        )


class Picture(Protocol):
    """A frame of which only parts are wanted: an array, or a decoded frame that is converted where it is looked at."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows_and_columns: tuple[slice, slice]) -> np.ndarray:
        """These pixels, (h, w, 3) uint8 RGB."""


class FrameSource(ABC):
    """Frames that can be read in order, any number of times.

    ``rate`` is frames a second. ``count`` is what the container says, None where it says nothing. ``names`` are the
    file names without suffix of an image folder, None for a video. ``dtype`` is that of the frames, uint8 or uint16.
    """

    path: Path
    height: int
    width: int
    rate: Fraction
    count: int | None
    names: tuple[str, ...] | None = None
    is_of_fields = False
    """Of the frame that :meth:`previews` gave last: whether it is two fields of different moments."""
    dtype: np.dtype = np.dtype(np.uint8)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Frames ``start`` to ``stop`` (exclusive; None: to the end). Reading to the end verifies a video's length."""
        return self.frames_at(itertools.count(start) if stop is None else range(start, stop))

    @abstractmethod
    def previews(self, side: int) -> Iterator[np.ndarray]:
        """All frames, reduced so that the longer side is about ``side`` pixels: cheap, for looking at, not for keeping.

        Raises :class:`UserError` as :meth:`frames_at`.
        """

    @abstractmethod
    def count_frames(self) -> int:
        """The number of frames that there should be, by the container's table or its packets; decodes nothing.

        More than there are if the file is cut off, or if not every packet is a frame (VP8 has invisible ones).
        """

    @abstractmethod
    def frames_at(self, positions: Iterable[int]) -> Iterator[np.ndarray]:
        """The frames at these increasing positions, each (height, width, 3) RGB; ends early where the file ends.

        Frames between them are decoded but not converted. Raises :class:`UserError`, which names the file, for data
        that cannot be decoded, for a file that ends before what it promises and for frames that change their size.
        """

    def pictures_at(self, positions: Iterable[int]) -> Iterator[Picture]:
        """:meth:`frames_at` for a reader that looks at parts of them: of each, before it asks for the next."""
        return self.frames_at(positions)
