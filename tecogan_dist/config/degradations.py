"""Where low resolution comes from, and how far around a pixel that looks: names and numbers.

Without torch, since decoding processes need them; :mod:`tecogan_dist.ops.degrade` has what is done to pixels.
"""

from __future__ import annotations

from typing import Literal

Degradation = Literal["BD", "BI"]
"""How low resolution is made: by a blur and decimation, or by MATLAB's bicubic ``imresize``."""
LrOrigin = Literal["BD", "BI", "pairs"]
"""Where low resolution comes from: a degradation, or files of the user's own (pairs)."""

BLUR_MARGIN = 4
"""High-resolution pixels that BD's 9x9 blur consumes on every side of a crop: int(3 * sigma), sigma being 1.5."""


def is_centred(origin: LrOrigin) -> bool:
    """Whether a low-resolution pixel lies over the middle of its high-resolution ones, not over their first.

    It does in BI and in the field's sets of pairs (REDS, Vimeo-90k), which are made the same way;
    :mod:`tecogan_dist.ops.resampling` has the positions.
    """
    return origin != "BD"


def bicubic_margin(scale: int) -> int:
    """High-resolution pixels beyond a low-resolution pixel's own ``scale`` that ``imresize`` reaches, on each side.

    3 for scale 2, 6 for scale 4.
    """
    return 3 * scale // 2


def window_margin(origin: LrOrigin, scale: int) -> int:
    """High-resolution pixels that a degradation needs beyond a training crop, on each side; none for pairs."""
    return {"BD": BLUR_MARGIN, "BI": bicubic_margin(scale), "pairs": 0}[origin]
