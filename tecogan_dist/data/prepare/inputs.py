"""The inputs that a source stands for: videos, folders of frames, archives and URLs."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tecogan_dist.data.prepare.sources import Source
from tecogan_dist.video.formats import READABLE_SUFFIXES
from tecogan_dist.video.images import image_files

SCENE_FOLDER = re.compile(r".*_(\d{1,15})")
"""How the original names them: scene_2000/col_high_0000.png ..."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
    """A video, a folder of frames, an archive or a URL that a source stands for."""

    source: Source
    path: str
    """The URL, or the path as the source gives it."""
    lr_path: str | None = None
    """Of a pair, the path of the low-resolution frames."""
    number: int | None = None
    """Scene number of a folder ``scene_2000``; None: it has none of its own."""
    problem: str = ""
    """Why it cannot be used."""


def inputs_of(source: Source) -> Iterator[Input]:
    """Every input that a source stands for, in the order of their names; one with a problem if there is none."""
    if source.is_remote:
        yield Input(source=source, path=source.address)
        return
    inputs = list(_local_inputs(source, source.address))
    if source.lr is None:
        yield from inputs
        return
    lr_inputs = list(_local_inputs(source, source.lr))
    by_name = {Path(entry.path).stem: entry for entry in lr_inputs}
    is_single = len(inputs) == len(lr_inputs) == 1  # their names need not match
    for entry in inputs:
        partner = lr_inputs[0] if is_single else by_name.get(Path(entry.path).stem)
        if partner is None:
            problem = f"{source.lr} holds nothing of the same name as {entry.path}."
            yield dataclasses.replace(entry, problem=entry.problem or problem)
        else:
            yield dataclasses.replace(entry, lr_path=partner.path, problem=entry.problem or partner.problem)


def _local_inputs(source: Source, pattern: str) -> Iterator[Input]:
    """The videos, folders of frames and archives that a path or pattern stands for; one with a problem if none."""
    matches = [pattern] if os.path.lexists(pattern) else sorted(glob.glob(pattern, recursive=True))
    if not matches:
        what = "matches nothing" if glob.has_magic(pattern) else "does not exist"
        yield Input(source=source, path=pattern, problem=f"{pattern} {what}: give a video, a folder or an archive.")
    for match in matches:
        try:
            yield from _in_folder(source, Path(match)) if os.path.isdir(match) else [Input(source=source, path=match)]
        except OSError as error:
            yield Input(source=source, path=match, problem=f"{match} cannot be read ({error.strerror}).")


def _in_folder(source: Source, path: Path) -> list[Input]:
    folders = [path] if image_files(path) else []
    videos = []
    for entry in sorted(path.iterdir()) if not folders else ():
        if entry.name[0] != "." and entry.is_file() and entry.suffix.lower() in READABLE_SUFFIXES:
            videos.append(entry)
        elif entry.name[0] != "." and entry.is_dir() and image_files(entry):
            folders.append(entry)
    found = [Input(source=source, path=str(video)) for video in videos]
    found += [Input(source=source, path=str(folder), number=_scene_number(folder)) for folder in folders]
    problem = f"{path} holds no videos, images or scene folders."
    return sorted(found, key=lambda entry: entry.path) or [Input(source=source, path=str(path), problem=problem)]


def _scene_number(folder: Path) -> int | None:
    match = SCENE_FOLDER.fullmatch(folder.resolve().name)
    return int(match[1]) if match else None
