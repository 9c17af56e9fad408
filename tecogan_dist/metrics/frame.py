"""PSNR and SSIM of single frames on luma, as the original's metrics.py measures them.

Nothing is cropped here: see :mod:`tecogan_dist.metrics.protocol`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tecogan_dist.metrics.protocol import Images

Luma = NDArray[np.float64]

WINDOW = 7
INSIDE = slice(WINDOW // 2, -(WINDOW // 2))


def luma(image: Images) -> Luma:
    """Studio-range luma of ITU-R BT.601 (MATLAB's rgb2ycbcr) of (..., 3) uint8 RGB: 16..235, not rounded."""
    # 219 * (0.299, 0.587, 0.114), the coefficients of BT.601 section 2.5.1 on the 220 levels of section 2.5.3
    return image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16


def psnr_y(y_result: Luma, y_target: Luma) -> float:
    """Peak signal-to-noise ratio of two (H, W) lumas in dB, 20 log10(255 / rmse); infinite for equal luma.

    The peak is 255 although luma spans 219 levels: so in the original and in the papers that follow VSR-DUF's code.
    """
    mean_squared_error = float(np.mean((y_result - y_target) ** 2))
    return 10 * math.log10(255**2 / mean_squared_error) if mean_squared_error else math.inf


def ssim_y(y_result: Luma, y_target: Luma, *, data_range: float | None) -> float:
    """Structural similarity of two (H, W) lumas (Wang et al. 2004), 1 for equal images.

    The values are those of scikit-image's defaults: a 7x7 uniform window with sample covariance, K1 = 0.01, K2 = 0.03,
    the mean without the 3 pixels at each border. Only the sum of both variances is needed, so 4 filters do the work of
    5. ``data_range`` scales both constants; None: the range of the *result's* luma, max - min, as in the original, or
    255 for a flat result, where the original divides 0 by 0.
    """
    from scipy.ndimage import uniform_filter  # it takes a sixth of a second, and every training worker imports this

    if data_range is None:
        data_range = float(y_result.max() - y_result.min()) or 255.0
    mean_result, mean_target, squares, products = (
        uniform_filter(image, WINDOW)[INSIDE, INSIDE]
        for image in (y_result, y_target, y_result * y_result + y_target * y_target, y_result * y_target)
    )
    product_of_means = mean_result * mean_target
    squared_means = mean_result * mean_result + mean_target * mean_target
    sample = WINDOW**2 / (WINDOW**2 - 1)
    covariance, variances = sample * (products - product_of_means), sample * (squares - squared_means)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * product_of_means + c1) * (2 * covariance + c2)
    similarity /= (squared_means + c1) * (variances + c2)
    return float(similarity.mean())
