"""Where low resolution comes from, and how far around a pixel that looks: names and numbers, without torch."""

from __future__ import annotations

from typing import Literal

Degradation = Literal["BD", "BI"]
"""How low resolution is made: by a blur and decimation, or by MATLAB's bicubic ``imresize``."""
LrOrigin = Literal["BD", "BI", "pairs"]
"""Where low resolution comes from: a degradation, or files of the user's own (pairs)."""

BLUR_SIGMA = 1.5
"""Standard deviation of the BD degradation's Gaussian, in high-resolution pixels (TecoGAN, section 4). It is the same
for scale 2, where only the stride changes."""
BLUR_MARGIN = 4
"""High-resolution pixels that the 9x9 blur consumes on every side of a crop: int(3 * BLUR_SIGMA)."""


def is_centred(origin: LrOrigin) -> bool:
    """Whether low-resolution pixels lie over the middle of theirs in high resolution (see :mod:`tecogan_dist.ops`).

    So it is in BI and in the field's sets of pairs (REDS, Vimeo-90k), which are made like it.
    """
    return origin != "BD"


def bicubic_margin(scale: int) -> int:
    """High-resolution pixels beyond a low-resolution pixel's own ``scale`` that ``imresize`` reaches, on each side.

    3 for 2, 6 for 4.
    """
    return 3 * scale // 2


def window_margin(origin: LrOrigin, scale: int) -> int:
    """High-resolution pixels that a degradation needs beyond a training crop, on each side; none for pairs."""
    return {"BD": BLUR_MARGIN, "BI": bicubic_margin(scale), "pairs": 0}[origin]
