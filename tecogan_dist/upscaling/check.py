"""Whether what was written is what the network gave: frame by frame, by a few numbers of each.

A frame's look is its mean, its standard deviation and the means of a coarse grid, in grey levels of 0..255. They are
taken of every n-th pixel, which costs under a millisecond, and of the result they are taken twice: as it comes out of
the network and as it comes out of the file. Any codec, at any quality, keeps the means of large areas.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tecogan_dist.base.errors import UserError

SIDE = 256
"""Pixels that are looked at along the longer side, about."""
GRID, CELL = 4, 16
"""Cells along a side, at most, and pixels of a cell's side, at least: smaller ones a coarse quality may change."""
SAME = 40.0
"""Grey levels between the means of one cell that no codec makes (x264 at crf 51 of coloured noise: up to 26)."""
FLAT, STRUCTURED, PATTERNED = 1.0, 16.0, 6.0
"""Standard deviations of a frame that is one colour, of one that is certainly not, and of a grid's cells of such."""


class Look(NamedTuple):
    """A frame at a glance, in grey levels."""

    mean: float
    deviation: float
    cells: NDArray[np.float32]
    """(rows, columns, 3): means."""

    @property
    def is_flat(self) -> bool:
        """Whether it is black, or of any one colour."""
        return self.deviation < FLAT

    @property
    def is_structured(self) -> bool:
        """Whether something certainly is to be seen in it."""
        return self.deviation >= STRUCTURED or self.is_patterned

    @property
    def is_patterned(self) -> bool:
        """Whether large areas of it differ, which no codec takes away as it may take fine noise."""
        return float(self.cells.mean(2).std()) >= PATTERNED


def look(frame: NDArray[Any]) -> Look:
    """The look of (height, width, 3), uint8 or uint16."""
    step = max(1, max(frame.shape[:2]) // SIDE)
    pixels = frame[::step, ::step].astype(np.float32)
    if frame.dtype == np.uint16:
        pixels /= 257
    rows, columns = (np.linspace(0, side, min(GRID, max(1, side // CELL)) + 1).astype(int) for side in pixels.shape[:2])
    cells = np.array(
        [
            [pixels[top:bottom, left:right].mean((0, 1)) for left, right in itertools.pairwise(columns)]
            for top, bottom in itertools.pairwise(rows)
        ],
        np.float32,
    )
    # Of the grey picture: one colour has no structure, however far its channels are from each other.
    return Look(mean=float(pixels.mean()), deviation=float(pixels.std((0, 1)).max()), cells=cells)


def check_result(source: Look, result: Look, *, frame: int, advice: str) -> None:
    """Raise :class:`UserError` if the network made one colour of a frame that is not: ``advice`` ends the sentence."""
    if result.is_flat and source.is_structured:
        raise UserError(
            f"frame {frame} came out of the network as one colour (mean {result.mean:.0f} of 255), which it is not in "
            f"the input: {advice}."
        )


def check_written(written: Iterable[Look], given: Sequence[Look], *, first: int, name: object) -> None:
    """Raise :class:`UserError` unless ``written``, as it is decoded from the file ``name``, looks as it was ``given``.

    ``first`` is the first frame's number.
    """
    count = 0
    for decoded in written:
        count += 1
        if count > len(given):
            break
        expected = given[count - 1]
        off = float(np.abs(decoded.cells - expected.cells).max())
        if off > SAME or (decoded.is_flat and expected.is_patterned):
            raise UserError(
                f"{name} does not hold what the network gave: frame {first + count - 1} is off by {off:.0f} of 255 "
                f"levels, its standard deviation is {decoded.deviation:.0f} instead of {expected.deviation:.0f}. The "
                "encoder failed: choose another --codec, or see that memory and disk of this machine are sound."
            )
    if count != len(given):
        shown = f"{count} or more" if count > len(given) else f"{count}"
        raise UserError(
            f"{name} does not hold {len(given)} frames but {shown}: the encoder failed, choose another --codec, or see "
            "that the disk of this machine is sound."
        )
