"""The videos, folders of frames, archives and URLs that a source stands for."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tecogan_dist.data.prepare.sources import Source
from tecogan_dist.video.images import image_files
from tecogan_dist.video.writer import READABLE_SUFFIXES

SCENE_FOLDER = re.compile(r".*_(\d{1,15})")
"""The original's form: scene_2000/col_high_0000.png ..."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """One of the places that a source stands for."""

    source: Source
    path: str
    lr_path: str | None = None
    number: int | None = None
    """Of a scene folder."""
    problem: str = ""


def places_of(source: Source) -> Iterator[Place]:
    """Every place that a source stands for, in the order of their names; one with a problem if there is none."""
    if source.is_remote:
        yield Place(source=source, path=source.place)
        return
    places = list(_local_places(source, source.place))
    if source.lr is None:
        yield from places
        return
    lr_places = list(_local_places(source, source.lr))
    by_name = {Path(place.path).stem: place for place in lr_places}
    for place in places:
        alone = len(places) == len(lr_places) == 1
        partner = lr_places[0] if alone else by_name.get(Path(place.path).stem)
        if partner is None:
            problem = f"{source.lr} holds nothing that is named as {place.path}."
            yield dataclasses.replace(place, problem=place.problem or problem)
        else:
            yield dataclasses.replace(place, lr_path=partner.path, problem=place.problem or partner.problem)


def _local_places(source: Source, pattern: str) -> Iterator[Place]:
    """The videos, folders of frames and archives that a path or pattern stands for; one with a problem if none."""
    matches = [pattern] if os.path.lexists(pattern) else sorted(glob.glob(pattern, recursive=True))
    if not matches:
        what = "matches nothing" if glob.has_magic(pattern) else "does not exist"
        yield Place(source=source, path=pattern, problem=f"{pattern} {what}: give a video, a folder or an archive.")
    for match in matches:
        try:
            yield from _in_folder(source, Path(match)) if os.path.isdir(match) else [Place(source=source, path=match)]
        except OSError as error:
            yield Place(source=source, path=match, problem=f"{match} cannot be read ({error.strerror}).")


def _in_folder(source: Source, path: Path) -> list[Place]:
    folders = [path] if image_files(path) else []
    videos = []
    for entry in sorted(path.iterdir()) if not folders else ():
        if entry.name[0] != "." and entry.is_file() and entry.suffix.lower() in READABLE_SUFFIXES:
            videos.append(entry)
        elif entry.name[0] != "." and entry.is_dir() and image_files(entry):
            folders.append(entry)
    found = [Place(source=source, path=str(video)) for video in videos]
    found += [Place(source=source, path=str(folder), number=_scene_number(folder)) for folder in folders]
    problem = f"{path} holds no videos, images or scene folders."
    return sorted(found, key=lambda place: place.path) or [Place(source=source, path=str(path), problem=problem)]


def _scene_number(folder: Path) -> int | None:
    match = SCENE_FOLDER.fullmatch(folder.resolve().name)
    return int(match[1]) if match else None
