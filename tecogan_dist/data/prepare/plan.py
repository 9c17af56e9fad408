"""What there is to do for each input: the numbers of its scenes and, where they can be known, their frames.

Numbers depend on the sources and their order only, not on time or on failures. Listed scenes have consecutive numbers,
and so do those of a local video that is cut at a fixed length; an input whose scenes are known only when it has been
read keeps a range of numbers to itself; a folder ``scene_2003`` has its own.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tecogan_dist.base.documents import dump_json, parse_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import Scene
from tecogan_dist.data.index import ENCODINGS, MOST_FRAMES
from tecogan_dist.data.prepare.contents import is_same, quick_content
from tecogan_dist.data.prepare.download import is_archive
from tecogan_dist.data.prepare.inputs import Input
from tecogan_dist.data.prepare.rules import (
    cut_of,
    encoding_of_cut,
    note_of,
    open_frames,
    pairing_of,
    planned_scenes,
    ranges_of,
)
from tecogan_dist.data.prepare.scene_plans import InputPlan, PlannedScene
from tecogan_dist.data.prepare.sources import SETTINGS, is_remote, name_of, printable
from tecogan_dist.data.scenes import SceneMap
from tecogan_dist.video.formats import READABLE_SUFFIXES

RESERVED = 100
"""Numbers that an input keeps to itself if its scenes are not known beforehand and its source names no maximum."""
MOST_NUMBER = 2**63 - 1
RECORDS = "sources"
RECORD_BYTES = 2**26


def changed_scenes(inputs: Iterable[Input], scenes: Iterable[Scene], *, thorough: bool) -> dict[str, list[int]]:
    """Of every local input that does not hold any more what scenes were made of: its name, and their numbers.

    Scenes for which this was not recorded are not in it. ``thorough``: by every byte of the inputs.
    """
    plans = [
        plan
        for entry in inputs
        if not entry.problem and not is_remote(entry.path) and os.path.lexists((plan := _resolved(entry)).path)
    ]
    by_name = {plan.name: plan for plan in plans}
    contents: dict[str, dict[str, list[int]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for scene in scenes if by_name else ():
        names = scene.source.split("#")  # of an archive, what comes before a # of the source is its name
        for name in ("#".join(names[:count]) for count in range(1, len(names) + 1)):
            if scene.content is not None and name in by_name and by_name[name].holds(scene):
                contents[name][scene.content].append(scene.number)
    changed = {}
    for plan in plans:
        low_path = None if plan.lr_path is None else Path(plan.lr_path)
        numbers = [
            number
            for content, numbers in contents[plan.name].items()
            if not is_same(content, Path(plan.path), low_path, thorough=thorough)
            for number in numbers
        ]
        if numbers:
            changed[plan.name] = sorted(numbers)
    return changed


def plan_inputs(
    inputs: Iterable[Input], *, first_number: int, scenes: SceneMap, store: Location | None
) -> list[InputPlan]:
    """A plan for every input, in order.

    ``scenes``: those that the store has; ``store``: None if it does not exist yet. Raises :class:`UserError` if the
    store has other scenes of the same numbers, or if two inputs would.
    """
    plans: list[InputPlan] = []
    number = first_number
    for entry in inputs:
        plans.append(_planned(entry, number, scenes, store))
        if plans[-1].numbers.stop - 1 > MOST_NUMBER:
            raise UserError(f"{plans[-1].name} would get scenes with numbers above {MOST_NUMBER}: give smaller ones.")
        if entry.number is None:
            number = plans[-1].numbers.stop
    _check_names_and_numbers(plans)
    for plan in plans:
        there = scenes.of(plan.numbers)
        for planned in plan.scenes or ():
            plan.is_there(planned, there)
        for scene in there.values() if plan.scenes is None else ():
            if not plan.holds(scene):
                raise plan.clash(scene, plan.name)
    return plans


def _planned(entry: Input, number: int, scenes: Mapping[int, Scene], store: Location | None) -> InputPlan:
    source = entry.source
    if entry.number is not None:
        number, source = entry.number, dataclasses.replace(source, cut="whole", starts=None)
    plan = dataclasses.replace(_resolved(entry), source=source, numbers=range(number, number))
    problem = entry.problem
    if source.starts is not None and is_archive(plan.path):
        problem = f"{plan.name} is an archive: starts are those of a single video."
    video, pairing = None, ""
    if not problem and not source.is_remote and not is_archive(plan.path):
        try:
            video, low = open_frames(Path(plan.path), plan)
            pairing = "" if low is None else pairing_of(video, low)
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
        plan = dataclasses.replace(plan, numbers=numbers, scenes=cut)
        plan = dataclasses.replace(plan, note="; ".join(filter(None, (note_of(source, video, ranges), pairing))))
    elif entry.is_left_out:
        pass
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


def _resolved(entry: Input) -> InputPlan:
    """The input's name and places."""
    if is_remote(entry.path):
        return InputPlan(source=entry.source, name=name_of(entry.path), path=entry.path)
    path = _real(entry.path)
    lr_path = None if entry.lr_path is None else _real(entry.lr_path)
    return InputPlan(source=entry.source, name=printable(path), path=path, lr_path=lr_path)


def _real(path: str) -> str:
    try:
        return str(Path(path).resolve())
    except (OSError, RuntimeError):  # links in a circle, which whoever opens it reports
        return os.path.abspath(path)


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
    _record_of(plan, store).write_bytes(dump_json(tree).encode())


def _recorded(plan: InputPlan, store: Location) -> tuple[PlannedScene, ...] | None:
    """None without a record, for another version's, and for a damaged one: the input is then read again."""
    place = _record_of(plan, store)
    try:
        tree = parse_json(place.read_bytes(RECORD_BYTES), source=place)
        scenes = tuple(PlannedScene(**planned) for planned in tree.pop("scenes"))
    except (FileNotFoundError, UserError, ValueError, KeyError, TypeError, AttributeError):
        return None
    is_ours = tree in (_fingerprint(plan), _older_fingerprint(plan)) and all(map(_is_possible, scenes))
    numbers = [scene.number for scene in scenes]
    return scenes if is_ours and numbers == list(plan.numbers[: len(numbers)]) else None


def _is_possible(scene: PlannedScene) -> bool:
    numbers = (scene.number, scene.start, scene.frames)
    return (
        all(type(number) is int for number in numbers)
        and 0 <= scene.start <= MOST_FRAMES
        and 1 <= scene.frames <= MOST_FRAMES
        and isinstance(scene.video, str)
        and scene.encoding in ENCODINGS
        and isinstance(scene.is_all, bool)
    )


def _record_of(plan: InputPlan, store: Location) -> Location:
    return store / RECORDS / f"{hashlib.sha256(plan.name.encode('utf-8', 'surrogateescape')).hexdigest()[:24]}.json"


def _fingerprint(plan: InputPlan) -> dict[str, Any]:
    """All that decides the scenes, as JSON gives it back."""
    stamp = None
    if not plan.source.is_remote:
        stamp = quick_content(Path(plan.path), None if plan.lr_path is None else Path(plan.lr_path))
    return {**_settings(plan), "stamp": stamp}


def _older_fingerprint(plan: InputPlan) -> dict[str, Any]:
    """That of earlier versions."""
    stamp = None
    if not plan.source.is_remote:
        status = os.stat(plan.path)
        stamp = [status.st_size, status.st_mtime_ns]
    return {**_settings(plan), "stamp": stamp}


def _settings(plan: InputPlan) -> dict[str, Any]:
    settings = {key: getattr(plan.source, key) for key in SETTINGS}
    return {"name": plan.name, "first_number": plan.numbers.start, "settings": settings}
