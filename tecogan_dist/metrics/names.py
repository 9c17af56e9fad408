"""The metrics' names. Apart from what measures them, which takes seconds to import."""

from __future__ import annotations

METRICS = ("psnr", "ssim", "lpips", "tof", "tlp")
NEED_WEIGHTS = ("lpips", "tlp")
HIGHER_IS_BETTER = ("psnr", "ssim")
COLUMN = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "tof": "tOF", "tlp": "tLP100"}
"""The original's name of each: tLP is published times 100."""
