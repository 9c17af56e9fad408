"""Whether windows of the wanted size fit into the scenes: checked before a run starts."""

from __future__ import annotations

from collections.abc import Sequence

from tecogan_dist.base.errors import UserError
from tecogan_dist.data.clips import Scene
from tecogan_dist.data.stream.windows import WindowConfig, crop_side


def check_scenes(scenes: Sequence[Scene], data: WindowConfig) -> None:
    """Raise :class:`UserError` unless there are scenes and a window fits into every one of them."""
    if not scenes:
        raise UserError("no scene of the clip store is selected: check data.train_scenes and data.validation_scenes.")
    lone = [scene for scene in scenes if scene.lr_file is None]
    if data.degradation == "pairs" and lone:
        raise UserError(
            f"{len(lone)} of {len(scenes)} scenes have no low resolution of their own, the first is scene "
            f"{lone[0].number}: prepare them from pairs (hr: and lr: in the sources), or use data.degradation BD or BI."
        )
    short = [scene for scene in scenes if scene.frames < data.sequence_length]
    if short:
        raise UserError(
            f"{len(short)} of {len(scenes)} scenes are shorter than data.sequence_length {data.sequence_length}, the "
            f"first is scene {short[0].number} with {short[0].frames} frames: lower it, or select other scenes."
        )
    side = crop_side(data)
    small = [scene for scene in scenes if min(scene.height, scene.width) < side]
    if small:
        raise UserError(
            f"{len(small)} of {len(scenes)} scenes are smaller than the {side}x{side} crop of data.crop_size "
            f"{data.crop_size}, the first is scene {small[0].number} with {small[0].width}x{small[0].height} pixels: "
            "lower it, or select other scenes."
        )
