"""How a metric's name and its values are written."""

from __future__ import annotations

import math

LABEL = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "tof": "tOF (px)",
    "tlp": "tLP \N{MULTIPLICATION SIGN}100",
}
UNIT = {"psnr": " dB", "ssim": "", "lpips": "", "tof": " px", "tlp": ""}
DECIMALS = {"psnr": 2, "ssim": 4, "lpips": 4, "tof": 4, "tlp": 4}


def format_value(value: float, metric: str) -> str:
    """A metric's value with its usual number of decimals; infinite: a sign."""
    return "∞" if math.isinf(value) else f"{value:.{DECIMALS[metric]}f}"
