"""What a segment's frames are written into, so that all segments of a job become one output when they are joined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.invariants import present
from tecogan_dist.video.checking import verify_joined
from tecogan_dist.video.codecs import Encoding, Wishes, choose
from tecogan_dist.video.formats import JOINABLE_SUFFIXES
from tecogan_dist.video.joining import join
from tecogan_dist.video.open import open_video
from tecogan_dist.video.properties import Properties
from tecogan_dist.video.segments import SegmentWriter
from tecogan_dist.video.timeline import Timeline, constant
from tecogan_dist.video.writer import FrameWriter


class Writer(Protocol):
    """Of a segment's frames."""

    def write(self, frame: NDArray[Any], name: str | None = None) -> None:
        """(height, width, 3), uint8 or uint16; ``name`` is an image's, without suffix."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A folder of PNG images without an ``encoding``, or a video."""

    encoding: Encoding | None = None
    deep: bool = False
    """Whether frames are uint16 when they come to it."""

    @property
    def is_video(self) -> bool:
        return self.encoding is not None

    @property
    def suffix(self) -> str:
        """Of segments: of a video's container for them, or none of a folder."""
        return self.encoding.suffix if self.encoding else ""

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"encoding": self.encoding.to_plain() if self.encoding else None, "deep": self.deep}

    @staticmethod
    def from_plain(plain: Any) -> Target:
        """What :meth:`to_plain` gave. Raises :class:`UserError` for anything else."""
        if not isinstance(plain, dict) or set(plain) != {"encoding", "deep"}:
            raise UserError("the record of an output is damaged: begin anew with --restart.")
        encoding = plain["encoding"]
        return Target(encoding=Encoding.from_plain(encoding) if encoding else None, deep=plain["deep"] is True)

    def writer(self, path: Path) -> AbstractContextManager[Writer]:
        """A segment that appears when it is complete."""
        return SegmentWriter(path, encoding=self.encoding) if self.encoding else FrameWriter(path, has_rivals=True)

    def frames(self, path: Path, *, height: int, width: int) -> Iterator[NDArray[Any]]:
        """A segment's frames as they are decoded; of odd sizes, codecs have repeated the last row and column."""
        source = open_video(path, deep=self.deep, allow_gaps=True)
        return (frame[:height, :width] for frame in source.frames())

    def join(
        self,
        files: Sequence[Path],
        output: Path,
        *,
        frames: range,
        timeline: Timeline | None,
        film: Path | None,
        video_stream: int | None,
    ) -> list[str]:
        """A video of segments, which hold these frames of the source; what could not be kept, in words.

        They are shown when the source's ``timeline`` says, all streams of ``film`` (None: none) but its pictures are
        there too, and that it is so has been verified. Raises :class:`UserError`.
        """
        encoding = present(self.encoding, "a folder of images is not joined by packets")
        clock = timeline or constant(frames.stop, Fraction(*encoding.rate))
        sentences = join(
            files,
            output=output,
            encoding=encoding,
            source=film,
            timeline=clock,
            start=frames.start,
            stop=frames.stop,
            video_stream=video_stream,
        )
        verify_joined(output, timeline=clock, start=frames.start, stop=frames.stop)
        return sentences


def choose_target(
    output: Path, properties: Properties, wishes: Wishes, *, png16: bool, hardware: bool | None = None
) -> tuple[Target, list[str]]:
    """What ``output`` is to be made of, by its suffix, and sentences on what is not as it was asked.

    ``hardware`` as in :func:`tecogan_dist.video.codecs.choose`. Raises :class:`UserError` for what its container does
    not take.
    """
    if output.suffix.lower() not in JOINABLE_SUFFIXES:
        return Target(deep=png16), []
    encoding, notes = choose(output.suffix, properties, wishes, hardware=hardware)
    return Target(encoding=encoding, deep=encoding.deep), notes


def beside_target(
    comparison: Path, output: Path, properties: Properties, wishes: Wishes, *, hardware: bool | None = None
) -> Target:
    """Likewise of the comparison, whose frames have 8 bits; the codec that was asked for counts in a like container."""
    if comparison.suffix.lower() not in JOINABLE_SUFFIXES:
        return Target()
    same = comparison.suffix.lower() == output.suffix.lower()
    encoding, _ = choose(comparison.suffix, properties, wishes if same else Wishes(), hardware=hardware)
    return Target(encoding=encoding)
