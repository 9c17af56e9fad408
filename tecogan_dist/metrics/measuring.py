"""Sequences opened with their targets, read once, cut into chunks, and measured wherever chunks are measured.

Here that is in this process; :mod:`tecogan_dist.metrics.ray_tasks` has Ray's, with equal results.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.metrics import temporal
from tecogan_dist.metrics.perceptual import Lpips, Trunk
from tecogan_dist.metrics.protocol import Images, Protocol, check_sizes, match_size
from tecogan_dist.metrics.sequence import Meter
from tecogan_dist.metrics.summary import SequenceValues
from tecogan_dist.video.numbering import check_pairing
from tecogan_dist.video.open import open_video
from tecogan_dist.video.source import FrameSource

CHUNK_BYTES = 128 * 2**20
"""What the frames of one chunk should take at most; a chunk of very large frames has MIN_CHUNK all the same."""
MIN_CHUNK, MAX_CHUNK = 4, 16
"""Measured frames of a chunk. A task computes once more the features of the frame before: 3% of its work with 16."""

PROFILE_FRAMES = 1200
"""Frames of a sequence whose temporal profile is kept, at most."""

Row = dict[str, float]
"""The metrics of one frame by their names."""


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
    """What LPIPS and tLP need; None where neither is measured."""
    device: str = "cpu"
    """Where LPIPS runs."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames (n, H, W, 3) uint8; ``has_context``: the first pair is only there as the one before."""

    results: Images
    targets: Images
    has_context: bool


MeasureChunks = Callable[[Iterator[Chunk]], Iterator[list[Row]]]
"""Draws chunks and gives the rows of each, in the chunks' order."""


@dataclass
class OpenSequence:
    """A result and its target, opened, and what reading them has found so far."""

    name: str
    results: FrameSource
    targets: FrameSource
    protocol: Protocol
    profile_results: list[Images] = field(default_factory=list)
    profile_targets: list[Images] = field(default_factory=list)
    count: int = 0
    note: str = ""
    """What the user should know of how its frames were paired; mostly nothing."""

    @property
    def column(self) -> int:
        """The column of pixels that the temporal profile shows: the measured region's middle."""
        columns = self.protocol.region(self.targets.height, self.targets.width)[1]
        return (columns.start + columns.stop) // 2

    def profile(self) -> Profile:
        """The temporal profile of what has been read."""
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
        """The sequence's ``metrics``, given the rows of its measured frames."""
        return SequenceValues(
            name=self.name,
            results=str(self.results.path),
            targets=str(self.targets.path),
            height=self.targets.height,
            width=self.targets.width,
            frames=self.protocol.frames(self.count),
            values={metric: [row[metric] for row in rows if metric in row] for metric in metrics},
        )


def open_sequences(
    results: Sequence[str], targets: Sequence[str], protocol: Protocol, *, allow_gaps: bool = False
) -> list[OpenSequence]:
    """Open each result with its target, and check what can be known before reading.

    A sequence is named after its target, or after its result where two targets have one name. ``allow_gaps``: numbers
    may be missing in a folder's names, if they are missing on both sides. Raises :class:`UserError` for what cannot be
    opened or does not belong together.
    """
    if len(results) != len(targets):
        raise UserError(
            f"{len(results)} results and {len(targets)} targets are given: give one target for each result."
        )
    for path in results:
        if results.count(path) > 1:
            raise UserError(f"{path} is given twice among the results: give each result once.")
    names = [Path(path).resolve().stem for path in targets]
    if len(set(names)) < len(names):
        names = [Path(path).resolve().stem for path in results]
    return [_open(*each, protocol, allow_gaps) for each in zip(names, results, targets, strict=True)]


def _open(name: str, result: str, target: str, protocol: Protocol, allow_gaps: bool) -> OpenSequence:
    if Path(result).resolve() == Path(target).resolve():
        raise UserError(f"{result} is given as a result and as its own target: give what it is to be compared with.")
    ours, theirs = (open_video(path, allow_gaps=allow_gaps) for path in (result, target))
    sequence = OpenSequence(name, ours, theirs, protocol)
    check_sizes((ours.height, ours.width), (theirs.height, theirs.width), f"{result} against {target}")
    protocol.region(theirs.height, theirs.width)
    if ours.count != theirs.count and ours.count is not None and theirs.count is not None:
        # A container's count can be wrong; but if they differ, better to count now than after an hour of measuring.
        counts = [_count(source) for source in (ours, theirs)]
        if counts[0] != counts[1]:
            raise different_counts(ours, counts[0], theirs, counts[1])
    if ours.names is not None and theirs.names is not None:
        sequence.note = check_pairing(ours.names, theirs.names, our_path=result, their_path=target)
    return sequence


def _count(source: FrameSource) -> int:
    return len(source.names) if source.names is not None else sum(1 for _ in source.frames())


def different_counts(results: FrameSource, results_count: int, targets: FrameSource, targets_count: int) -> UserError:
    """What a result and a target of different lengths raise."""
    return UserError(
        f"{results.path} has {results_count} frames and {targets.path} has {targets_count}: give sequences of equal "
        "length."
    )


def total_frames(sequences: Sequence[OpenSequence]) -> int | None:
    """How many targets there are to read, by their containers; None where one does not say."""
    counts = [sequence.targets.count for sequence in sequences]
    return sum(count for count in counts if count) if all(counts) else None


def measure_sequences(
    sequences: Sequence[OpenSequence],
    measure_chunks: MeasureChunks,
    *,
    processes: int,
    metrics: Sequence[str],
    advance: Callable[[], None] = lambda: None,
) -> list[SequenceValues]:
    """Measure all sequences; chunks of several may be under way at once.

    ``measure_chunks`` measures ``metrics`` and has this many ``processes`` to do it. ``advance`` is called for every
    frame read. Raises as :meth:`OpenSequence.pairs`.
    """
    owners: deque[int] = deque()
    largest = max(3 * sequence.targets.height * sequence.targets.width for sequence in sequences)
    size = chunk_size(largest, total=total_frames(sequences), workers=processes)

    def chunks() -> Iterator[Chunk]:
        for number, sequence in enumerate(sequences):
            for part in cut_into_chunks(sequence.pairs(advance), size):
                owners.append(number)
                yield part

    rows: list[list[Row]] = [[] for _ in sequences]
    for measured in measure_chunks(chunks()):
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


def in_this_process(settings: Settings) -> MeasureChunks:
    """Chunk by chunk, here, in one thread. A chunk's context is the last frame measured: nothing is computed twice."""

    def measure_chunks(chunks: Iterator[Chunk]) -> Iterator[list[Row]]:
        lpips = prepare_process(settings)
        for chunk in chunks:
            if not chunk.has_context:
                meter = Meter(protocol=settings.protocol, metrics=settings.metrics, lpips=lpips)
            pairs = zip(chunk.results, chunk.targets, strict=True)
            yield [meter.measure(*pair) for pair in itertools.islice(pairs, int(chunk.has_context), None)]

    return measure_chunks


def prepare_process(settings: Settings) -> Lpips | None:
    """Make this process measure in one thread, and load the network if ``settings`` have one.

    What runs in parallel are the chunks, so that digits do not depend on a machine's cores.
    """
    torch.set_num_threads(1)
    temporal.use_threads(1)
    return None if settings.trunk is None else Lpips(settings.trunk, device=settings.device)


def measured_with(trunk: Trunk | None) -> str:
    """The versions that numbers may depend on, and the LPIPS network with its file."""
    text = f"tecogan_dist {version('tecogan_dist')}, OpenCV {version('opencv-python-headless')}"
    if trunk is not None:
        text += f", LPIPS {version('lpips')} v0.1 {trunk.net} with {trunk.path.name}"
    return text
