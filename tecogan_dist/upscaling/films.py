"""Many inputs (:mod:`tecogan_dist.upscaling.inputs`), all of them upscaled, though some fail.

What is complete is not made again, so that the same
command does what is missing. The films share one pool of workers: while the last segments of one are made, others have
begun with the next.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.progress import Progress
from tecogan_dist.upscaling.inputs import Film
from tecogan_dist.upscaling.job import Job
from tecogan_dist.upscaling.segment import SegmentResult
from tecogan_dist.upscaling.source import SourceOptions
from tecogan_dist.upscaling.spread import Finished, Spread
from tecogan_dist.upscaling.workers import Workers
from tecogan_dist.video.reader import VideoFile

EVENT_SECONDS = 1.0


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


def is_complete(
    film: Film, options: SourceOptions, start: int, frames: int | None, *, times: Sequence[int] = (1, 2, 4)
) -> bool:
    """Whether the result of a film is there, with all frames that it has to have and as large as it has to be.

    ``times``: how many times as large as its source, any of them. None of its frames is decoded but a first. Raises
    :class:`UserError` for a result with more frames or fewer, of another size, or that is something else.
    """
    if not os.path.lexists(film.output):
        return False
    if film.output.is_dir() and not any(film.output.iterdir()):
        return False
    source = _facts_of(options)
    wanted = source.frames - start
    wanted = wanted if frames is None else min(wanted, frames)
    try:
        there = _facts_of(SourceOptions(path=film.output, allow_gaps=True))
    except UserError as error:
        raise UserError(f"{film.output} is in the way ({str(error).rstrip('.')}): remove it.") from error
    if there.frames != wanted:
        raise UserError(
            f"{film.output} has {there.frames} frames and should have {wanted}: remove it, or replace it with "
            "--overwrite."
        )
    if not any(there.is_enlarged(source, by) for by in times):
        sizes = " or ".join(f"{by * source.width}x{by * source.height}" for by in times)
        raise UserError(
            f"{film.output} is {there.width}x{there.height} and should be {sizes}: remove it, or replace it with "
            "--overwrite."
        )
    return True


class _Facts(NamedTuple):
    frames: int
    width: int
    """As it is shown."""
    height: int

    def is_enlarged(self, source: _Facts, by: int) -> bool:
        """Odd sides may have become even ones, as most codecs want them."""
        pairs = ((self.width, by * source.width), (self.height, by * source.height))
        return all(side in (wanted, wanted + wanted % 2) for side, wanted in pairs)


def _facts_of(options: SourceOptions) -> _Facts:
    source = replace(options, deep=True).open()  # which refuses no high dynamic range
    frames = len(source.timeline()) if isinstance(source, VideoFile) else len(source.names or ())
    return _Facts(frames, source.width, source.height)


def told(outcome: Outcome) -> str:
    """A line about a film."""
    film = outcome.film
    if outcome.state == "failed":
        return f"{film.source} failed: {outcome.text}"
    if outcome.state == "there":
        return (
            f"{film.output} is there already, and is not made again (remove it, or give --overwrite, to make it anew)"
        )
    return f"{film.output} is made" + (f" ({outcome.text})" if outcome.text else "")


def in_sentence(outcomes: Sequence[Outcome]) -> str:
    """The summary: ``12 films: 9 made, 2 there already, 1 failed``."""
    count = {state: sum(one.state == state for one in outcomes) for state in ("made", "there", "failed")}
    parts = [f"{count['made']} made", f"{count['there']} there already", f"{count['failed']} failed"]
    shown = [part for part, state in zip(parts, count, strict=True) if count[state]]
    return f"{len(outcomes)} film{'s' if len(outcomes) != 1 else ''}: {', '.join(shown)}"
