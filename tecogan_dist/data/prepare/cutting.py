"""One input made into clips: fetched, unpacked, cut and encoded, in whichever process this is called."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import Scene
from tecogan_dist.data.prepare.archives import ArchivedVideo, unpack
from tecogan_dist.data.prepare.contents import content_of
from tecogan_dist.data.prepare.download import Limits, NoSpace, Retrying, describe, downloaded, fetch, is_archive
from tecogan_dist.data.prepare.rules import note_of, open_frames, planned_scenes, ranges_of
from tecogan_dist.data.prepare.scene_plans import InputPlan, PlannedScene
from tecogan_dist.data.prepare.scenes import PREVIEW_SIDE
from tecogan_dist.data.prepare.sources import printable
from tecogan_dist.data.writing import write_clip
from tecogan_dist.video.source import Damaged, FrameSource

NOTES = 3
"""Most notes on what is not used of an archive's videos."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a task needs besides its input."""

    store: Location
    downloads: Path
    """Folder for what is downloaded and unpacked."""
    remove_source: bool = False
    """Delete a download when all its scenes are there."""
    dry_run: bool = False
    """Only check whether the input is available."""
    retrying: Retrying = dataclasses.field(default_factory=Retrying)
    limits: Limits = dataclasses.field(default_factory=Limits)


@dataclasses.dataclass(frozen=True)
class Found:
    """The scenes of an input, known now that it has been read."""

    scenes: tuple[PlannedScene, ...]
    is_certain: bool
    """Whether all of it could be read."""


@dataclasses.dataclass(frozen=True)
class News:
    """A line for whoever is watching."""

    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """The end of an input."""

    problem: str = ""
    """Why something of it is missing."""
    note: str = ""
    is_fatal: bool = False
    """All other inputs would fail for the same reason."""


Event = Found | News | Scene | Finished


class _StoreFailure(Exception):
    """The store cannot be written."""


class _Unreadable(Exception):
    """The rest of an input cannot be read."""

    def __init__(self, reason: UserError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _Short(Exception):
    """The frames ended before the scene was full."""


def prepare_input(plan: InputPlan, scenes: Mapping[int, Scene], settings: Settings) -> Iterator[Event]:
    """Make the scenes of an input that ``scenes`` lacks; the last event is :class:`Finished`.

    The clip is in the store when its :class:`Scene` comes; entering it into the index is left to the caller.
    """
    try:
        if settings.dry_run:
            yield Finished(note=describe(plan.path, retrying=settings.retrying, limits=settings.limits))
            return
        path = Path(plan.path)
        if plan.source.is_remote:
            if downloaded(plan.path, settings.downloads) is None:
                yield News(f"fetching {plan.name}, for {settings.limits.seconds / 60:.0f} minutes at most")
            path = fetch(
                plan.path,
                settings.downloads,
                minimum_size=plan.source.minimum_size,
                retrying=settings.retrying,
                limits=settings.limits,
            )
        yield from _prepare_file(plan, path, scenes, settings)
    except (_StoreFailure, NoSpace) as error:
        yield Finished(problem=str(error), is_fatal=True)
    except UserError as error:
        yield Finished(problem=printable(str(error)))


def _prepare_file(plan: InputPlan, path: Path, scenes: Mapping[int, Scene], settings: Settings) -> Iterator[Event]:
    """Make scenes of a local file or folder. A damaged download is removed, so that it is fetched again."""
    name = hashlib.sha256(plan.name.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    unpacked = settings.downloads / f".{name}-{plan.numbers.start}.unpacked"
    reading = _Reading(plan, path)
    try:
        videos = (
            unpack(path, unpacked, most_bytes=settings.limits.archive_bytes)
            if is_archive(plan.path)
            else [ArchivedVideo("", path)]
        )
        yield from reading.scenes(videos, scenes, settings)
    except UserError as error:
        reading.problem(error, path)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    if plan.source.is_remote and (reading.is_damaged or (settings.remove_source and not reading.problems)):
        path.unlink(missing_ok=True)
    yield Finished(problem="; ".join(reading.problems), note=reading.note)


class _Reading:
    """An input while it is read, and what is found wrong with it."""

    def __init__(self, plan: InputPlan, path: Path) -> None:
        self._plan, self._path = plan, path
        self.problems: list[str] = []
        self.is_damaged = False
        """The file itself, and not only a video in an archive that is as it was made."""
        self._short: set[int] = set()
        """Numbers of scenes for which the video has too few frames."""
        self.note = ""
        self._content: str | None = None

    def problem(self, error: UserError, path: Path, name: str = "") -> None:
        """Note why something is missing, under the name that the user knows; ``name`` is that within an archive."""
        known = f"{self._plan.name}#{name}" if name else self._plan.name
        self.problems.append(printable(str(error).replace(str(path), known)).rstrip("."))
        self.is_damaged |= isinstance(error, Damaged) and path == self._path

    def scenes(
        self, videos: Sequence[ArchivedVideo], there: Mapping[int, Scene], settings: Settings
    ) -> Iterator[Event]:
        """Make what ``there`` lacks."""
        opened = {}
        for video in videos:
            try:
                if video.problem:
                    raise UserError(video.problem)
                opened[video] = open_frames(video.path, self._plan)
            except UserError as error:
                self.problem(error, video.path, video.name)
        scenes = self._plan.scenes
        if scenes is None:
            scenes = self._find(opened)
        missing = [planned for planned in scenes if not self._plan.is_there(planned, there)]
        if self._plan.scenes is None:
            yield Found(scenes, is_certain=not self.problems)
        if missing:
            self._content = content_of(self._path, None if self._plan.lr_path is None else Path(self._plan.lr_path))
        for video, (frames, low_frames) in opened.items():
            wanted = [planned for planned in missing if planned.video == video.name]
            yield from self._make(wanted, video, frames, low_frames, settings)
        if self._plan.scenes is None and self._short:
            rest = tuple(planned for planned in scenes if planned.number not in self._short)
            yield Found(rest, is_certain=not self.problems)

    def _find(self, opened: Mapping[ArchivedVideo, tuple[FrameSource, FrameSource | None]]) -> tuple[PlannedScene, ...]:
        source, found, notes = self._plan.source, [], []
        for video, (frames, _) in opened.items():
            ranges = ranges_of(source, frames, self._until_problem(frames.previews(PREVIEW_SIDE), video))
            found.append((video.name, frames, ranges))
            note = note_of(source, frames, ranges)
            notes += [f"{video.name}: {note}" if video.name else note] if note else []
        numbers = self._plan.numbers
        scenes = planned_scenes(source, numbers.start, found, most=len(numbers))
        total = sum(len(ranges) for _, _, ranges in found)
        self.note = "; ".join(notes[:NOTES])
        if len(scenes) < total:
            self.note = f"{len(scenes)} of {total} scenes are taken (--max-scenes)"
        return scenes

    def _until_problem(self, previews: Iterator[np.ndarray], video: ArchivedVideo) -> Iterator[np.ndarray]:
        try:
            yield from previews
        except UserError as error:
            self.problem(error, video.path, video.name)

    def _make(
        self,
        scenes: Sequence[PlannedScene],
        video: ArchivedVideo,
        source: FrameSource,
        low_source: FrameSource | None,
        settings: Settings,
    ) -> Iterator[Scene]:
        """Scenes of one video, until it cannot be read further."""
        short = []
        for group in passes(scenes):
            positions = list(itertools.chain.from_iterable(range(it.start, it.start + it.frames) for it in group))
            frames = _readable(source.frames_at(positions))
            low_frames = None if low_source is None else _readable(low_source.frames_at(positions))
            for planned in group:
                try:
                    yield self._clip(planned, source, frames, low_frames, settings)
                except _Short:
                    short.append(planned.number)
                except _Unreadable as error:
                    self.problem(error.reason, video.path, video.name)
                    return
        self._short.update(short)
        if short:
            text = f"its frames end before scene{'s' if len(short) > 1 else ''} {', '.join(map(str, short))}"
            if self._plan.source.starts is not None:
                self.problems.append(text)
            else:
                self.note = f"{text}: its container promises more"

    def _clip(
        self,
        planned: PlannedScene,
        source: FrameSource,
        frames: Iterator[np.ndarray],
        low_frames: Iterator[np.ndarray] | None,
        settings: Settings,
    ) -> Scene:
        factor = self._plan.source.downscale
        try:
            return write_clip(
                settings.store,
                planned.number,
                (shrink(frame, factor) for frame in _taken(frames, planned, may_be_short=low_frames is None)),
                rate=source.rate,
                source=self._plan.name_of(planned),
                source_start=planned.start,
                downscale=factor,
                encoding=planned.encoding,
                original=source.path if planned.encoding == "original" else None,
                lr_frames=None if low_frames is None else _taken(low_frames, planned, may_be_short=False),
                content=self._content,
            )
        except UserError as error:  # the frames' own failures are not of this kind
            raise _StoreFailure(str(error)) from error


def passes(scenes: Iterable[PlannedScene]) -> list[list[PlannedScene]]:
    """Scenes in groups that one reading from front to back can make each: those of a group do not overlap."""
    groups: list[list[PlannedScene]] = []
    for planned in sorted(scenes, key=lambda planned: planned.start):
        for group in groups:
            if group[-1].start + group[-1].frames <= planned.start:
                group.append(planned)
                break
        else:
            groups.append([planned])
    return groups


def _readable(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    try:
        yield from frames
    except UserError as error:
        raise _Unreadable(error) from error


def _taken(frames: Iterator[np.ndarray], planned: PlannedScene, *, may_be_short: bool) -> Iterator[np.ndarray]:
    """The scene's frames; raises :class:`_Short` from inside the encoder's loop if there are too few.

    ``may_be_short``: the only scene of a video may be, whatever its container says.
    """
    count = 0
    for frame in itertools.islice(frames, planned.frames):
        count += 1
        yield frame
    if count < planned.frames and not (may_be_short and planned.is_all and count):
        raise _Short


def shrink(frame: np.ndarray, factor: int) -> np.ndarray:
    """Average ``factor`` x ``factor`` pixels of a (H, W, 3) uint8 frame, rounded; what is left over is dropped."""
    if factor == 1:
        return frame
    height, width = frame.shape[0] // factor, frame.shape[1] // factor
    blocks = frame[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    area = factor * factor
    return ((blocks.sum(axis=(1, 3), dtype=np.uint32) + area // 2) // area).astype(np.uint8)
