"""How a job begins: its source is looked through and its segments are planned, or an earlier command's plan is found.

What computes and encodes is noted in the plan with its versions: others may make the rest of the work in other bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from tecogan_dist.base.console import printable, say
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.progress import Progress
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling import machine, plan, space
from tecogan_dist.upscaling.folder import WorkFolder
from tecogan_dist.upscaling.job import Job
from tecogan_dist.upscaling.nodes import tools
from tecogan_dist.upscaling.request import Opened, Request, differences
from tecogan_dist.upscaling.segment import Rendering, result_size
from tecogan_dist.upscaling.source import look_through
from tecogan_dist.upscaling.states import state_bytes
from tecogan_dist.upscaling.tiles import automatic_tile
from tecogan_dist.video.reader import VideoFile
from tecogan_dist.video.source import FrameSource


def begin(
    request: Request,
    model: RecurrentUpscaler,
    *,
    opened: Opened,
    restart: bool = False,
    may_replace: bool = False,
    most_processes: int | None = None,
    threads: int | None = None,
    gpu_free: int | None = None,
) -> Job:
    """Plan a job, or find the plan that an earlier command has left. The caller holds the outputs' locks.

    ``opened`` is of :func:`open_request`. ``may_replace``: whether an output that is there in the end may be replaced.
    If it is to be planned, and the request does not say with how many threads:
    ``threads``, or as many as are best with up to ``most_processes`` on this machine's CPUs. ``gpu_free``: bytes that
    are free on GPUs of others, where they do the work and tiles have to fit. Raises :class:`UserError` for unfinished
    work of another request, for what cannot be read, and for a disk that certainly has too little room.
    """
    folder = WorkFolder(request.output)
    wanted = request.plain(model)
    if folder.is_begun and restart:
        folder.clear()
    if folder.is_begun:
        planned = folder.plan()
        _check_same(planned, wanted, request, folder)
        _say_other_tools(planned, folder, next(model.parameters()).device)
    else:
        folder.begin(_planned(request, wanted, model, opened, most_processes, threads, gpu_free))
    job = Job(request, opened, may_replace=may_replace)
    for text in job.notes:
        say(text)
    return job


def _check_same(planned: Mapping[str, Any], wanted: Mapping[str, Any], request: Request, folder: WorkFolder) -> None:
    there = planned.get("request")
    if not isinstance(there, dict):
        raise UserError(f"{folder.path} has a damaged plan: begin anew with --restart.")
    different = differences(there, wanted)
    length = planned.get("segment_frames")
    if not different and request.segment_frames not in (None, length):
        different = f"--segment-frames was {length}, not {request.segment_frames}"
    rendering = planned.get("rendering")
    threads = rendering.get("threads") if isinstance(rendering, dict) else None
    if not different and request.threads not in (None, threads):
        different = f"--threads was {threads}, not {request.threads}"
    if different:
        raise UserError(
            f"{folder.path} holds unfinished work of another request ({different}): give the same one to go on, "
            "name another output, or begin anew with --restart."
        )


def _say_other_tools(planned: Mapping[str, Any], folder: WorkFolder, device: torch.device) -> None:
    before = planned.get("tools")
    if not isinstance(before, dict):
        return
    # A GPU's are not there if it was planned for those of a cluster.
    changed = {name: now for name, now in tools(device).items() if before.get(name, now) != now}
    others = [f"{name} was {printable(before[name], limit=40)}, and is {now}" for name, now in changed.items()]
    if others:
        say(
            f"{folder.path} was begun with other tools ({'; '.join(others)}): what is finished is kept, and the rest "
            "may differ from what it would have been in the last bits; --restart makes all of it anew"
        )


def _planned(
    request: Request,
    wanted: Mapping[str, Any],
    model: RecurrentUpscaler,
    opened: Opened,
    most_processes: int | None,
    threads: int | None,
    gpu_free: int | None,
) -> dict[str, Any]:
    """Look the source through, and plan."""
    source, target = opened.source, opened.target
    device = next(model.parameters()).device
    kind = request.device or device.type
    rendering = Rendering(degrade=request.degrade, precision=request.precision)
    height, width = result_size(source, model, rendering)
    lr_height, lr_width = -(-height // model.scale), -(-width // model.scale)
    tile = _tile(request, model, lr_height, lr_width, torch.device(kind), gpu_free, is_encoded=target.is_video)
    rendering = replace(rendering, tile=tile)
    stop = None if request.frames is None else request.start + request.frames
    total = None if source.count is None else min(source.count, stop or source.count) - request.start
    found: list[str] = []
    with Progress(total, what="looking through") as progress:
        scenes = look_through(
            source,
            start=request.start,
            stop=stop,
            cut=request.cut == "detected",
            advance=progress.advance,
            note=found.append,
        )
    notes = [*opened.notes, *_damage(source), *found]
    frames = scenes[-1].stop - scenes[0].start
    most = request.segment_frames or plan.default_length(lr_height, lr_width, kind)
    segments = plan.segments_of(scenes, most=most, shared=request.segment_frames or plan.default_shared(frames))
    needed = 2 * state_bytes(lr_height, lr_width, model.scale) * any(segment.hands_on for segment in segments)
    if not target.is_video:
        needed += space.images_bytes(height, width, frames=frames, deep=target.deep)
    space.check_room(request.output.parent, needed, what=f"upscaling {frames} frames to {width}x{height}")
    if kind == "cpu":
        groups = len(plan.chains(segments))
        if threads is None and request.threads is None:
            choice = machine.choose(
                model, height=lr_height, width=lr_width, frames=frames, groups=groups, most=most_processes, tile=tile
            )
            if choice.processes > 1:
                say(machine.in_sentence(choice))
            threads = choice.threads
        threads = request.threads or threads
        rendering = replace(rendering, threads=threads)
    return {
        "request": dict(wanted),
        "segment_frames": most,
        "segments": plan.to_plain(segments),
        "rendering": asdict(rendering),
        "target": target.to_plain(),
        "beside": opened.beside.to_plain() if opened.beside else None,
        "notes": notes,
        "tools": tools(device),
    }


def _tile(
    request: Request,
    model: RecurrentUpscaler,
    height: int,
    width: int,
    device: torch.device,
    free: int | None,
    *,
    is_encoded: bool,
) -> int | None:
    """Low-resolution pixels of a side; said where whole frames do not fit. Raises :class:`UserError` if nothing does.

    ``free``: bytes, of a ``device`` that is another machine's; None: of this one's.
    """
    if request.tile != "auto":
        return None if request.tile == "none" else request.tile
    tile = automatic_tile(
        model, height, width, device=device, precision=request.precision, is_encoded=is_encoded, free=free
    )
    if tile is not None:
        say(f"whole frames do not fit into memory: the network runs in tiles of {tile} pixels (--tile)")
    return tile


def _damage(source: FrameSource) -> list[str]:
    """What was found when all was looked through, and did not stop it."""
    damaged = sorted(source.damaged) if isinstance(source, VideoFile) else []
    if not damaged:
        return []
    return [
        f"{source.path} is damaged: {len(damaged)} frames, the first of them number {damaged[0]}, cannot be decoded "
        "and show the last good one before them."
    ]
