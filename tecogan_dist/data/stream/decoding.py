"""What a decoding task of the training stream does: a few decodes and their scenes in, their windows out.

Each task runs in a process of its own, of which a machine has many: nothing that is imported here imports torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from tecogan_dist.base.storage import Location
from tecogan_dist.data.cache import scene_frames
from tecogan_dist.data.clips import SCHEMA, Scene
from tecogan_dist.data.stream.windows import (
    Sample,
    WindowConfig,
    cut_windows,
    decode_of,
    needed_frames,
    sample_of,
    scene_of_decode,
)

NUMBERS, SCENES = pa.list_(pa.int64()), pa.list_(pa.struct(list(SCHEMA)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamShard:
    """Everything that decides which windows a rank needs, but for the scenes; travels to the decoding tasks.

    Decodes and samples are given by their numbers. A task gets the scenes of its decodes only, in its row.
    """

    store: Location
    data: WindowConfig
    seed: int
    batch_size: int
    rank: int
    world_size: int
    first_step: int
    steps: int

    def samples_of_step(self, step: int) -> range:
        """This rank's samples of a step."""
        count = self.batch_size // self.world_size
        first = step * self.batch_size + self.rank * count
        return range(first, first + count)

    def samples_of_decode(self, number: int) -> list[int]:
        """Samples of a decode that are this rank's, within the stream's steps."""
        lanes = self.data.scenes_in_mix
        first = number // lanes * lanes * self.data.windows_per_decode + number % lanes
        of_decode = range(first, first + lanes * self.data.windows_per_decode, lanes)
        return [i for i in of_decode if i in self.samples_of_step(i // self.batch_size) and self._has_step(i)]

    def _has_step(self, index: int) -> bool:
        return self.first_step <= index // self.batch_size < self.first_step + self.steps

    def decodes(self) -> Iterator[int]:
        """Decodes in the order in which their first window is needed."""
        lanes, seen, mix = self.data.scenes_in_mix, set[int](), -1
        for step in range(self.first_step, self.first_step + self.steps):
            for index in self.samples_of_step(step):
                number = decode_of(index, self.data)
                if number // lanes != mix:
                    mix, seen = number // lanes, set()  # decodes of a mix serve no later sample
                if number not in seen:
                    seen.add(number)
                    yield number


def rows_of(tasks: Sequence[Sequence[int]], scenes: Sequence[Scene], *, seed: int) -> pa.Table:
    """A row for each task: the numbers of its decodes, and their scenes."""
    of_decodes = [[vars(scene_of_decode(number, seed=seed, scenes=scenes)) for number in numbers] for numbers in tasks]
    return pa.table([pa.array(tasks, NUMBERS), pa.array(of_decodes, SCENES)], names=["decodes", "scenes"])


def decode(row: pa.Table, shard: StreamShard) -> Iterator[dict[str, np.ndarray]]:
    """Runs in a task: the windows that this rank needs of each decode of a row, one after the other."""
    (numbers,), (scenes,) = row["decodes"].to_pylist(), row["scenes"].to_pylist()
    decoded = []
    for number, facts in zip(numbers, scenes, strict=True):
        scene = Scene(**facts)
        samples = [
            sample_of(index, seed=shard.seed, scene=scene, data=shard.data) for index in shard.samples_of_decode(number)
        ]
        decoded.append(decode_windows(shard.store, scene, samples, shard.data))
    windows = decoded[0] if len(decoded) == 1 else np.concatenate(decoded)
    counts = np.array([[len(of_decode) for of_decode in decoded]])
    yield {"decodes": np.array([numbers]), "counts": counts, "windows": windows[None]}


def decode_windows(store: Location, scene: Scene, samples: Sequence[Sample], data: WindowConfig) -> np.ndarray:
    """The windows (N, T, H, W, 3) uint8 of ``samples``, all of one scene, as :func:`cut_windows` gives them."""
    positions = needed_frames(samples, data.sequence_length)
    frames = scene_frames(store, scene, positions, data)
    low = scene_frames(store, scene, positions, data, low_resolution=True) if data.degradation == "pairs" else None
    return cut_windows(frames, samples, data, lr_frames=low)
