"""The inputs of a command: videos, folders of images, folders of videos, lists; and what each becomes.

By names alone: a command that is sent to another machine is read here too, and needs no network for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tecogan_dist.base.documents import read_text
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import check_name
from tecogan_dist.video.formats import IMAGE_SUFFIXES, JOINABLE_SUFFIXES, READABLE_SUFFIXES

LIST_SUFFIX = ".txt"
LIST_BYTES = 4 * 2**20
OTHER = ".mkv"
"""Of the result of a video whose own container is only read; it holds whatever streams there are."""


@dataclass(frozen=True)
class Film:
    """An input, a video or a folder of images, and what it becomes."""

    source: Path
    output: Path


def is_many(inputs: Sequence[Path]) -> bool:
    """Whether a command names several films, or may: then its output is a folder for all of them."""
    return len(inputs) > 1 or is_list(inputs[0]) or is_folder_of_videos(inputs[0])


def is_list(path: Path) -> bool:
    return path.suffix.lower() == LIST_SUFFIX and not path.is_dir()


def is_folder_of_videos(path: Path) -> bool:
    """Whether there are videos in a folder, and no images, of which a folder is one film.

    Raises :class:`UserError` if both are.
    """
    if not path.is_dir():
        return False
    videos, images = videos_in(path), _entries(path, IMAGE_SUFFIXES)
    if videos and images:
        raise UserError(
            f"{path} holds videos ({videos[0].name}) and images ({images[0].name}), so that it is not clear whether it "
            f"is many films or one: give the videos by their names ({path}/*{videos[0].suffix}), or move one kind into "
            "a folder of its own."
        )
    return bool(videos)


def videos_in(folder: Path) -> list[Path]:
    """The videos of a folder itself, by their suffixes, in the order of their names; hidden ones are left out."""
    return _entries(folder, (*READABLE_SUFFIXES, ".gif"))


def _entries(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({os.strerror(error.errno or 0)}): check its permissions and its owner."
        ) from error
    files = [folder / name for name in names if not name.startswith(".")]
    return [file for file in files if file.suffix.lower() in suffixes and file.is_file()]


def films_of(inputs: Sequence[Path], output: Path) -> list[Film]:
    """The films that ``inputs`` stand for, whose results get their names, in the folder ``output``.

    A result keeps its source's suffix where such files can be written. Raises :class:`UserError` for lists that cannot
    be read, results of the same name, and an output that is no folder.
    """
    if output.suffix.lower() in (*JOINABLE_SUFFIXES, *READABLE_SUFFIXES) and not output.is_dir():
        raise UserError(f"{output} is to hold the results of several inputs: give the name of a folder, not a video's.")
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file, and is to hold the results of several inputs: give a folder's name.")
    films: list[Film] = []
    for source in dict.fromkeys(found for path in inputs for found in _expanded(path)):
        films.append(Film(source, output / _result_name(source)))
    if not films:
        raise UserError(f"{inputs[0]} names no videos: put one path on each line.")
    _check_names(films)
    return films


def _expanded(path: Path) -> Iterator[Path]:
    if is_list(path):
        for listed in listed_in(path):
            yield from _expanded(listed)
    elif is_folder_of_videos(path):
        yield from videos_in(path)
    else:
        yield path


def listed_in(path: Path) -> Iterator[Path]:
    """The paths of a list, one on a line, relative to its own folder; lines that are empty or begin with # are none.

    Raises :class:`UserError` for what cannot be read, and for a list in a list.
    """
    for line in read_text(path, missing=f"{path} does not exist: check the name.", limit=LIST_BYTES).splitlines():
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        check_name(name)
        listed = path.parent / Path(name).expanduser()
        if is_list(listed):
            raise UserError(f"{path} names another list, {name}: name videos and folders of images.")
        yield listed


def _result_name(source: Path) -> str:
    name = Path(os.path.abspath(source)).name  # also of "." and "films/.."
    suffix = Path(name).suffix
    is_video = not source.is_dir() and suffix
    if not is_video or suffix.lower() in JOINABLE_SUFFIXES:
        return name
    return f"{Path(name).stem}{OTHER}"


def _check_names(films: Sequence[Film]) -> None:
    sources = {os.path.realpath(film.source) for film in films}
    named: dict[str, Film] = {}
    for film in films:
        other = named.setdefault(film.output.name, film)
        if other is not film:
            raise UserError(
                f"{other.source} and {film.source} would both become {film.output}: rename one, or upscale them into "
                "different folders."
            )
        if os.path.realpath(film.output) in sources:
            raise UserError(f"{film.output} is an input: name another folder for the results.")
