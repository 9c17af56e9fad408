"""Whether windows of the wanted size fit into the scenes: checked before a run starts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tecogan_dist.base.errors import UserError
from tecogan_dist.data.clips import Scene, Scenes
from tecogan_dist.data.stream.windows import WindowConfig, crop_side


def check_scenes(scenes: Sequence[Scene], data: WindowConfig) -> None:
    """Raise :class:`UserError` unless there are scenes and a window fits into every one of them."""
    if not scenes:
        raise UserError("no scene of the clip store is selected: check data.train_scenes and data.validation_scenes.")
    scenes = Scenes.of(scenes)
    lone = np.flatnonzero(~scenes.has_low_resolution())
    if data.degradation == "pairs" and len(lone):
        raise UserError(
            f"{len(lone)} of {len(scenes)} scenes have no low resolution of their own, the first is scene "
            f"{scenes[lone[0]].number}: prepare them from pairs (hr: and lr: in the sources), or use data.degradation "
            "BD or BI."
        )
    short = np.flatnonzero(scenes.numbers("frames") < data.sequence_length)
    if len(short):
        first = scenes[short[0]]
        raise UserError(
            f"{len(short)} of {len(scenes)} scenes are shorter than data.sequence_length {data.sequence_length}, the "
            f"first is scene {first.number} with {first.frames} frames: lower it, or select other scenes."
        )
    side = crop_side(data)
    small = np.flatnonzero(np.minimum(scenes.numbers("height"), scenes.numbers("width")) < side)
    if len(small):
        first = scenes[small[0]]
        raise UserError(
            f"{len(small)} of {len(scenes)} scenes are smaller than the {side}x{side} crop of data.crop_size "
            f"{data.crop_size}, the first is scene {first.number} with {first.width}x{first.height} pixels: "
            "lower it, or select other scenes."
        )
