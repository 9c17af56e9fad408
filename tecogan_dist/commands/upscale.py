"""``tecogan upscale``: a video or a folder of images, as many times as large as the weights were trained for."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tecogan_dist.base.console import say
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import output_lock
from tecogan_dist.base.progress import Progress
from tecogan_dist.commands.upscale_looks import check_page, check_preview, show_preview, tell_estimate, write_page
from tecogan_dist.commands.upscale_options import parse
from tecogan_dist.commands.upscale_workers import Workforce, workforce
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.published.default import choose
from tecogan_dist.runs.find import load_upscaler
from tecogan_dist.upscaling.films import (
    Outcome,
    in_sentence,
    is_complete,
    told,
    upscale_here,
    upscale_spread,
)
from tecogan_dist.upscaling.folder import WorkFolder
from tecogan_dist.upscaling.inputs import Film, films_of, is_many
from tecogan_dist.upscaling.job import Job, Runner
from tecogan_dist.upscaling.placing import check_output
from tecogan_dist.upscaling.request import Opened, Request, open_request
from tecogan_dist.upscaling.source import SourceOptions
from tecogan_dist.upscaling.workers import Workers
from tecogan_dist.video.numbering import GapError

KEPT = "an older output is as it was, and what was finished is kept beside it; the same command goes on"
"""What an interruption leaves."""


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = parse(words)
    if is_many(options.inputs):
        _upscale_many(options, words)
    else:
        _upscale_one(options, words)


def _upscale_one(options: argparse.Namespace, words: Sequence[str]) -> None:
    if options.preview is not None:
        check_preview(options)
    else:
        _check_outputs(options)
        check_page(options)
    with workforce(options) as workers, contextlib.ExitStack() as stack:
        request = workers.request(options)
        opened = _open(request)  # before weights are fetched
        model = _model(options, request, workers)
        if options.preview is not None:
            show_preview(options, request, opened, model, workers)
            return
        job = _begin(options, request, opened, model, workers, stack)
        if job is None:
            say(f"{options.output} is complete already")
            return
        if job.frames_done:
            say(f"going on: {job.frames_done} of {job.frames} frames are done")
        tell_estimate(options, job, model, workers)
        if options.estimate:
            if not job.frames_done:  # nothing is lost: it is looked through again
                job.folder.clear()
            return
        notes = _run(job, workers.runner(job, model), again=_again(words))
        if options.page is not None:
            write_page(options.page, job, model)
    for text in notes:
        say(text)


def _upscale_many(options: argparse.Namespace, words: Sequence[str]) -> None:
    """Raises :class:`UserError` at the end if films have failed."""
    films = films_of(options.inputs, options.output)
    outcomes: list[Outcome] = []
    todo = [film for film in films if not _is_there(_of_film(options, film), film, outcomes)]
    try:
        for outcome in _outcomes(todo, options) if todo else ():
            outcomes.append(outcome)
            say(f"film {len(outcomes)} of {len(films)}: {told(outcome)}")
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{in_sentence(outcomes)}. To go on: {_again(words)}") from error
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        names = ", ".join(str(outcome.film.source) for outcome in failed)
        raise UserError(f"{in_sentence(outcomes)} ({names}): mend what is said above, and give the same command again.")
    say(in_sentence(outcomes))


def _outcomes(films: Sequence[Film], options: argparse.Namespace) -> Iterator[Outcome]:
    """What becomes of the films, one by one."""
    with workforce(options) as workers:
        model = _model(options, workers.request(_of_film(options, films[0])), workers)
        pool: contextlib.AbstractContextManager[Workers | None] = contextlib.nullcontext()
        threads = None
        first = next(_openable(films, options, workers), None)
        if first is not None:  # else each will say why
            pool, threads = workers.pool(*first, model)

        def begun(film: Film, stack: contextlib.ExitStack) -> Job | None:
            its = _of_film(options, film)
            _check_outputs(its)
            request = workers.request(its)
            return _begin(its, request, _open(request), model, workers, stack, threads=threads)

        with pool as many:
            if many is None:
                yield from upscale_here(
                    films, begin=begun, run=lambda job: _run(job, workers.runner(job, model), again="the same command")
                )
                return
            with Progress(None) as progress:
                yield from upscale_spread(films, begin=begun, workers=many, progress=progress, note=progress.say)


def _openable(
    films: Sequence[Film], options: argparse.Namespace, workers: Workforce
) -> Iterator[tuple[Request, Opened]]:
    for film in films:
        request = workers.request(_of_film(options, film))
        with contextlib.suppress(UserError):
            yield request, _open(request)


def _of_film(options: argparse.Namespace, film: Film) -> argparse.Namespace:
    """As if the command named this film alone."""
    return argparse.Namespace(**{**vars(options), "input": film.source, "output": film.output})


def _is_there(options: argparse.Namespace, film: Film, outcomes: list[Outcome]) -> bool:
    """Whether a film has to be made no more, or cannot be: then its outcome is added."""
    if options.overwrite or WorkFolder(film.output).is_begun:
        return False
    try:
        there = is_complete(
            film,
            SourceOptions(path=film.source, allow_gaps=options.allow_gaps, video_stream=options.video_stream),
            options.start_frame,
            options.frames,
            times=(1,) if options.degrade else (2, 4),  # the weights are not loaded yet
        )
        outcome = Outcome(film, "there")
    except UserError as error:
        there, outcome = True, Outcome(film, "failed", str(error))
    if there:
        outcomes.append(outcome)
        say(told(outcome))
    return there


def _model(options: argparse.Namespace, request: Request, workers: Workforce) -> RecurrentUpscaler:
    model = load_upscaler(choose(options.weights), workers.device)
    if options.precision == "auto" and request.precision != "fp32":
        say(f"the network runs in {request.precision}, within a level of fp32, which --exact gives")
    return model


def _begin(
    options: argparse.Namespace,
    request: Request,
    opened: Opened,
    model: RecurrentUpscaler,
    workers: Workforce,
    stack: contextlib.ExitStack,
    *,
    threads: int | None = None,
) -> Job | None:
    """The job, with its outputs' locks in ``stack``; None if it is complete."""
    for path in _outputs(options):
        stack.enter_context(output_lock(path))
    _check_outputs(options)  # once more: another process may have ended in between
    if _is_complete(options):
        return None
    return workers.begin(request, model, opened, threads=threads)


def _run(job: Job, runner: Runner, *, again: str) -> list[str]:
    source = job.opened.source
    rate = None if source.names else float(source.rate)
    try:
        with Progress(job.frames, begun=job.frames_done, realtime=rate) as progress:
            return job.run(runner, progress=progress)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_kept(job, again)) from error


def _kept(job: Job, again: str) -> str:
    """What an interruption leaves, with a playable file of it."""
    file, frames = None, 0
    with contextlib.suppress(UserError):  # a full disk, say: it is an extra
        file, frames = job.so_far()
    playable = f", and the first {frames} can be watched in {file}" if file else ""
    return f"{job.frames_done} of {job.frames} frames are done{playable}. To go on: {again}"


def _again(words: Sequence[str]) -> str:
    """The command that goes on."""
    return shlex.join(["tecogan", "upscale", *(word for word in words if word != "--restart")])


def _is_complete(options: argparse.Namespace) -> bool:
    """Whether an earlier command was killed when all but the removal of its folder was done; then that is done now."""
    folder = WorkFolder(options.output)
    complete = not options.overwrite and not folder.is_begun and all(map(folder.has_placed, _outputs(options)))
    if complete:
        folder.clear()
    return complete


def _open(request: Request) -> Opened:
    try:
        return open_request(request)
    except GapError as error:
        raise UserError(f"{str(error).rstrip('.')}, or take the images as they are with --allow-gaps.") from error


def _outputs(options: argparse.Namespace) -> list[Path]:
    return [path for path in (options.output, options.side_by_side) if path]


def _check_outputs(options: argparse.Namespace) -> None:
    """Before anything is read."""
    outputs = _outputs(options)
    given = (options.input, *outputs)
    for first, second in itertools.combinations(given, 2):
        is_one_file = first.exists() and second.exists() and first.samefile(second)
        if is_one_file or first.resolve() == second.resolve():
            raise UserError("input and outputs must be different files or folders: give them different names.")
    folder = WorkFolder(options.output)
    folder.check()
    for path in outputs:
        for other in (*given, folder.path):
            if other.resolve() in path.resolve().parents and (other.is_dir() or other is not options.input):
                raise UserError(f"{path} is inside {other}, with which it would be mixed: name an output elsewhere.")
        if folder.has_placed(path):
            continue  # the work of a command that was killed in its last moment
        if os.path.lexists(path) and not path.is_dir() and not options.overwrite:
            raise UserError(f"{path} exists: name another output, or replace it with --overwrite.")
        check_output(path)
    if options.input.resolve().is_relative_to(folder.path.resolve()):
        raise UserError(f"{options.input} is unfinished work of {options.output}: copy it elsewhere first.")
