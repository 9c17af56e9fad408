"""Many inputs: which there are, what each becomes, and all of them upscaled, though some fail.

Inputs are videos, folders of images, folders of videos, and lists. What is complete is not made again, so that the same
command does what is missing. The films share one pool of workers: while the last segments of one are made, others have
begun with the next.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tecogan_dist.base.documents import read_text
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import check_name
from tecogan_dist.base.progress import Progress
from tecogan_dist.upscaling.job import Job
from tecogan_dist.upscaling.segment import SegmentResult
from tecogan_dist.upscaling.source import SourceOptions
from tecogan_dist.upscaling.spread import Finished, Spread, Workers
from tecogan_dist.video.formats import IMAGE_SUFFIXES, JOINABLE_SUFFIXES, READABLE_SUFFIXES
from tecogan_dist.video.timeline import read_timeline

LIST_SUFFIX = ".txt"
LIST_BYTES = 4 * 2**20
OTHER = ".mkv"
"""Of the result of a video whose own container is only read; it holds whatever streams there are."""
EVENT_SECONDS = 1.0


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


@dataclass(frozen=True)
class Outcome:
    """What became of a film. ``text`` says what went wrong, or what could not be kept."""

    film: Film
    state: Literal["made", "there", "failed"]
    text: str = ""


Begin = Callable[[Film, ExitStack], Job | None]
"""Plans a film's job, or finds its plan, and holds its locks in the stack; None if its result is there. Raises
:class:`UserError`."""


def upscale_here(films: Sequence[Film], *, begin: Begin, run: Callable[[Job], list[str]]) -> Iterator[Outcome]:
    """One film after the other in this process, by ``run``."""
    for film in films:
        with ExitStack() as stack:
            try:
                job = begin(film, stack)
                outcome = Outcome(film, "there") if job is None else Outcome(film, "made", "; ".join(run(job)))
            except UserError as error:
                outcome = Outcome(film, "failed", str(error))
        yield outcome


def upscale_spread(
    films: Sequence[Film], *, begin: Begin, workers: Workers, progress: Progress, note: Callable[[str], None]
) -> Iterator[Outcome]:
    """All films on the same workers. A film is planned when workers would soon have nothing to do."""
    waiting, open_jobs = deque(films), dict[Film, tuple[Job, ExitStack]]()

    def done(film: Film, result: SegmentResult) -> None:
        open_jobs[film][0].done(result)

    with ExitStack() as everything:
        spread = Spread[Film](workers, advance=lambda _, frames: progress.advance(frames), note=note, done=done)
        while waiting or spread.is_busy:
            if waiting and spread.has_room:
                film = waiting.popleft()
                stack = everything.enter_context(ExitStack())
                try:
                    job = begin(film, stack)
                except UserError as error:
                    stack.close()
                    yield Outcome(film, "failed", str(error))
                    continue
                if job is None:
                    stack.close()
                    yield Outcome(film, "there")
                    continue
                open_jobs[film] = (job, stack)
                spread.add(film, job.todo)
            for outcome in spread.outcomes(0 if waiting and spread.has_room else EVENT_SECONDS):
                job, stack = open_jobs.pop(outcome.key)
                with contextlib.closing(stack):
                    yield (
                        _completed(outcome.key, job)
                        if isinstance(outcome, Finished)
                        else Outcome(outcome.key, "failed", str(outcome.error))
                    )


def _completed(film: Film, job: Job) -> Outcome:
    try:
        return Outcome(film, "made", "; ".join(job.complete()))
    except UserError as error:
        return Outcome(film, "failed", str(error))


def is_complete(film: Film, options: SourceOptions, start: int, frames: int | None) -> bool:
    """Whether the result of a film is there, with all frames that it has to have; none of them is decoded but a first.

    Raises :class:`UserError` for a result with more or fewer, or that is something else.
    """
    if not os.path.lexists(film.output):
        return False
    if film.output.is_dir() and not any(film.output.iterdir()):
        return False
    wanted = _frames_of(options) - start
    wanted = wanted if frames is None else min(wanted, frames)
    try:
        there = _frames_of(SourceOptions(path=film.output, allow_gaps=True))
    except UserError as error:
        raise UserError(f"{film.output} is in the way ({str(error).rstrip('.')}): remove it.") from error
    if there != wanted:
        raise UserError(
            f"{film.output} has {there} frames and should have {wanted}: remove it, or replace it with --overwrite."
        )
    return True


def _frames_of(options: SourceOptions) -> int:
    if not options.path.is_dir():
        return len(read_timeline(options.path, video_stream=options.video_stream))
    return len(options.open().names or ())


def told(outcome: Outcome) -> str:
    """A line about a film."""
    film = outcome.film
    if outcome.state == "failed":
        return f"{film.source} failed: {outcome.text}"
    if outcome.state == "there":
        return f"{film.output} is there already"
    return f"{film.output} is made" + (f" ({outcome.text})" if outcome.text else "")


def in_sentence(outcomes: Sequence[Outcome]) -> str:
    """The summary: ``12 films: 9 made, 2 there already, 1 failed``."""
    count = {state: sum(one.state == state for one in outcomes) for state in ("made", "there", "failed")}
    parts = [f"{count['made']} made", f"{count['there']} there already", f"{count['failed']} failed"]
    shown = [part for part, state in zip(parts, count, strict=True) if count[state]]
    return f"{len(outcomes)} film{'s' if len(outcomes) != 1 else ''}: {', '.join(shown)}"
