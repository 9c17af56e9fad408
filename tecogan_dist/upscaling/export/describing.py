"""What an exported file says about itself: all that a program needs to use it that does not know this package."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Literal

from tecogan_dist.config import load as settings
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling.recurrence import SMALLEST_SIDE
from tecogan_dist.weights.format import Weights

Kind = Literal["onnx", "pt2"]
FORMAT = "tecogan_dist recurrent step"
VERSION = "1"
"""Of these entries and of what they promise."""


def describe(weights: Weights, model: RecurrentUpscaler, *, licence: str | None) -> dict[str, str]:
    """The metadata, the same for each kind of file. ``model`` is built of ``weights``."""
    s = model.scale
    entries = {
        "format": FORMAT,
        "version": VERSION,
        "package": f"tecogan_dist {_package_version()}",
        "scale": str(s),
        "warm_up": str(model.warm_up),
        "rounding": "nearest" if model.rounds else "down",
        "inputs": f"lr_frame and previous_lr (1, 3, h, w), previous_sr (1, 3, {s} h, {s} w): float32, RGB, 0..1; "
        f"h and w of at least {SMALLEST_SIDE}",
        "outputs": f"sr_frame (1, 3, {s} h, {s} w): float32, RGB, around 0..1, not clipped",
        "state": "previous_lr and previous_sr are the lr_frame before and the sr_frame that it gave, as it is; both "
        "are zeros for a sequence's first frame",
        "warming_up": "run the frames warm_up, ..., 2, 1 (counted from 0) before frame 0, and drop what they give",
        "images": "255 times sr_frame, clipped to 0..255, rounded as rounding says",
        "degradation": weights.degradation,
        "step": str(weights.step),
        "model": json.dumps(settings.to_tree(weights.model)),
    }
    return entries | ({} if licence is None else {"licence": licence})


def _package_version() -> str:
    try:
        return metadata.version("tecogan_dist")
    except metadata.PackageNotFoundError:
        return "(not installed)"
