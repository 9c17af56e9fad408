"""PSNR and SSIM of single frames on luma, as the original's metrics.py measures them.

Images are (H, W, 3) uint8 RGB. Nothing is cropped here: see :mod:`tecogan_dist.metrics.protocol`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from tecogan_dist.metrics.protocol import Images


def luma(image: Images) -> NDArray[np.float64]:
    """Studio-range luma of ITU-R BT.601 (MATLAB's rgb2ycbcr) of (..., 3) RGB: 16..235, not rounded."""
    # 219 * (0.299, 0.587, 0.114), the coefficients of BT.601 section 2.5.1 on the 220 levels of section 2.5.3
    return image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16


def psnr_y(result: Images, target: Images) -> float:
    """Peak signal-to-noise ratio of the luma in dB, 20 log10(255 / rmse); infinite for equal luma.

    The peak is 255 although luma spans 219 levels: so in the original and in the papers that follow VSR-DUF's code.
    """
    mean_squared_error = float(np.mean((luma(result) - luma(target)) ** 2))
    return 10 * math.log10(255**2 / mean_squared_error) if mean_squared_error else math.inf


def ssim_y(result: Images, target: Images, *, data_range: float | None = None) -> float:
    """Structural similarity of the luma (Wang et al. 2004), 1 for equal images; scikit-image's default form.

    That is the mean over a 7x7 uniform window with sample covariance, K1 = 0.01, K2 = 0.03, without the 3 pixels at
    each border. ``data_range`` scales both constants; none: the range of the *result's* luma, max - min, as in the
    original, or 255 for a flat result, where the original divides 0 by 0.
    """
    y_result, y_target = luma(result), luma(target)
    if data_range is None:
        data_range = float(y_result.max() - y_result.min()) or 255.0
    return float(structural_similarity(y_target, y_result, data_range=data_range))
