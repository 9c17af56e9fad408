"""A whole job: one input becomes one output, in segments, so that whatever happens the same request goes on with it.

    look    decode the source once, small: scenes, the exact number of frames, damage (source.py)
    plan    segments, written to OUTPUT.unfinished beside the output with what was asked for (plan.py, folder.py)
    work    each missing segment through the network into a file, and checked (segment.py), here or by another Runner
    join    the segments, and what else the source has, into the output; checked, then put in place (placing.py)

:func:`begin` does the first two, or finds the plan of an earlier command and refuses another request. What it returns,
a :class:`Job`, has the tasks that are left (:attr:`Job.todo`), in groups that may run at the same time, and a last step
(:meth:`Job.complete`). :meth:`Job.run` is all of it. A segment is done when its json is in the folder, and any process
that can write there may make it (:func:`tecogan_dist.upscaling.segment.upscale_segment`): one that has been made
elsewhere is told to :meth:`Job.done`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from tecogan_dist.base.atomic import remove
from tecogan_dist.base.console import say
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.progress import Progress
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling import machine, placing, plan, space
from tecogan_dist.upscaling.folder import WorkFolder
from tecogan_dist.upscaling.recurrence import Precision
from tecogan_dist.upscaling.request import INPUT, WEIGHTS, differences, weights_digest
from tecogan_dist.upscaling.segment import (
    Kept,
    Rendering,
    SegmentResult,
    SegmentTask,
    finish,
    render,
    result_size,
)
from tecogan_dist.upscaling.source import SourceOptions, content_of, look_through, stamp
from tecogan_dist.upscaling.states import is_whole, state_bytes
from tecogan_dist.upscaling.targets import Target, beside_target, choose_target
from tecogan_dist.upscaling.tiles import automatic_tile
from tecogan_dist.video.codecs import Wishes
from tecogan_dist.video.joining import check_clock
from tecogan_dist.video.reader import VideoFile
from tecogan_dist.video.source import FrameSource

Cut = Literal["detected", "none"]
Tile = Literal["auto", "none"] | int


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be done. Whatever is in it changes the result, but for the names of the files."""

    source: SourceOptions
    output: Path
    comparison: Path | None = None
    start: int = 0
    frames: int | None = None
    """None: to the end."""
    cut: Cut = "none"
    segment_frames: int | None = None
    """None: :func:`tecogan_dist.upscaling.plan.default_length`."""
    degrade: Degradation | None = None
    precision: Precision = "fp32"
    tile: Tile = "auto"
    wishes: Wishes = field(default_factory=Wishes)
    """Of the video's encoding."""
    png16: bool = False
    threads: int | None = None
    """Of the network on a CPU; None: found by measuring (:mod:`tecogan_dist.upscaling.machine`)."""
    device: Literal["cpu", "cuda"] | None = None
    """Where segments are made; None: where the model is."""

    def plain(self, model: RecurrentUpscaler) -> dict[str, Any]:
        """By the options' names, for the plan: two requests that are the same have the same result."""
        device = self.device or next(model.parameters()).device.type
        return {
            INPUT: content_of(self.source.path),
            WEIGHTS: weights_digest(model),
            "--start-frame": self.start,
            "--frames": self.frames,
            "--side-by-side": self.comparison is not None,
            "--cut": self.cut,
            "--degrade": self.degrade,
            "--precision": self.precision,
            "--tile": self.tile,
            "--device": device,
            **self.source.plain(),
            "--png16": self.png16,
            "the encoding": self.wishes.plain(),
        }


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A request's input, opened, and what its outputs are to be made of. No weights are needed so far."""

    source: FrameSource
    options: SourceOptions
    """How it was opened."""
    target: Target
    beside: Target | None
    notes: list[str]
    """What cannot be kept, or is not as it was asked, in sentences."""


def open_request(request: Request) -> Opened:
    """Raises :class:`UserError` for what cannot be read, or cannot be upscaled or written as it is asked for."""
    properties, notes = request.source.properties()
    target, more = choose_target(request.output, properties, request.wishes, png16=request.png16)
    beside = None
    if request.comparison is not None:
        beside = beside_target(request.comparison, request.output, properties, request.wishes)
    options = replace(request.source, deep=target.deep)
    source = options.open()
    if source.count is not None and request.start >= source.count:
        raise UserError(f"{source.path} has {source.count} frames: --start-frame must be below that.")
    if isinstance(source, VideoFile):  # said before the work, not after it
        for suffix in {target.suffix, beside.suffix if beside else target.suffix}:
            check_clock(suffix, source.timeline())
    return Opened(source=source, options=options, target=target, beside=beside, notes=[*notes, *more])


class Runner(Protocol):
    """Something that makes segments: in this process (:class:`Here`), in others, on other machines."""

    def __call__(
        self,
        groups: Sequence[Sequence[SegmentTask]],
        *,
        done: Callable[[SegmentResult], None],
        advance: Callable[[int], None],
        note: Callable[[str], None],
    ) -> None:
        """Make all of them. The tasks of a group have to be done in order; groups may be done in any, or at once.

        ``done`` is called, in the caller's thread, with each result when its record is in the work folder; ``advance``
        with numbers of frames, from any thread; ``note`` with sentences for the user. Raises what a task raised.
        """


@dataclass(frozen=True, kw_only=True)
class Here:
    """The :class:`Runner` of this process: one segment after the other, each checked while the next one is made."""

    model: RecurrentUpscaler

    def __call__(
        self,
        groups: Sequence[Sequence[SegmentTask]],
        *,
        done: Callable[[SegmentResult], None],
        advance: Callable[[int], None],
        note: Callable[[str], None],
    ) -> None:
        checked: Future[SegmentResult] | None = None
        kept = Kept()
        with ThreadPoolExecutor(1, thread_name_prefix="check") as pool:
            try:
                for task in (task for group in groups for task in group):
                    rendered = render(task, self.model, kept=kept, advance=lambda: advance(1), note=note)
                    before, checked = checked, pool.submit(finish, rendered)
                    if before is not None:
                        done(before.result())
            except BaseException:
                if checked is not None:  # this one is complete, whatever happened to the next
                    with contextlib.suppress(Exception):
                        done(checked.result())
                raise
            if checked is not None:
                done(checked.result())


class Job:
    """A planned job: what is left of it, and its end. :func:`begin` makes it."""

    def __init__(self, request: Request, opened: Opened) -> None:
        """Of the plan that is in the work folder; looks which segments are done. Raises :class:`UserError`."""
        self.request, self.opened = request, opened
        self.folder = folder = WorkFolder(request.output)
        planned = folder.plan()
        self.segments = plan.from_plain(planned.get("segments"), source=folder.path / "plan.json")
        self.target = Target.from_plain(planned["target"])
        self.beside = Target.from_plain(planned["beside"]) if planned["beside"] else None
        self.rendering = Rendering(**planned["rendering"])
        self.notes: list[str] = list(planned["notes"])
        self._stamp = stamp(request.source.path)
        self._sizes: dict[int, int] = {}
        self._said_space = False
        missing = self._look_at_folder()
        self.todo: list[list[SegmentTask]] = [
            [self._task(segment) for segment in group if segment.number in missing]
            for group in plan.chains(self.segments)
        ]
        self.todo = [group for group in self.todo if group]
        folder.tidy(states=[task.segment.number for group in self.todo for task in group if task.segment.continues])

    @property
    def frames(self) -> int:
        """Of the whole job."""
        return self.segments[-1].stop - self.segments[0].start

    @property
    def frames_done(self) -> int:
        return sum(segment.frames for segment in self.segments if segment.number in self._sizes)

    def run(self, runner: Runner, *, progress: Progress) -> list[str]:
        """Make what is missing, join it, put it in place; returns sentences on what could not be kept.

        Raises :class:`UserError`; whatever is raised, finished segments stay for the next command.
        """
        if self.todo:
            runner(self.todo, done=self.done, advance=progress.advance, note=progress.say)
        return self.complete()

    def done(self, result: SegmentResult) -> None:
        """A segment's record is in the folder."""
        finished = self.folder.size(result.number)
        self._sizes[result.number] = finished
        remove(self.folder.state(result.number))
        self._look_at_space()

    def complete(self) -> list[str]:
        """Join all segments, check the result, put it in place, and remove the folder."""
        outputs = [one for one in self._outputs(self.segments) if not self.folder.has_placed(one.path)]
        notes = placing.place(outputs, folder=self.folder)
        self.folder.clear()
        return [*self.notes, *notes]

    def so_far(self) -> tuple[Path | None, int]:
        """A playable file of the segments that are done from the first on, and its number of frames."""
        first = []
        for segment in self.segments:
            if segment.number not in self._sizes:
                # It may have been finished a moment ago, when an interruption came before it was told.
                finished = self.folder.finished(segment.number)
                if finished is None or finished.frames != segment.frames:
                    break
                self._sizes[segment.number] = finished.size
            first.append(segment)
        if not first:
            return None, 0
        file = placing.so_far(self._outputs(first)[0], folder=self.folder)
        return file, first[-1].stop - first[0].start

    def _outputs(self, segments: Sequence[plan.Segment]) -> list[placing.Output]:
        """Of these segments."""
        request, folder, source = self.request, self.folder, self.opened.source
        frames = range(segments[0].start, segments[-1].stop)
        timeline = source.timeline() if isinstance(source, VideoFile) else None
        main = placing.Output(
            path=request.output,
            target=self.target,
            files=[folder.segment(one.number, self.target.suffix) for one in segments],
            frames=frames,
            timeline=timeline,
            film=source.path if timeline else None,
            video_stream=request.source.video_stream,
        )
        if request.comparison is None or self.beside is None:
            return [main]
        files = [folder.beside(one.number, self.beside.suffix) for one in segments]
        beside = placing.Output(
            path=request.comparison, target=self.beside, files=files, frames=frames, timeline=timeline
        )
        return [main, beside]

    def _task(self, segment: plan.Segment) -> SegmentTask:
        return SegmentTask(
            source=self.opened.options,
            stamp=self._stamp,
            output=self.request.output,
            segment=segment,
            first=self.segments[0].start,
            rendering=self.rendering,
            target=self.target,
            beside=self.beside,
        )

    def _look_at_folder(self) -> set[int]:
        """The segments that have to be made; sizes of the others."""
        missing: set[int] = set()
        for segment in self.segments:
            finished = self.folder.finished(segment.number)
            if finished is None or finished.frames != segment.frames:
                missing.add(segment.number)
                if self.folder.record(segment.number).exists():
                    say(f"segment {segment.number} of {self.folder.path} is damaged: it is made again")
            else:
                self._sizes[segment.number] = finished.size
        for segment in reversed(self.segments):
            # What a segment begins with is kept until it is done. If it is gone, those before it have to make it.
            before = segment.number - 1
            needs_state = segment.number in missing and segment.continues and before not in missing
            if needs_state and not is_whole(self.folder.state(segment.number)):
                missing.add(before)
                self._sizes.pop(before, None)
        return missing

    def _look_at_space(self) -> None:
        """Say once that the disk will probably be full before the end."""
        per_frame = sum(self._sizes.values()) / max(1, self.frames_done)
        # The segments, and the output; a folder's images are there once.
        copies = 2 if self.target.is_video or not space.can_link(self.folder.path) else 1
        expected = per_frame * (copies * self.frames - self.frames_done)
        free = space.free_bytes(self.folder.path)
        if expected > free and not self._said_space:
            self._said_space = True
            say(
                f"the disk of {self.folder.path} will probably be full before the end: about "
                f"{space.in_words(expected)} more are needed, and {space.in_words(free)} are free. When it is, free "
                "some and give the same command again."
            )


def begin(
    request: Request,
    model: RecurrentUpscaler,
    *,
    opened: Opened,
    restart: bool = False,
    most_processes: int | None = None,
    threads: int | None = None,
) -> Job:
    """Plan a job, or find the plan that an earlier command has left. The caller holds the outputs' locks.

    ``opened`` is of :func:`open_request`. If it is to be planned, and the request does not say with how many threads:
    ``threads``, or as many as are best with up to ``most_processes`` on this machine's CPUs. Raises :class:`UserError`
    for unfinished work of another request, for what cannot be read, and for a disk that certainly has too little room.
    """
    folder = WorkFolder(request.output)
    wanted = request.plain(model)
    if folder.is_begun and restart:
        folder.clear()
    if folder.is_begun:
        _check_same(folder, wanted, request)
    else:
        folder.begin(_planned(request, wanted, model, opened, most_processes, threads))
    return Job(request, opened)


def _check_same(folder: WorkFolder, wanted: Mapping[str, Any], request: Request) -> None:
    planned = folder.plan()
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


def _planned(
    request: Request,
    wanted: Mapping[str, Any],
    model: RecurrentUpscaler,
    opened: Opened,
    most_processes: int | None,
    threads: int | None,
) -> dict[str, Any]:
    """Look the source through, and plan."""
    source, target = opened.source, opened.target
    device = next(model.parameters()).device
    kind = request.device or device.type
    rendering = Rendering(degrade=request.degrade, precision=request.precision)
    height, width = result_size(source, model, rendering)
    lr_height, lr_width = -(-height // model.scale), -(-width // model.scale)
    rendering = replace(rendering, tile=_tile(request, model, lr_height, lr_width, device, here=kind == device.type))
    stop = None if request.frames is None else request.start + request.frames
    total = None if source.count is None else min(source.count, stop or source.count) - request.start
    with Progress(total, what="looking through") as progress:
        scenes = look_through(
            source, start=request.start, stop=stop, cut=request.cut == "detected", advance=progress.advance
        )
    notes = [*opened.notes, *_damage(source)]
    for text in notes:
        say(text)
    most = request.segment_frames or plan.default_length(lr_height, lr_width, kind)
    segments = plan.segments_of(scenes, most=most)
    frames = scenes[-1].stop - scenes[0].start
    needed = 2 * state_bytes(lr_height, lr_width, model.scale) * any(segment.hands_on for segment in segments)
    if not target.is_video:
        needed += space.images_bytes(height, width, frames=frames, deep=target.deep)
    space.check_room(request.output.parent, needed, what=f"upscaling {frames} frames to {width}x{height}")
    if kind == "cpu":
        groups = len(plan.chains(segments))
        threads = request.threads or threads or _threads(model, lr_height, lr_width, frames, groups, most_processes)
        rendering = replace(rendering, threads=threads)
    return {
        "request": dict(wanted),
        "segment_frames": most,
        "segments": plan.to_plain(segments),
        "rendering": asdict(rendering),
        "target": target.to_plain(),
        "beside": opened.beside.to_plain() if opened.beside else None,
        "notes": notes,
    }


def _tile(
    request: Request, model: RecurrentUpscaler, height: int, width: int, device: torch.device, *, here: bool
) -> int | None:
    """Low-resolution pixels of a side; said where whole frames do not fit. Raises :class:`UserError` if nothing does.

    Of other machines, if the work is not done ``here``, it is not known: theirs become smaller where memory runs out.
    """
    if request.tile == "none" or (request.tile == "auto" and not here):
        return None
    if request.tile != "auto":
        return request.tile
    tile = automatic_tile(model, height, width, device=device, precision=request.precision)
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


def _threads(
    model: RecurrentUpscaler, height: int, width: int, frames: int, groups: int, most_processes: int | None
) -> int:
    """Of the network, in each of the processes that are best; said where that was measured."""
    choice = machine.choose(model, height=height, width=width, frames=frames, groups=groups, most=most_processes)
    if choice.processes > 1:
        say(machine.in_sentence(choice))
    return choice.threads
