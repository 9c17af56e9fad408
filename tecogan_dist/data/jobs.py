"""What there is to do for each source: its place, the numbers of its scenes and, where it can be known, their frames.

Numbers depend on the sources and their order only, not on time or on failures: listed scenes and those of a local video
that is cut at fixed places have consecutive numbers; a source whose scenes are known only when it has been read keeps a
range of numbers to itself; a folder ``scene_2003`` has its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tecogan_dist.data.clips import Encoding, Scene
from tecogan_dist.data.download import is_archive
from tecogan_dist.data.places import Place, places_of
from tecogan_dist.data.scenes import (
    DETECTED_MINIMUM,
    PREVIEW_SIDE,
    WHOLE_MINIMUM,
    Span,
    find_shots,
    fixed_spans,
    split,
    spread,
)
from tecogan_dist.data.sources import SETTINGS, Source, is_remote, name_of, printable
from tecogan_dist.errors import UserError
from tecogan_dist.storage import Location
from tecogan_dist.video import READABLE_SUFFIXES, FrameSource, open_video

RESERVED = 100
"""Numbers that a source keeps to itself if its scenes are not known beforehand and it names no maximum."""
RECORDS = "sources"
SCALES = (4, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """A scene to be."""

    number: int
    part: str = ""
    """Name of the video or folder within an archive."""
    start: int
    frames: int
    encoding: Encoding = "lossy"
    is_all: bool = False
    """The only scene of a part: it may have fewer frames than the container says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A source that is to become scenes."""

    source: Source
    name: str
    """What the index calls it."""
    place: str
    """URL, or absolute path of a video, a folder of frames or an archive."""
    lr_place: str | None = None
    numbers: range = range(0)
    pieces: tuple[Piece, ...] | None = None
    """None: not known before the source is read."""
    problem: str = ""
    """Why nothing can be made of it."""
    note: str = ""
    """What of it is not used."""

    def name_of(self, piece: Piece) -> str:
        return f"{self.name}#{piece.part}" if piece.part else self.name

    def is_there(self, piece: Piece, scenes: Mapping[int, Scene]) -> bool:
        """Whether the store has the scene. Raises :class:`UserError` if it has another one of this number."""
        scene = scenes.get(piece.number)
        if scene is None:
            return False
        wanted = (self.name_of(piece), piece.start, self.source.downscale, piece.encoding, self.lr_place is not None)
        has = (scene.source, scene.source_start, scene.downscale, scene.encoding, scene.lr_file is not None)
        if has == wanted and (scene.frames == piece.frames or (piece.is_all and scene.frames < piece.frames)):
            return True
        raise self.clash(scene, self.name_of(piece))

    def clash(self, scene: Scene, name: str) -> UserError:
        return UserError(
            f"scene {scene.number} of the store is {scene.frames} frames from frame {scene.source_start} of "
            f"{scene.source} (downscale {scene.downscale}, {scene.encoding}) and not what is to be made of {name}: use "
            "the options of the first run, another --first-scene or a new store."
        )


def plan(
    sources: Iterable[Source], *, first_number: int, scenes: Mapping[int, Scene], store: Location | None
) -> list[Job]:
    """A job for every video, folder of frames, archive and URL that the sources stand for, in order.

    ``scenes``: those that the store has; ``store``: None if it is yet to be made. Raises :class:`UserError` if the
    store has other scenes of the same numbers, or if two sources would have.
    """
    jobs: list[Job] = []
    number = first_number
    for source in sources:
        for place in places_of(source):
            jobs.append(_planned(place, number, scenes, store))
            if place.number is None:
                number += len(jobs[-1].numbers)
    _check_names_and_numbers(jobs)
    for job in jobs:
        for piece in job.pieces or ():
            job.is_there(piece, scenes)
        for number in job.numbers if job.pieces is None else ():
            if number in scenes and scenes[number].source.partition("#")[0] != job.name.partition("#")[0]:
                raise job.clash(scenes[number], job.name)
    return jobs


def _planned(place: Place, number: int, scenes: Mapping[int, Scene], store: Location | None) -> Job:
    source = place.source
    if place.number is not None:
        number, source = place.number, dataclasses.replace(source, cut="whole", starts=None)
    if is_remote(place.path):
        job = Job(source=source, name=name_of(place.path), place=place.path)
    else:
        path = Path(place.path).resolve()
        lr_place = None if place.lr_path is None else str(Path(place.lr_path).resolve())
        job = Job(source=source, name=printable(str(path)), place=str(path), lr_place=lr_place)
    problem = place.problem
    if source.starts is not None and is_archive(job.place):
        problem = f"{job.name} is an archive: starts are those of a single video."
    video = None
    if not problem and not source.is_remote and not is_archive(job.place):
        try:
            video = open_part(Path(job.place), job)[0]
        except UserError as error:
            problem = str(error)
    if source.starts is not None:
        pieces = tuple(
            Piece(number=number + index, start=start, frames=source.scene_length, encoding=_encoding_of_a_part(source))
            for index, start in enumerate(source.starts)
        )
        job = dataclasses.replace(job, numbers=range(number, number + len(pieces)), pieces=pieces)
    elif video is not None and cut_of(source, video) != "detected":
        spans = spans_of(source, video)
        pieces = pieces_of(source, number, [("", video, spans)])
        numbers = range(number, number + len(pieces))
        job = dataclasses.replace(job, numbers=numbers, pieces=pieces, note=note_of(source, video, spans))
    elif video is None and problem and not _will_be_detected(job):
        # It cannot say how many scenes it has; the store may know how many it had.
        last = number
        while last in scenes and scenes[last].source == job.name:
            last += 1
        job = dataclasses.replace(job, numbers=range(number, last))
    else:
        job = dataclasses.replace(job, numbers=range(number, number + (source.maximum_scenes or RESERVED)))
        if store is not None and not problem:
            job = dataclasses.replace(job, pieces=_recorded(job, store))
    return dataclasses.replace(job, problem=printable(problem))


def _will_be_detected(job: Job) -> bool:
    """Whether a source that cannot be opened now is cut by what is detected when it can be."""
    is_video = Path(job.place).suffix.lower() in READABLE_SUFFIXES
    return is_archive(job.place) or job.source.cut == "detected" or (job.source.cut is None and is_video)


def open_part(path: Path, job: Job) -> tuple[FrameSource, FrameSource | None]:
    """The frames of a video or folder, and of its low-resolution partner. Raises :class:`UserError` for unfit sizes."""
    source, video = job.source, open_video(path)
    if min(video.height, video.width) < max(source.minimum_size, source.downscale):
        limit = f"--minimum-size {source.minimum_size}"
        if source.downscale > source.minimum_size:
            limit = f"--downscale {source.downscale}"
        raise UserError(f"{path} is {video.width}x{video.height}, smaller than {limit}.")
    if job.lr_place is None:
        return video, None
    low = open_video(job.lr_place)
    if (video.height, video.width) not in [(low.height * scale, low.width * scale) for scale in SCALES]:
        raise UserError(
            f"{job.lr_place} is {low.width}x{low.height} and {path} is {video.width}x{video.height}: own pairs must "
            f"differ in size by {' or '.join(map(str, SCALES))}."
        )
    counts = low.count_frames(), video.count_frames()
    if counts[0] != counts[1]:
        raise UserError(f"{job.lr_place} has {counts[0]} frames and {path} has {counts[1]}: own pairs need as many.")
    return video, low


def cut_of(source: Source, video: FrameSource) -> str:
    """fixed, detected or whole, for a source without starts."""
    return source.cut or ("detected" if video.names is None else "whole")


def spans_of(source: Source, video: FrameSource, previews: Iterable[np.ndarray] | None = None) -> list[Span]:
    """The frames of each scene. ``previews``: those of the video, which reads them if none are given."""
    start, end = source.start_frame, source.end_frame
    if cut_of(source, video) == "detected":
        previews = video.previews(PREVIEW_SIDE) if previews is None else previews
        shots = find_shots(itertools.islice(previews, end), start=start)
        return split(shots, length=source.scene_length, minimum=source.minimum_length or DETECTED_MINIMUM)
    length = source.scene_length if cut_of(source, video) == "fixed" else sys.maxsize
    minimum = source.minimum_length or WHOLE_MINIMUM
    return fixed_spans(video.count_frames(), length=length, minimum=minimum, start=start, end=end)


def note_of(source: Source, video: FrameSource, spans: Sequence[Span]) -> str:
    """What of a video is in no span."""
    count = video.count_frames()
    available = min(count, count if source.end_frame is None else source.end_frame) - source.start_frame
    rest = available - sum(span.frames for span in spans)
    if available <= 0:
        return f"has no frames from {source.start_frame} on"
    if rest and cut_of(source, video) == "detected":
        return f"{rest} of {available} frames are in no scene: cuts, fades, or shots that are too short"
    if rest and not spans:
        return f"has {available} frame{'s' if available > 1 else ''}: too few for a scene"
    return f"the last {rest} frames are less than a scene: dropped" if rest else ""


def pieces_of(
    source: Source, number: int, parts: Sequence[tuple[str, FrameSource, list[Span]]], *, most: int | None = None
) -> tuple[Piece, ...]:
    """Scenes from ``number`` on of the parts' spans, at most ``most`` if the source names no maximum itself."""
    pieces = []
    for name, video, spans in parts:
        for span in spans:
            is_all = len(spans) == 1 and cut_of(source, video) != "detected"
            encoding = _encoding_of_a_part(source)
            if source.encoding == "original" and _is_whole_file(source, video, span):
                encoding = "original"
            pieces.append(
                Piece(number=0, part=name, start=span.start, frames=span.frames, encoding=encoding, is_all=is_all)
            )
    limit = source.maximum_scenes or most
    chosen = pieces if limit is None else spread(pieces, limit)
    return tuple(dataclasses.replace(piece, number=number + index) for index, piece in enumerate(chosen))


def _encoding_of_a_part(source: Source) -> Encoding:
    """Of what is only a part of a file, which cannot keep its bytes."""
    return "lossy" if source.encoding == "original" else source.encoding


def _is_whole_file(source: Source, video: FrameSource, span: Span) -> bool:
    is_file = video.names is None and video.path.suffix.lower() in READABLE_SUFFIXES
    return is_file and source.downscale == 1 and (span.start, span.stop) == (0, video.count_frames())


def _check_names_and_numbers(jobs: Sequence[Job]) -> None:
    names: set[str] = set()
    owners: dict[int, str] = {}
    for job in jobs:
        if job.problem:
            continue
        if job.name in names:
            raise UserError(f"{job.name} is given twice: give each source once.")
        names.add(job.name)
        for number in job.numbers:
            if number in owners:
                raise UserError(
                    f"scene {number} would be made of {owners[number]} and of {job.name}: use another --first-scene, "
                    "or two commands."
                )
            owners[number] = job.name


def record(job: Job, pieces: Sequence[Piece], store: Location) -> None:
    """Keep what was found out by reading a source, so that a later run knows without reading it whether it is done."""
    tree = {**_fingerprint(job), "pieces": [dataclasses.asdict(piece) for piece in pieces]}
    _record_of(job, store).write_bytes(json.dumps(tree, indent=1).encode())


def _recorded(job: Job, store: Location) -> tuple[Piece, ...] | None:
    try:
        tree = json.loads(_record_of(job, store).read_bytes())
        pieces = tuple(Piece(**piece) for piece in tree.pop("pieces"))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # none, or another version's
    return pieces if tree == _fingerprint(job) else None


def _record_of(job: Job, store: Location) -> Location:
    return store / RECORDS / f"{hashlib.sha256(job.name.encode()).hexdigest()[:24]}.json"


def _fingerprint(job: Job) -> dict[str, Any]:
    """All that decides the pieces, as JSON gives it back."""
    stamp = None
    if not job.source.is_remote:
        status = os.stat(job.place)
        stamp = [status.st_size, status.st_mtime_ns]
    settings = {key: getattr(job.source, key) for key in SETTINGS}
    return {"name": job.name, "first_number": job.numbers.start, "stamp": stamp, "settings": settings}
