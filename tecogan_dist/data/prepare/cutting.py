"""One source made into clips: fetched, unpacked, cut and encoded, by whichever process has the job."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import Scene
from tecogan_dist.data.prepare.archives import Part, unpack
from tecogan_dist.data.prepare.download import NoSpace, Retrying, describe, downloaded, fetch, is_archive
from tecogan_dist.data.prepare.jobs import Job, Piece
from tecogan_dist.data.prepare.rules import note_of, open_part, pieces_of, spans_of
from tecogan_dist.data.prepare.scenes import PREVIEW_SIDE
from tecogan_dist.data.prepare.sources import printable
from tecogan_dist.data.writing import write_clip
from tecogan_dist.video.source import Damaged, FrameSource

NOTES = 3
"""Most of an archive's parts whose loss is described."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a task needs besides its source."""

    store: Location
    downloads: Path
    """Folder for what is downloaded and unpacked."""
    remove_source: bool = False
    """Delete a download when all its scenes are there."""
    dry_run: bool = False
    """Only look whether a source can be had."""
    retrying: Retrying = dataclasses.field(default_factory=Retrying)


@dataclasses.dataclass(frozen=True)
class Found:
    """The scenes of a source, known now that it was read."""

    pieces: tuple[Piece, ...]
    is_certain: bool
    """Whether all of it could be read."""


@dataclasses.dataclass(frozen=True)
class News:
    """A line for whoever watches."""

    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """The end of a source."""

    problem: str = ""
    """Why something of it is missing."""
    note: str = ""
    is_fatal: bool = False
    """The others would fail for the same reason."""


Event = Found | News | Scene | Finished
Scenes = Mapping[int, Scene]


class _StoreFailure(Exception):
    """The store cannot be written."""


class _Unreadable(Exception):
    """A source cannot be read further."""

    def __init__(self, reason: UserError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _Short(Exception):
    """The frames ended before the scene was full."""


def prepare_source(job: Job, scenes: Scenes, settings: Settings) -> Iterator[Event]:
    """Make what a source lacks in ``scenes``; the last event is :class:`Finished`.

    The clip is in the store when its :class:`Scene` comes; entering it into the index is left to the caller.
    """
    try:
        if settings.dry_run:
            yield Finished(note=describe(job.place, retrying=settings.retrying))
            return
        path = Path(job.place)
        if job.source.is_remote:
            if downloaded(job.place, settings.downloads) is None:
                yield News(f"fetching {job.name}")
            path = fetch(
                job.place, settings.downloads, minimum_size=job.source.minimum_size, retrying=settings.retrying
            )
        yield from _prepare_file(job, path, scenes, settings)
    except (_StoreFailure, NoSpace) as error:
        yield Finished(problem=str(error), is_fatal=True)
    except UserError as error:
        yield Finished(problem=printable(str(error)))


def _prepare_file(job: Job, path: Path, scenes: Scenes, settings: Settings) -> Iterator[Event]:
    """Make scenes of a local file or folder. A download is removed if it is damaged, so that it is fetched anew."""
    unpacked = settings.downloads / f"{path.stem}-{job.numbers.start}.unpacked"
    reading = _Reading(job, path)
    try:
        parts = unpack(path, unpacked) if is_archive(job.place) else [Part("", path)]
        yield from reading.scenes(parts, scenes, settings)
    except UserError as error:
        reading.problem(error, path, "")
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    if job.source.is_remote and (reading.is_damaged or (settings.remove_source and not reading.problems)):
        path.unlink()
    yield Finished(problem="; ".join(reading.problems), note=reading.note)


class _Reading:
    """One source while it is read, and what is found wrong with it."""

    def __init__(self, job: Job, path: Path) -> None:
        self._job, self._path = job, path
        self.problems: list[str] = []
        self.is_damaged = False
        """The file itself, not only a part of an archive that is as it was made."""
        self._short: set[int] = set()
        self.note = ""

    def problem(self, error: UserError, path: Path, part: str) -> None:
        """Note why something is missing, under the name that the user knows."""
        name = f"{self._job.name}#{part}" if part else self._job.name
        self.problems.append(printable(str(error).replace(str(path), name)).rstrip("."))
        self.is_damaged |= isinstance(error, Damaged) and path == self._path

    def scenes(self, parts: Sequence[Part], there: Scenes, settings: Settings) -> Iterator[Event]:
        opened = {}
        for part in parts:
            try:
                opened[part] = open_part(part.path, self._job)
            except UserError as error:
                self.problem(error, part.path, part.name)
        pieces = self._job.pieces
        if pieces is None:
            pieces = self._find(opened)
        missing = [piece for piece in pieces if not self._job.is_there(piece, there)]
        if self._job.pieces is None:
            yield Found(pieces, is_certain=not self.problems)
        for part, (video, low) in opened.items():
            yield from self._make(part, video, low, [piece for piece in missing if piece.part == part.name], settings)
        if self._job.pieces is None and self._short:
            rest = tuple(piece for piece in pieces if piece.number not in self._short)
            yield Found(rest, is_certain=not self.problems)

    def _find(self, opened: Mapping[Part, tuple[FrameSource, FrameSource | None]]) -> tuple[Piece, ...]:
        found, notes = [], []
        for part, (video, _) in opened.items():
            spans = spans_of(self._job.source, video, self._until_problem(video.previews(PREVIEW_SIDE), part))
            found.append((part.name, video, spans))
            note = note_of(self._job.source, video, spans)
            notes += [f"{part.name}: {note}" if part.name else note] if note else []
        pieces = pieces_of(self._job.source, self._job.numbers.start, found, most=len(self._job.numbers))
        total = sum(len(spans) for _, _, spans in found)
        self.note = "; ".join(notes[:NOTES])
        if len(pieces) < total:
            self.note = f"{len(pieces)} of {total} scenes are taken (--max-scenes)"
        return pieces

    def _until_problem(self, previews: Iterator[np.ndarray], part: Part) -> Iterator[np.ndarray]:
        try:
            yield from previews
        except UserError as error:
            self.problem(error, part.path, part.name)

    def _make(
        self, part: Part, video: FrameSource, low: FrameSource | None, pieces: Sequence[Piece], settings: Settings
    ) -> Iterator[Scene]:
        short = []
        for group in passes(pieces):
            positions = list(itertools.chain.from_iterable(range(it.start, it.start + it.frames) for it in group))
            frames = _readable(video.frames_at(positions))
            low_frames = None if low is None else _readable(low.frames_at(positions))
            for piece in group:
                try:
                    yield self._clip(piece, video, frames, low_frames, settings)
                except _Short:
                    short.append(piece.number)
                except _Unreadable as error:
                    self.problem(error.reason, part.path, part.name)
                    return
        self._short.update(short)
        if short:
            text = f"its frames end before scene{'s' if len(short) > 1 else ''} {', '.join(map(str, short))}"
            if self._job.source.starts is not None:
                self.problems.append(text)
            else:
                self.note = f"{text}: its container promises more"

    def _clip(
        self,
        piece: Piece,
        video: FrameSource,
        frames: Iterator[np.ndarray],
        low_frames: Iterator[np.ndarray] | None,
        settings: Settings,
    ) -> Scene:
        factor = self._job.source.downscale
        try:
            return write_clip(
                settings.store,
                piece.number,
                (shrink(frame, factor) for frame in _taken(frames, piece, may_be_short=low_frames is None)),
                rate=video.rate,
                source=self._job.name_of(piece),
                source_start=piece.start,
                downscale=factor,
                encoding=piece.encoding,
                original=video.path if piece.encoding == "original" else None,
                lr_frames=None if low_frames is None else _taken(low_frames, piece, may_be_short=False),
            )
        except UserError as error:  # the frames' own failures are not of this kind
            raise _StoreFailure(str(error)) from error


def passes(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """Scenes in groups that one reading from front to back can make each: those of a group do not overlap."""
    groups: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: piece.start):
        for group in groups:
            if group[-1].start + group[-1].frames <= piece.start:
                group.append(piece)
                break
        else:
            groups.append([piece])
    return groups


def _readable(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    try:
        yield from frames
    except UserError as error:
        raise _Unreadable(error) from error


def _taken(frames: Iterator[np.ndarray], piece: Piece, *, may_be_short: bool) -> Iterator[np.ndarray]:
    """The piece's frames; raises :class:`_Short` from inside the encoder's loop if they are fewer.

    ``may_be_short``: the only scene of a video may be, whatever its container says.
    """
    count = 0
    for frame in itertools.islice(frames, piece.frames):
        count += 1
        yield frame
    if count < piece.frames and not (may_be_short and piece.is_all and count):
        raise _Short


def shrink(frame: np.ndarray, factor: int) -> np.ndarray:
    """Average ``factor`` x ``factor`` pixels of a (H, W, 3) uint8 frame, rounded; odd rows and columns are dropped."""
    if factor == 1:
        return frame
    height, width = frame.shape[0] // factor, frame.shape[1] // factor
    blocks = frame[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    area = factor * factor
    return ((blocks.sum(axis=(1, 3), dtype=np.uint32) + area // 2) // area).astype(np.uint8)
