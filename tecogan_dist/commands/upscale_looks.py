"""What ``tecogan upscale`` shows before and after the work: an estimate, a preview of a part, a page of the result."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tecogan_dist.base.console import say
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import output_lock
from tecogan_dist.base.progress import Progress
from tecogan_dist.commands.upscale_workers import Workforce, low_resolution
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.pages.upscaled import Upscaling, choose_frames, write_upscaled
from tecogan_dist.upscaling.estimate import WORTH, estimate
from tecogan_dist.upscaling.job import Job
from tecogan_dist.upscaling.preview import preview_path, write_preview
from tecogan_dist.upscaling.request import Opened, Request
from tecogan_dist.upscaling.segment import Rendering
from tecogan_dist.upscaling.tiles import automatic_tile
from tecogan_dist.video.open import open_video
from tecogan_dist.video.reader import VideoFile


def check_preview(options: argparse.Namespace) -> None:
    """Raise :class:`UserError` if the preview would replace something, or is its own input."""
    path = preview_path(options.output)
    if path.resolve() == options.input.resolve():
        raise UserError(f"{path} is the input, and the preview would be written there: name another output.")
    _check_free(path, options)


def show_preview(
    options: argparse.Namespace, request: Request, opened: Opened, model: RecurrentUpscaler, workers: Workforce
) -> None:
    """Write the preview. Raises :class:`UserError`."""
    if workers.cluster is not None:
        raise UserError("--preview is made on this machine, and RAY_ADDRESS names a cluster: unset it.")
    source, path = opened.source, preview_path(options.output)
    timeline = source.timeline() if isinstance(source, VideoFile) else None
    count = len(timeline) if timeline is not None else len(source.names or ())
    part = options.preview.frames(timeline, count=count, rate=source.rate, name=options.input)
    height, width = low_resolution(opened, request, model)
    tile = None if request.tile in ("auto", "none") else int(request.tile)
    if request.tile == "auto":
        tile = automatic_tile(model, height, width, device=workers.device, precision=request.precision, is_encoded=True)
    rendering = Rendering(degrade=request.degrade, precision=request.precision, tile=tile, threads=request.threads)
    with output_lock(path), Progress(len(part), realtime=float(source.rate)) as progress:
        check_preview(options)  # once more: another process may have ended in between
        write_preview(
            model,
            source,
            path,
            part=part,
            rendering=rendering,
            cut=request.cut == "detected",
            advance=progress.advance,
            note=progress.say,
        )
    say(f"frames {part.start} to {part.stop - 1} are in {path}, bicubic beside the model")


def tell_estimate(options: argparse.Namespace, job: Job, model: RecurrentUpscaler, workers: Workforce) -> None:
    """Say how long it will take and how large the result will be, where that is asked for or worth a trial."""
    left = job.frames - job.frames_done
    if workers.cluster is not None:
        if options.estimate:
            raise UserError("--estimate measures this machine, and the work is for a cluster: leave one of them out.")
        return
    if not options.estimate and left < WORTH:
        return
    made = estimate(
        model,
        job.opened.source,
        job.target,
        job.rendering,
        start=job.segments[0].start,
        total=job.frames,
        left=left,
        processes=workers.processes(job, model),
    )
    say(made.in_sentence())


def check_page(options: argparse.Namespace) -> None:
    """Raise :class:`UserError` if the page would replace something, or is in the way of an output."""
    page: Path | None = options.page
    if page is None:
        return
    for other in filter(None, (options.input, options.output, options.side_by_side)):
        if page.resolve() == other.resolve() or other.resolve() in page.resolve().parents:
            raise UserError(f"--page {page} is, or is inside, {other}: name a file of its own elsewhere.")
    _check_free(page, options)


def write_page(page: Path, job: Job, model: RecurrentUpscaler) -> None:
    """The page of a result that is in place. Raises :class:`UserError`."""
    request, source = job.request, job.opened.source
    start = job.segments[0].start
    scenes = [range(first - start, end - start) for one in job.segments for first, end in one.scenes]
    upscaling = Upscaling(
        source=source,
        result=open_video(request.output, deep=job.target.deep, allow_gaps=True),
        scale=model.scale,
        centred=model.centred,
        degradation=request.degrade,
        start=start,
    )
    facts = [("frames", f"{job.frames}, {len(scenes)} scene{'s' if len(scenes) != 1 else ''}")]
    if request.degrade is not None:
        facts.append(("degradation", f"{request.degrade}; the source is the truth"))
    write_upscaled(page, upscaling, choose_frames(job.frames, scenes=scenes), facts=facts)
    say(f"{page} shows it")


def _check_free(path: Path, options: argparse.Namespace) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder where a file is to be written: give another name.")
    if os.path.lexists(path) and not options.overwrite:
        raise UserError(f"{path} exists: name another one, or replace it with --overwrite.")
