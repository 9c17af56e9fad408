"""What there is to do for each input: the numbers of its scenes and, where they can be known, their frames.

Numbers depend on the sources and their order only, not on time or on failures. Listed scenes have consecutive numbers,
and so do those of a local video that is cut at a fixed length; an input whose scenes are known only when it has been
read keeps a range of numbers to itself; a folder ``scene_2003`` has its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import Scene
from tecogan_dist.data.prepare.download import is_archive
from tecogan_dist.data.prepare.inputs import Input, inputs_of
from tecogan_dist.data.prepare.rules import cut_of, encoding_of_cut, note_of, open_frames, planned_scenes, ranges_of
from tecogan_dist.data.prepare.scene_plans import InputPlan, PlannedScene
from tecogan_dist.data.prepare.sources import SETTINGS, Source, is_remote, name_of, printable
from tecogan_dist.video.formats import READABLE_SUFFIXES

RESERVED = 100
"""Numbers that an input keeps to itself if its scenes are not known beforehand and its source names no maximum."""
RECORDS = "sources"


def plan_inputs(
    sources: Iterable[Source], *, first_number: int, scenes: Mapping[int, Scene], store: Location | None
) -> list[InputPlan]:
    """A plan for every video, folder of frames, archive and URL that the sources stand for, in order.

    ``scenes``: those that the store has; ``store``: None if it does not exist yet. Raises :class:`UserError` if the
    store has other scenes of the same numbers, or if two inputs would.
    """
    plans: list[InputPlan] = []
    number = first_number
    for source in sources:
        for entry in inputs_of(source):
            plans.append(_planned(entry, number, scenes, store))
            if entry.number is None:
                number += len(plans[-1].numbers)
    _check_names_and_numbers(plans)
    for plan in plans:
        for planned in plan.scenes or ():
            plan.is_there(planned, scenes)
        for number in plan.numbers if plan.scenes is None else ():
            if number in scenes and scenes[number].source.partition("#")[0] != plan.name.partition("#")[0]:
                raise plan.clash(scenes[number], plan.name)
    return plans


def _planned(entry: Input, number: int, scenes: Mapping[int, Scene], store: Location | None) -> InputPlan:
    source = entry.source
    if entry.number is not None:
        number, source = entry.number, dataclasses.replace(source, cut="whole", starts=None)
    if is_remote(entry.path):
        plan = InputPlan(source=source, name=name_of(entry.path), path=entry.path)
    else:
        path = Path(entry.path).resolve()
        lr_path = None if entry.lr_path is None else str(Path(entry.lr_path).resolve())
        plan = InputPlan(source=source, name=printable(str(path)), path=str(path), lr_path=lr_path)
    problem = entry.problem
    if source.starts is not None and is_archive(plan.path):
        problem = f"{plan.name} is an archive: starts are those of a single video."
    video = None
    if not problem and not source.is_remote and not is_archive(plan.path):
        try:
            video = open_frames(Path(plan.path), plan)[0]
        except UserError as error:
            problem = str(error)
    if source.starts is not None:
        listed = tuple(
            PlannedScene(
                number=number + index, start=start, frames=source.scene_length, encoding=encoding_of_cut(source)
            )
            for index, start in enumerate(source.starts)
        )
        plan = dataclasses.replace(plan, numbers=range(number, number + len(listed)), scenes=listed)
    elif video is not None and cut_of(source, video) != "detected":
        ranges = ranges_of(source, video)
        cut = planned_scenes(source, number, [("", video, ranges)])
        numbers = range(number, number + len(cut))
        plan = dataclasses.replace(plan, numbers=numbers, scenes=cut, note=note_of(source, video, ranges))
    elif video is None and problem and not _will_be_detected(plan):
        # The input cannot say how many scenes it has, but the store may know how many there were.
        last = number
        while last in scenes and scenes[last].source == plan.name:
            last += 1
        plan = dataclasses.replace(plan, numbers=range(number, last))
    else:
        plan = dataclasses.replace(plan, numbers=range(number, number + (source.maximum_scenes or RESERVED)))
        if store is not None and not problem:
            plan = dataclasses.replace(plan, scenes=_recorded(plan, store))
    return dataclasses.replace(plan, problem=printable(problem))


def _will_be_detected(plan: InputPlan) -> bool:
    """Whether an input that cannot be opened now is cut by what is detected when it can be."""
    is_video = Path(plan.path).suffix.lower() in READABLE_SUFFIXES
    return is_archive(plan.path) or plan.source.cut == "detected" or (plan.source.cut is None and is_video)


def _check_names_and_numbers(plans: Sequence[InputPlan]) -> None:
    names: set[str] = set()
    owners: dict[int, str] = {}
    for plan in plans:
        if plan.problem:
            continue
        if plan.name in names:
            raise UserError(f"{plan.name} is given twice: give each source once.")
        names.add(plan.name)
        for number in plan.numbers:
            if number in owners:
                raise UserError(
                    f"scene {number} would be made of {owners[number]} and of {plan.name}: use another --first-scene, "
                    "or two commands."
                )
            owners[number] = plan.name


def record(plan: InputPlan, scenes: Sequence[PlannedScene], store: Location) -> None:
    """Keep what was found out by reading an input, so that a later run knows without reading it whether it is done."""
    tree = {**_fingerprint(plan), "scenes": [dataclasses.asdict(planned) for planned in scenes]}
    _record_of(plan, store).write_bytes(json.dumps(tree, indent=1).encode())


def _recorded(plan: InputPlan, store: Location) -> tuple[PlannedScene, ...] | None:
    try:
        tree = json.loads(_record_of(plan, store).read_bytes())
        scenes = tuple(PlannedScene(**planned) for planned in tree.pop("scenes"))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # none, or another version's
    return scenes if tree == _fingerprint(plan) else None


def _record_of(plan: InputPlan, store: Location) -> Location:
    return store / RECORDS / f"{hashlib.sha256(plan.name.encode()).hexdigest()[:24]}.json"


def _fingerprint(plan: InputPlan) -> dict[str, Any]:
    """All that decides the scenes, as JSON gives it back."""
    stamp = None
    if not plan.source.is_remote:
        status = os.stat(plan.path)
        stamp = [status.st_size, status.st_mtime_ns]
    settings = {key: getattr(plan.source, key) for key in SETTINGS}
    return {"name": plan.name, "first_number": plan.numbers.start, "stamp": stamp, "settings": settings}
