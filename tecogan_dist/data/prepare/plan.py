"""What there is to do for each source: its place, the numbers of its scenes and, where it can be known, their frames.

Numbers depend on the sources and their order only, not on time or on failures: listed scenes and those of a local video
that is cut at fixed places have consecutive numbers; a source whose scenes are known only when it has been read keeps a
range of numbers to itself; a folder ``scene_2003`` has its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import Scene
from tecogan_dist.data.prepare.download import is_archive
from tecogan_dist.data.prepare.jobs import Job, Piece
from tecogan_dist.data.prepare.places import Place, places_of
from tecogan_dist.data.prepare.rules import _encoding_of_a_part, cut_of, note_of, open_part, pieces_of, spans_of
from tecogan_dist.data.prepare.sources import SETTINGS, Source, is_remote, name_of, printable
from tecogan_dist.video.writer import READABLE_SUFFIXES

RESERVED = 100
"""Numbers that a source keeps to itself if its scenes are not known beforehand and it names no maximum."""
RECORDS = "sources"


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
