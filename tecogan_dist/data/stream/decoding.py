"""What a decoding task of the training stream does: a few draws of scenes in, their windows out.

Each runs in a process of its own, of which a machine has many: torch is not imported here, nor by anything that is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tecogan_dist.base.storage import Location
from tecogan_dist.data.cache import scene_frames
from tecogan_dist.data.clips import Scene
from tecogan_dist.data.stream.windows import (
    SampleSpec,
    WindowConfig,
    cut_windows,
    draw_of,
    needed_frames,
    sample_spec,
    scene_of_draw,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Everything that decides which windows a rank needs; travels to the decoding tasks."""

    store: Location
    data: WindowConfig
    seed: int
    scenes: tuple[Scene, ...]
    batch_size: int
    rank: int
    world_size: int
    first_step: int
    steps: int

    def samples_of_step(self, step: int) -> range:
        count = self.batch_size // self.world_size
        first = step * self.batch_size + self.rank * count
        return range(first, first + count)

    def samples_of_draw(self, draw: int) -> list[int]:
        """Samples of a draw that are this rank's, within the stream's steps."""
        lanes = self.data.scenes_in_mix
        first = draw // lanes * lanes * self.data.windows_per_decode + draw % lanes
        of_draw = range(first, first + lanes * self.data.windows_per_decode, lanes)
        return [i for i in of_draw if i in self.samples_of_step(i // self.batch_size) and self._has_step(i)]

    def _has_step(self, sample: int) -> bool:
        return self.first_step <= sample // self.batch_size < self.first_step + self.steps

    def draws(self) -> Iterator[int]:
        """Draws in the order in which their first window is needed."""
        lanes, seen, mix = self.data.scenes_in_mix, set[int](), -1
        for step in range(self.first_step, self.first_step + self.steps):
            for sample in self.samples_of_step(step):
                draw = draw_of(sample, self.data)
                if draw // lanes != mix:
                    mix, seen = draw // lanes, set()  # draws of a mix serve no later sample
                if draw not in seen:
                    seen.add(draw)
                    yield draw


def decode(batch: Any, part: Part) -> Iterator[dict[str, np.ndarray]]:
    """Runs in a task: the windows that this rank needs of each draw of a row, one after the other."""
    (draws,) = batch["draws"]
    decoded = []
    for draw in draws.tolist():
        scene = scene_of_draw(draw, seed=part.seed, scenes=part.scenes)
        specs = [
            sample_spec(index, seed=part.seed, scenes=part.scenes, data=part.data)
            for index in part.samples_of_draw(draw)
        ]
        decoded.append(decode_windows(part.store, scene, specs, part.data))
    windows = decoded[0] if len(decoded) == 1 else np.concatenate(decoded)
    yield {"draws": draws[None], "counts": np.array([[len(of_draw) for of_draw in decoded]]), "windows": windows[None]}


def decode_windows(store: Location, scene: Scene, specs: Sequence[SampleSpec], data: WindowConfig) -> np.ndarray:
    """The windows (N, T, H, W, 3) uint8 of ``specs``, all of one scene, as :func:`cut_windows` gives them."""
    positions = needed_frames(specs, data.sequence_length)
    frames = scene_frames(store, scene, positions, data)
    low = scene_frames(store, scene, positions, data, low_resolution=True) if data.degradation == "pairs" else None
    return cut_windows(frames, specs, data, lr_frames=low)
