"""All metrics of a sequence, frame by frame, with everything that several of them need computed once.

A frame's values depend on it and the frame before, on nothing else: a sequence may be measured in parts, in any number
of processes, with equal results.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.invariants import require
from tecogan_dist.metrics.frame import luma, psnr_y, ssim_y
from tecogan_dist.metrics.names import METRICS, NEED_WEIGHTS
from tecogan_dist.metrics.perceptual import Features, Lpips, t_lp
from tecogan_dist.metrics.protocol import OFFICIAL, Images, Protocol, match_size
from tecogan_dist.metrics.temporal import Grey, grey, optical_flow, t_of


def measure(
    results: Images,
    targets: Images,
    *,
    protocol: Protocol = OFFICIAL,
    metrics: Collection[str] = METRICS,
    lpips: Lpips | None = None,
) -> dict[str, list[float]]:
    """Values of each of ``metrics`` for (T, H, W, 3) uint8 RGB sequences, in the order of the protocol's frames.

    psnr in dB (infinite for equal frames), ssim up to 1, lpips from 0, tof in pixels, tlp times 100; the last two have
    one value less, the first measured frame has none. ``lpips`` is needed for lpips and tlp. Larger results are cut to
    the targets' size. Raises :class:`UserError` for sequences of different lengths, too few frames or sizes that do
    not fit.
    """
    if len(results) != len(targets):
        raise UserError(f"there are {len(results)} results and {len(targets)} targets: give as many of both.")
    meter = Meter(protocol=protocol, metrics=metrics, lpips=lpips)
    rows = [meter.measure(results[index], targets[index]) for index in protocol.frames(len(targets))]
    return {name: [row[name] for row in rows if name in row] for name in metrics}


@dataclass(frozen=True)
class _Seen:
    """What the next frame needs of a (result, target) pair."""

    greys: tuple[Grey, Grey] | None
    features: tuple[Features, Features] | None


class Meter:
    """Measures consecutive (result, target) pairs of one sequence."""

    def __init__(self, *, protocol: Protocol, metrics: Collection[str], lpips: Lpips | None) -> None:
        require(set(metrics) <= set(METRICS), f"{metrics} are names of metrics")
        require(lpips is not None or not set(metrics) & set(NEED_WEIGHTS), "lpips and tlp have weights")
        self._protocol, self._metrics, self._lpips = protocol, frozenset(metrics), lpips
        self._previous: _Seen | None = None

    def see(self, result: Images, target: Images) -> None:
        """Take a pair as the one before the next, without measuring it. (H, W, 3) uint8 RGB each."""
        self._previous = self._seen(match_size(result, target), target)

    def measure(self, result: Images, target: Images) -> dict[str, float]:
        """The metrics of a pair, without the temporal ones if there was none before it."""
        result = match_size(result, target)
        values = self._spatial(result, target)
        previous, self._previous = self._previous, self._seen(result, target)
        now = self._previous
        if self._lpips is not None and "lpips" in self._metrics and now.features is not None:
            values["lpips"] = self._lpips.distance(*now.features)
        if previous is None:
            return values
        if previous.greys is not None and now.greys is not None:
            flows = [optical_flow(*greys) for greys in zip(previous.greys, now.greys, strict=True)]
            values["tof"] = t_of(*flows, protocol=self._protocol)
        if self._lpips is not None and "tlp" in self._metrics and previous.features and now.features:
            steps = [self._lpips.distance(*pair) for pair in zip(previous.features, now.features, strict=True)]
            values["tlp"] = t_lp(*steps)
        return values

    def _spatial(self, result: Images, target: Images) -> dict[str, float]:
        values: dict[str, float] = {}
        if self._metrics & {"psnr", "ssim"}:
            y_result, y_target = luma(self._protocol.crop(result)), luma(self._protocol.crop(target))
            if "psnr" in self._metrics:
                values["psnr"] = psnr_y(y_result, y_target)
            if "ssim" in self._metrics:
                values["ssim"] = ssim_y(y_result, y_target, data_range=self._protocol.ssim_data_range)
        return values

    def _seen(self, result: Images, target: Images) -> _Seen:
        greys = (grey(result), grey(target)) if "tof" in self._metrics else None
        features = None
        if self._lpips is not None and self._metrics & set(NEED_WEIGHTS):
            crop = self._protocol.crop
            features = (self._lpips.features(crop(result)), self._lpips.features(crop(target)))
        return _Seen(greys, features)


def mean(values: Collection[float]) -> float:
    """The arithmetic mean; not a number for none."""
    return math.fsum(values) / len(values) if values else math.nan
