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
from dataclasses import dataclass
from typing import Literal

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.progress import Progress
from tecogan_dist.upscaling.inputs import Film
from tecogan_dist.upscaling.job import Job
from tecogan_dist.upscaling.segment import SegmentResult
from tecogan_dist.upscaling.source import SourceOptions
from tecogan_dist.upscaling.spread import Finished, Spread, Workers
from tecogan_dist.video.timeline import read_timeline

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
