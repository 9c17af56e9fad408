"""A whole job: one input becomes one output, in segments, so that whatever happens the same request goes on with it.

    look    decode the source once, small: scenes, the exact number of frames, damage (source.py)
    plan    segments, written to OUTPUT.unfinished beside the output with what was asked for (plan.py, folder.py)
    work    each missing segment through the network into a file, and checked (segment.py), here or by another Runner
    join    the segments, and what else the source has, into the output; checked, then put in place (placing.py)

:func:`tecogan_dist.upscaling.beginning.begin` does the first two, or finds the plan of an earlier command. What it
returns, a :class:`Job`, has the tasks that are left (:attr:`Job.todo`), in groups that may run at the same time, and a
last step (:meth:`Job.complete`). :meth:`Job.run` is all of it. A segment is done when its json is in the folder, and
any process that can write there may make it (:func:`tecogan_dist.upscaling.segment.upscale_segment`): one that has been
made elsewhere is told to :meth:`Job.done`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tecogan_dist.base.atomic import remove
from tecogan_dist.base.console import say
from tecogan_dist.base.progress import Progress
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling import placing, plan, space
from tecogan_dist.upscaling.folder import WorkFolder
from tecogan_dist.upscaling.request import Opened, Request
from tecogan_dist.upscaling.segment import Kept, Rendering, SegmentResult, SegmentTask, finish, render
from tecogan_dist.upscaling.source import stamp
from tecogan_dist.upscaling.states import is_whole
from tecogan_dist.upscaling.targets import Target
from tecogan_dist.upscaling.visible import wait_for_all
from tecogan_dist.video.reader import VideoFile


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

    def __init__(self, request: Request, opened: Opened, *, may_replace: bool) -> None:
        """Of the plan that is in the work folder; looks which segments are done. Raises :class:`UserError`.

        ``may_replace``: whether what is at the outputs' places in the end may be replaced.
        """
        self.request, self.opened = request, opened
        self.folder = folder = WorkFolder(request.output)
        planned = folder.plan()
        self.segments = plan.from_plain(planned.get("segments"), source=folder.path / "plan.json")
        self.target = Target.from_plain(planned["target"])
        self.beside = Target.from_plain(planned["beside"]) if planned["beside"] else None
        self.rendering = Rendering(**planned["rendering"])
        self.notes: list[str] = list(planned["notes"])
        self._stamp = stamp(request.source.path)
        self._may_replace = may_replace
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
        """Make what is missing, join it, put it in place; returns what could not be kept, beside :attr:`notes`.

        Raises :class:`UserError`; whatever is raised, finished segments stay for the next command.
        """
        if self.todo:
            runner(self.todo, done=self.done, advance=progress.advance, note=progress.say)
        return self.complete()

    def done(self, result: SegmentResult) -> None:
        """A segment's record is in the folder."""
        # By what is told: the record may not be seen here yet, where another machine wrote it to a network's disk.
        self._sizes[result.number] = result.size
        remove(self.folder.state(result.number))
        self._look_at_space()

    def complete(self) -> list[str]:
        """Join all segments, check the result, put it in place, and remove the folder."""
        outputs = [one for one in self._outputs(self.segments) if not self.folder.has_placed(one.path)]
        wait_for_all([file for output in outputs for file in output.files])  # joining says which is missing
        notes = placing.place(outputs, folder=self.folder)
        self.folder.clear()
        return [text for text in notes if text not in self.notes]

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
            may_replace=self._may_replace,
        )
        if request.comparison is None or self.beside is None:
            return [main]
        files = [folder.beside(one.number, self.beside.suffix) for one in segments]
        beside = placing.Output(
            path=request.comparison,
            target=self.beside,
            files=files,
            frames=frames,
            timeline=timeline,
            may_replace=self._may_replace,
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
