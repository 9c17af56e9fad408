"""Sequences read once, cut into chunks, and measured in this process or by Ray tasks, with equal results."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.metrics import temporal
from tecogan_dist.metrics.perceptual import Lpips, Trunk
from tecogan_dist.metrics.protocol import Images, Protocol, match_size
from tecogan_dist.metrics.sequence import Meter
from tecogan_dist.metrics.summary import SequenceValues
from tecogan_dist.video.source import FrameSource

CHUNK_BYTES = 128 * 2**20
"""Most that the frames of one chunk should take; a chunk of very large frames has MIN_CHUNK all the same."""
MIN_CHUNK, MAX_CHUNK = 4, 16
"""Measured frames of a chunk. A task computes its predecessor's features once more: 3% of its work for 16."""

PROFILE_FRAMES = 1200
"""Frames of a sequence whose temporal profile is kept, at most."""

Row = dict[str, float]


@dataclass(frozen=True)
class Profile:
    """One fixed column of pixels of every frame of a sequence, measured or not.

    ``results`` and ``targets`` are (T, H, 3) uint8 RGB with the targets' H, ``column`` is its x from 0.
    """

    results: Images
    targets: Images
    column: int


@dataclass(frozen=True)
class Settings:
    """How frames are measured: everything that a process needs besides the frames."""

    protocol: Protocol
    metrics: tuple[str, ...]
    trunk: Trunk | None
    device: str = "cpu"


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames (n, H, W, 3) uint8; ``has_context``: the first pair is only there as the one before."""

    results: Images
    targets: Images
    has_context: bool


Mapping = Callable[[Iterator[Chunk]], Iterator[list[Row]]]
"""Measures chunks, in their order."""


@dataclass
class OpenSequence:
    """A result and its target, opened; what reading them has found so far."""

    name: str
    results: FrameSource
    targets: FrameSource
    protocol: Protocol
    profile_results: list[Images] = field(default_factory=list)
    profile_targets: list[Images] = field(default_factory=list)
    count: int = 0

    @property
    def column(self) -> int:
        """The column of pixels that the temporal profile shows: the measured region's middle."""
        columns = self.protocol.region(self.targets.height, self.targets.width)[1]
        return (columns.start + columns.stop) // 2

    def profile(self) -> Profile:
        return Profile(np.stack(self.profile_results), np.stack(self.profile_targets), self.column)

    def pairs(self, advance: Callable[[], None]) -> Iterator[tuple[Images, Images]]:
        """The measured (result, target) pairs, of the target's size. ``advance`` is called for every pair read.

        A frame is known to be measured when ``cut_frames`` more have been read: no length has to be known before.
        Raises :class:`UserError` for different lengths, too few frames and what reading raises.
        """
        cut = self.protocol.cut_frames
        ahead: deque[tuple[Images, Images]] = deque()
        for pair in self._all_pairs(advance):
            ahead.append(pair)
            if len(ahead) > cut:
                measured = ahead.popleft()
                if self.count > 2 * cut:
                    yield measured
        self.protocol.check_count(self.count, f"{self.results.path}")

    def _all_pairs(self, advance: Callable[[], None]) -> Iterator[tuple[Images, Images]]:
        results, targets = self.results.frames(), self.targets.frames()
        for result, target in itertools.zip_longest(results, targets):
            if result is None or target is None:
                counts = [self.count + (result is not None), self.count + (target is not None)]
                # One side has ended; the other is read to its end, so that the sentence can say both numbers.
                counts[0] += sum(1 for _ in results)
                counts[1] += sum(1 for _ in targets)
                raise different_counts(self.results, counts[0], self.targets, counts[1])
            self.count += 1
            if self.count <= PROFILE_FRAMES:
                self.profile_results.append(result[: target.shape[0], self.column].copy())
                self.profile_targets.append(target[:, self.column].copy())
            advance()
            yield match_size(result, target), target

    def values(self, rows: Sequence[Row], metrics: Sequence[str]) -> SequenceValues:
        return SequenceValues(
            name=self.name,
            results=str(self.results.path),
            targets=str(self.targets.path),
            height=self.targets.height,
            width=self.targets.width,
            frames=self.protocol.frames(self.count),
            values={metric: [row[metric] for row in rows if metric in row] for metric in metrics},
        )


def different_counts(results: FrameSource, results_count: int, targets: FrameSource, targets_count: int) -> UserError:
    return UserError(
        f"{results.path} has {results_count} frames and {targets.path} has {targets_count}: give sequences of equal "
        "length."
    )


def measure_sequences(
    sequences: Sequence[OpenSequence],
    mapping: Mapping,
    *,
    chunk: int,
    metrics: Sequence[str],
    advance: Callable[[], None],
) -> list[SequenceValues]:
    """Measure all sequences; chunks of several may be under way at once. Raises as :meth:`OpenSequence.pairs`."""
    owners: deque[int] = deque()

    def chunks() -> Iterator[Chunk]:
        for number, sequence in enumerate(sequences):
            for part in cut_into_chunks(sequence.pairs(advance), chunk):
                owners.append(number)
                yield part

    rows: list[list[Row]] = [[] for _ in sequences]
    for measured in mapping(chunks()):
        rows[owners.popleft()].extend(measured)
    return [sequence.values(of, metrics) for sequence, of in zip(sequences, rows, strict=True)]


def cut_into_chunks(pairs: Iterator[tuple[Images, Images]], size: int) -> Iterator[Chunk]:
    """Chunks of up to ``size`` measured pairs; all but the first begin with the last pair of the one before."""
    last: list[tuple[Images, Images]] = []
    while part := list(itertools.islice(pairs, size)):
        results, targets = zip(*last, *part, strict=True)
        yield Chunk(np.stack(results), np.stack(targets), has_context=bool(last))
        last = part[-1:]


def chunk_size(frame_bytes: int, *, total: int | None, workers: int) -> int:
    """Measured frames of a chunk: few enough for memory and for all workers to have some, not fewer than MIN_CHUNK."""
    by_memory = CHUNK_BYTES // (2 * frame_bytes)
    by_workers = MAX_CHUNK if total is None else total // (4 * workers)
    return max(MIN_CHUNK, min(MAX_CHUNK, by_memory, by_workers))


def in_this_process(settings: Settings) -> Mapping:
    """Chunk by chunk, here, in one thread. A chunk's context is the last frame measured: nothing is computed twice."""

    def mapping(chunks: Iterator[Chunk]) -> Iterator[list[Row]]:
        lpips = _prepared(settings)
        for chunk in chunks:
            if not chunk.has_context:
                meter = Meter(protocol=settings.protocol, metrics=settings.metrics, lpips=lpips)
            pairs = zip(chunk.results, chunk.targets, strict=True)
            yield [meter.measure(*pair) for pair in itertools.islice(pairs, int(chunk.has_context), None)]

    return mapping


def _prepared(settings: Settings) -> Lpips | None:
    """The network, and one thread: parallel are the chunks, and digits do not depend on a machine's cores."""
    torch.set_num_threads(1)
    temporal.use_threads(1)
    return None if settings.trunk is None else Lpips(settings.trunk, device=settings.device)
