"""How the work on a video is cut up: scenes, the segments that are done one by one, and which of them wait for others.

A segment is a run of frames that becomes one file. Short scenes share a segment. A scene that is longer than a segment
may be is several of them: the later ones go on with the network's memory, which the one before hands over to the last
bit. So where the cuts between segments are has no influence on any pixel that the network makes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.invariants import require

WORK = {"cpu": 40e6, "cuda": 2e9}
"""Low-resolution pixels of a segment: a few minutes on two cores, under one on a large GPU; that much a crash costs."""
FEWEST, MOST = 16, 1000
"""Frames of a segment, whatever their size: each costs a key frame and some 50 ms."""
PARTS = 32
"""That a job of many short scenes has, about, so that as many workers share even a short film."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Frames ``start`` to ``stop`` (exclusive), counted in the source."""

    number: int
    start: int
    stop: int
    scenes: tuple[tuple[int, int], ...]
    """First frame and end of each scene that begins in the segment; the last of them may end behind it."""
    hands_on: bool
    """Whether the next segment is in the middle of this one's last scene, and needs the network's memory."""

    @property
    def continues(self) -> bool:
        """Whether it needs the memory of the segment before."""
        return not self.scenes or self.scenes[0][0] != self.start

    @property
    def frames(self) -> int:
        return self.stop - self.start


def default_length(height: int, width: int, device: str) -> int:
    """Frames of a segment of frames with this low resolution, on a ``device`` of torch's kind."""
    return round(min(max(WORK.get(device, WORK["cuda"]) / (height * width), FEWEST), MOST))


def default_shared(frames: int) -> int:
    """Frames up to which short scenes share a segment, of a job of so many."""
    return max(FEWEST, frames // PARTS)


def scenes_of(shots: Iterable[range], *, start: int, stop: int) -> list[range]:
    """The frames ``start`` to ``stop`` as scenes without anything left between them.

    ``shots``: in order, from :func:`tecogan_dist.data.prepare.scenes.find_shots`, which leaves black pauses and
    dissolves out; here they are the end of the scene before.
    """
    begins = [start, *(shot.start for shot in shots if start < shot.start < stop)]
    return [range(first, end) for first, end in itertools.pairwise([*begins, stop])]


def segments_of(scenes: Sequence[range], *, most: int, shared: int) -> list[Segment]:
    """All frames of the scenes, which follow each other, in segments of at most ``most`` frames.

    A longer scene is parted into equal segments of its own; shorter ones share a segment of up to ``shared`` frames.
    """
    require(most > 0, "segments have frames")
    parts: list[tuple[int, int, list[tuple[int, int]]]] = []
    is_open = False  # whether the last part may take another scene
    for scene in scenes:
        if is_open and scene.stop - parts[-1][0] <= min(most, shared):
            start, _, begun = parts[-1]
            parts[-1] = (start, scene.stop, [*begun, (scene.start, scene.stop)])
            continue
        count = -(-len(scene) // most)
        ends = [scene.start + len(scene) * index // count for index in range(count + 1)]
        for first, end in itertools.pairwise(ends):
            parts.append((first, end, [(scene.start, scene.stop)] if first == scene.start else []))
        is_open = count == 1
    return [
        Segment(
            number=number,
            start=start,
            stop=stop,
            scenes=tuple(begun),
            hands_on=number + 1 < len(parts) and not parts[number + 1][2],
        )
        for number, (start, stop, begun) in enumerate(parts)
    ]


def chains(segments: Iterable[Segment]) -> list[list[Segment]]:
    """The segments in groups that do not depend on each other; those of a group have to be done in order."""
    groups: list[list[Segment]] = []
    for segment in segments:
        if segment.continues:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    return groups


def to_plain(segments: Iterable[Segment]) -> list[list[Any]]:
    """For JSON."""
    return [[one.start, one.stop, [list(scene) for scene in one.scenes], one.hands_on] for one in segments]


def from_plain(rows: Any, *, source: object) -> list[Segment]:
    """What :func:`to_plain` made. Raises :class:`UserError`, which names ``source``, for anything else."""
    try:
        segments = [
            Segment(
                number=number,
                start=_whole(start),
                stop=_whole(stop),
                scenes=tuple((_whole(first), _whole(end)) for first, end in scenes),
                hands_on=hands_on is True,
            )
            for number, (start, stop, scenes, hands_on) in enumerate(rows)
        ]
        _check(segments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{source} is damaged ({error}): begin anew with --restart.") from error
    return segments


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a frame's number is not one")
    return value


def _check(segments: Sequence[Segment]) -> None:
    if not segments or segments[0].continues:
        raise ValueError("the first segment is not one")
    for one in segments:
        begins = [first for first, _ in one.scenes]
        inside = all(one.start <= first < one.stop and first < end for first, end in one.scenes)
        if one.start >= one.stop or not inside or begins != sorted(set(begins)):
            raise ValueError(f"segment {one.number} is not one")
    for one, following in itertools.pairwise(segments):
        if one.stop != following.start or one.hands_on != following.continues:
            raise ValueError(f"segment {following.number} does not follow the one before")
    if segments[-1].hands_on:
        raise ValueError("the last segment has no successor")
