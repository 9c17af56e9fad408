"""Which frames and which pixels of a result are measured: by the original's metrics.py, or all of them.

Sequences are (T, H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tecogan_dist.base.errors import UserError

Images = NDArray[np.uint8]

BORDER = 8
"""Pixels left out, at least, at each side of a frame by the official crop."""
MULTIPLE = 32
"""The officially measured part's sides are multiples of this; also the smallest side that AlexNet can take."""
LARGEST_EXCESS = 1.5
"""A result this many times larger than its target, in either direction, is another picture, not one to be cropped."""


@dataclass(frozen=True)
class Protocol:
    """What is measured of a sequence.

    ``cut_frames`` are left out at each end; a sequence must have ``minimum_frames``; ``crops`` says whether only the
    centre is measured; ``ssim_data_range`` is the span that SSIM's constants are scaled by (None: the range of each
    result's luma).
    """

    name: str
    description: str
    cut_frames: int
    minimum_frames: int
    crops: bool
    ssim_data_range: float | None

    def frames(self, count: int) -> range:
        """Indices of the measured frames among ``count``. Raises :class:`UserError` for too few of them."""
        self.check_count(count, "a sequence")
        return range(self.cut_frames, count - self.cut_frames)

    def check_count(self, count: int, what: str) -> None:
        """Raise :class:`UserError`, which names ``what``, if it has fewer frames than the protocol can measure."""
        if count < self.minimum_frames:
            raise UserError(
                f"{what} has {count} frames and the {self.name} protocol needs {self.minimum_frames} or more: "
                "give a longer sequence."
            )

    def region(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns that are measured. Raises :class:`UserError` for frames that are too small."""
        smallest = MULTIPLE + 2 * BORDER if self.crops else MULTIPLE
        if min(height, width) < smallest:
            raise UserError(
                f"frames of {width}x{height} are too small to be measured: the {self.name} protocol needs "
                f"{smallest} pixels in each side."
            )
        return (_centred(height), _centred(width)) if self.crops else (slice(0, height), slice(0, width))

    def crop(self, images: NDArray[Any]) -> NDArray[Any]:
        """The measured part of images or fields (..., H, W, C): a view."""
        rows, columns = self.region(*images.shape[-3:-1])
        return images[..., rows, columns, :]


OFFICIAL = Protocol(
    name="official",
    description="frames 2 to n - 3, the centre in multiples of 32 pixels, SSIM over the range of the result's luma: "
    "as the original's metrics.py, and so the paper",
    cut_frames=2,
    minimum_frames=6,
    crops=True,
    ssim_data_range=None,
)
STANDARD = Protocol(
    name="standard",
    description="every frame, every pixel, SSIM over a range of 255",
    cut_frames=0,
    minimum_frames=2,
    crops=False,
    ssim_data_range=255.0,
)
PROTOCOLS = {protocol.name: protocol for protocol in (OFFICIAL, STANDARD)}


def _centred(size: int) -> slice:
    kept = (size - 2 * BORDER) // MULTIPLE * MULTIPLE
    start = (size - kept) // 2
    return slice(start, start + kept)


def check_sizes(result: tuple[int, int], target: tuple[int, int], what: str) -> None:
    """Raise :class:`UserError`, which names ``what``, unless a result's (height, width) can be cut to the target's."""
    if result[0] < target[0] or result[1] < target[1]:
        raise UserError(
            f"{what}: the results have {result[1]}x{result[0]} pixels and the targets {target[1]}x{target[0]}; give "
            "targets that are no larger than the results."
        )
    if result[0] >= LARGEST_EXCESS * target[0] or result[1] >= LARGEST_EXCESS * target[1]:
        raise UserError(
            f"{what}: the results have {result[1]}x{result[0]} pixels and the targets only {target[1]}x{target[0]}; "
            "give targets of the results' resolution."
        )


def match_size(results: Images, targets: Images) -> Images:
    """``results`` (..., H, W, 3) cut at the bottom and right to the targets' size: a view.

    A frame that was degraded and upscaled has 4 * ceil(H / 4) rows. Raises :class:`UserError` for results that are
    smaller than the targets, or so much larger that they cannot be the same picture.
    """
    height, width = targets.shape[-3:-1]
    check_sizes((results.shape[-3], results.shape[-2]), (height, width), "frames of different sizes")
    return results[..., :height, :width, :]
