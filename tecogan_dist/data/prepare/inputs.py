"""The inputs that a source stands for: videos, folders of frames, archives and URLs."""

from __future__ import annotations

import dataclasses
import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import check_name
from tecogan_dist.data.prepare.archives import ARCHIVE_SUFFIXES
from tecogan_dist.data.prepare.sources import Source
from tecogan_dist.video.formats import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES, READABLE_SUFFIXES
from tecogan_dist.video.images import image_files

SCENE_FOLDER = re.compile(r".*_([0-9]{1,15})", re.DOTALL)
"""How the original names them: scene_2000/col_high_0000.png ..."""
OTHER_VIDEO_SUFFIXES = (
    *(".m2ts", ".mts", ".m2v", ".m1v", ".mpe", ".vob", ".ogv", ".ogm", ".3gp", ".3g2", ".mxf", ".asf", ".f4v", ".divx"),
    *(".rm", ".rmvb", ".h264", ".h265", ".hevc", ".264", ".265", ".ivf", ".av1", ".obu", ".dv", ".m3u8", ".mpd"),
)
"""Videos that are not read, and are not left out without a word either."""
MOST_INPUTS = 1_000_000
"""That a pattern may match."""


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
    is_left_out: bool = False
    """Something in a folder that is not read, and takes no numbers."""


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
    by_name = {Path(entry.path).stem: entry for entry in reversed(lr_inputs)}
    is_single = len(inputs) == len(lr_inputs) == 1  # their names need not match
    for entry in inputs:
        partner = lr_inputs[0] if is_single else by_name.get(Path(entry.path).stem)
        if entry.is_left_out:
            yield entry
        elif partner is None:
            problem = f"{source.lr} holds nothing of the same name as {entry.path}."
            yield dataclasses.replace(entry, problem=entry.problem or problem)
        else:
            yield dataclasses.replace(entry, lr_path=partner.path, problem=entry.problem or partner.problem)


def _local_inputs(source: Source, pattern: str) -> Iterator[Input]:
    """The videos, folders of frames and archives that a path or pattern stands for; one with a problem if none."""
    try:
        check_name(pattern)
        matches = [pattern] if os.path.lexists(pattern) else _matches(pattern)
    except UserError as error:
        yield Input(source=source, path=pattern, problem=str(error))
        return
    if not matches:
        what = "matches nothing" if glob.has_magic(pattern) else "does not exist"
        yield Input(source=source, path=pattern, problem=f"{pattern} {what}: give a video, a folder or an archive.")
    for match in matches:
        try:
            yield from _in_folder(source, Path(match)) if os.path.isdir(match) else [Input(source=source, path=match)]
        except OSError as error:
            yield Input(source=source, path=match, problem=f"{match} cannot be read ({error.strerror}).")


def _matches(pattern: str) -> list[str]:
    matches = list(itertools.islice(glob.iglob(pattern, recursive=True), MOST_INPUTS + 1))
    if len(matches) > MOST_INPUTS:
        raise UserError(f"{pattern} matches more than {MOST_INPUTS} files: give a narrower pattern.")
    return sorted(matches)


def _in_folder(source: Source, path: Path) -> list[Input]:
    """A folder's own frames, or its videos and folders of frames; and what else is there that somebody may miss."""
    has_images = bool(image_files(path))
    found = [Input(source=source, path=str(path), number=_scene_number(path))] if has_images else []
    for entry in sorted(path.iterdir()):
        if entry.name[0] == ".":
            continue
        if not has_images and entry.is_dir() and image_files(entry):
            found.append(Input(source=source, path=str(entry), number=_scene_number(entry)))
        elif not has_images and entry.is_file() and entry.suffix.lower() in READABLE_SUFFIXES:
            found.append(Input(source=source, path=str(entry)))
        else:
            why = _why_left_out(entry, beside_images=has_images)
            if why:
                problem = f"{entry} is left out: {why}."
                found.append(Input(source=source, path=str(entry), problem=problem, is_left_out=True))
    problem = f"{path} holds no videos, images or scene folders."
    return sorted(found, key=lambda entry: entry.path) or [Input(source=source, path=str(path), problem=problem)]


def _why_left_out(entry: Path, *, beside_images: bool) -> str:
    """Why something in a folder is not read; "" for what holds neither images nor videos, and so was not meant."""
    suffix = entry.suffix.lower()
    if entry.is_dir():
        names = [file for file in entry.iterdir() if file.name[0] != "."]
        if beside_images and any(file.suffix.lower() in IMAGE_SUFFIXES for file in names):
            return "it is a folder of images in a folder of images, give it by itself"
        if any(file.suffix.lower() in READABLE_SUFFIXES for file in names):
            return "it is a folder of videos in a folder, give it by itself"
        if any(file.suffix.lower() in (*OTHER_IMAGE_SUFFIXES, *OTHER_VIDEO_SUFFIXES) for file in names):
            return "images are read as PNG and JPG, and it holds other kinds only"
        return ""
    if beside_images:
        return ""  # whoever opens the images refuses what is not one of them
    if suffix in READABLE_SUFFIXES:
        return "it is not a file, or a link to nothing"
    if suffix in OTHER_IMAGE_SUFFIXES:
        return "images are read from folders of PNG or JPG"
    if suffix in OTHER_VIDEO_SUFFIXES:
        return f"videos are read from {', '.join(READABLE_SUFFIXES)}"
    if suffix in ARCHIVE_SUFFIXES:
        return (
            "archives in a folder are not unpacked, give it by itself" if suffix == ".zip" else "only .zip is unpacked"
        )
    return ""


def _scene_number(folder: Path) -> int | None:
    match = SCENE_FOLDER.fullmatch(folder.resolve().name)
    return int(match[1]) if match else None
