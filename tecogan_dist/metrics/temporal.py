"""tOF: how far the motion of a result is from the motion of its target (TecoGAN, section 4.2).

Sequences are (T, H, W, 3) uint8 RGB. Optical flow is OpenCV's, on whole frames; its last digits depend on the version
of OpenCV (the reference vectors were made with 4.11).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from tecogan_dist.metrics.protocol import Images, crop


def optical_flow(images: Images) -> Iterator[NDArray[np.float32]]:
    """Farneback's flow between consecutive frames: T - 1 fields (H, W, 2) in pixels, channel 0 along columns (x).

    The parameters are those of the original's metrics.py: 3 levels of scale 0.5, window 15, 3 iterations, polynomials
    over 5 pixels with sigma 1.2.
    """
    greys = (cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in images)
    for previous, grey in itertools.pairwise(greys):
        flow = np.empty((*grey.shape, 2), np.float32)
        cv2.calcOpticalFlowFarneback(previous, grey, flow, 0.5, 3, 15, 3, 5, 1.2, 0)
        yield flow


def flow_distance(result_flow: NDArray[np.float32], target_flow: NDArray[np.float32]) -> float:
    """Mean Euclidean distance in pixels of two flow fields (H, W, 2) over the official crop.

    The paper writes an L1 norm; the original's code, and so the published numbers, take the L2 norm of each vector.
    """
    difference = crop(target_flow) - crop(result_flow)
    return float(np.sqrt(np.sum(difference * difference, axis=-1)).mean())


def t_of(results: Images, targets: Images) -> list[float]:
    """tOF of each step from a frame to the next: T - 1 values in pixels, 0 for equal motion; lower is better.

    ``results`` and ``targets`` are (T, H, W, 3) of one shape.
    """
    return t_of_flows(results, optical_flow(targets))


def t_of_flows(results: Images, target_flows: Iterable[NDArray[np.float32]]) -> list[float]:
    """:func:`t_of` from the T - 1 fields of :func:`optical_flow` of the targets, for several results of one target."""
    flows = zip(optical_flow(results), target_flows, strict=True)
    return [flow_distance(result_flow, target_flow) for result_flow, target_flow in flows]
