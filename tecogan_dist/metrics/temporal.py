"""tOF: how far the motion of a result is from the motion of its target (TecoGAN, section 4.2).

Optical flow is OpenCV's, on whole frames; its last digits depend on the version of OpenCV (the reference vectors were
made with 4.11).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tecogan_dist.metrics.protocol import Images, Protocol

Grey = NDArray[np.uint8]
Flow = NDArray[np.float32]


def use_threads(count: int) -> None:
    """Let OpenCV use ``count`` threads in this process."""
    cv2.setNumThreads(count)


def grey(image: Images) -> Grey:
    """BT.601 grey (H, W) uint8 of an (H, W, 3) RGB image, as OpenCV rounds it."""
    converted: Grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), np.uint8)
    return converted


def optical_flow(previous: Grey, current: Grey) -> Flow:
    """Farneback's flow from one grey frame to the next: (H, W, 2) in pixels, channel 0 along columns (x).

    The parameters are those of the original's metrics.py: 3 levels of scale 0.5, window 15, 3 iterations, polynomials
    over 5 pixels with sigma 1.2.
    """
    flow = np.empty((*current.shape, 2), np.float32)
    cv2.calcOpticalFlowFarneback(previous, current, flow, 0.5, 3, 15, 3, 5, 1.2, 0)
    return flow


def flow_difference(result_flow: Flow, target_flow: Flow) -> NDArray[np.float32]:
    """Euclidean distance in pixels of two flow fields (..., 2), at each pixel.

    The paper writes an L1 norm; the original's code, and so the published numbers, take the L2 norm of each vector.
    """
    difference = target_flow - result_flow
    difference *= difference
    distance: NDArray[np.float32] = np.sqrt(difference[..., 0] + difference[..., 1])
    return distance


def t_of(result_flow: Flow, target_flow: Flow, *, protocol: Protocol) -> float:
    """tOF of one step: the mean of :func:`flow_difference` over the protocol's region of two fields (H, W, 2).

    In pixels; 0 for equal motion, lower is better.
    """
    return float(flow_difference(protocol.crop(result_flow), protocol.crop(target_flow)).mean())
