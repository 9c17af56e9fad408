"""Which frames and which pixels of a result are measured: the ``official`` protocol of the original's metrics.py.

Sequences are (T, H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tecogan_dist.errors import UserError

Images = NDArray[np.uint8]

CUT_FRAMES = 2
"""Frames left out at each end of a sequence."""
BORDER = 8
"""Pixels left out, at least, at each side of a frame."""
MULTIPLE = 32
"""The measured part's sides are multiples of this."""


def official_frames(count: int) -> range:
    """Indices of the measured frames among ``count`` target frames: 2 .. count - 3.

    Raises :class:`UserError` when none is left.
    """
    frames = range(CUT_FRAMES, count - CUT_FRAMES)
    if not frames:
        raise UserError(
            f"a sequence of {count} frames is too short: {CUT_FRAMES} frames at each end are not measured, give at "
            f"least {2 * CUT_FRAMES + 1}."
        )
    return frames


def official_crop(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns that are measured: the largest multiples of 32 that leave 8 pixels a side, centred.

    Raises :class:`UserError` when a side is below 48 pixels.
    """
    if min(height, width) < MULTIPLE + 2 * BORDER:
        raise UserError(
            f"frames of {width}x{height} are too small to be measured: the official crop needs "
            f"{MULTIPLE + 2 * BORDER} pixels in each side."
        )
    return _centred(height), _centred(width)


def _centred(size: int) -> slice:
    kept = (size - 2 * BORDER) // MULTIPLE * MULTIPLE
    start = (size - kept) // 2
    return slice(start, start + kept)


def crop(images: NDArray[Any]) -> NDArray[Any]:
    """The measured part of images or fields (..., H, W, C)."""
    rows, columns = official_crop(*images.shape[-3:-1])
    return images[..., rows, columns, :]


def match_size(results: Images, targets: Images) -> Images:
    """``results`` (..., H, W, 3) cut at the bottom and right to the targets' size.

    An upscaled degraded frame has 4 * ceil(H / 4) rows. Raises :class:`UserError` for results smaller than the targets.
    """
    height, width = targets.shape[-3:-1]
    if results.shape[-3] < height or results.shape[-2] < width:
        raise UserError(
            f"the results have {results.shape[-2]}x{results.shape[-3]} pixels and the targets {width}x{height}: give "
            "targets that are no larger than the results."
        )
    return results[..., :height, :width, :]
