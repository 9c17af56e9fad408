"""Sources made into scenes of a clip store, in this process or by Ray tasks, with equal results.

.. code-block:: python

    store = Location.of("clips")
    with ClipStoreWriter(store) as writer:
        preparation = Preparation(load("tecogan_vimeo", downscale=2), store, writer)
        preparation.run(workers=4)
    problems = {plan.name: result.problem for plan, result in preparation.results.items() if result.problem}
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.invariants import present, require
from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.connect import cluster_address, connected
from tecogan_dist.data.clips import CLIPS, Scene, Scenes, missing_clips
from tecogan_dist.data.prepare.cutting import Event, Finished, Found, Settings, prepare_input
from tecogan_dist.data.prepare.download import Limits, Retrying
from tecogan_dist.data.prepare.inputs import Input, inputs_of
from tecogan_dist.data.prepare.plan import changed_scenes, plan_inputs, record
from tecogan_dist.data.prepare.scene_plans import InputPlan, PlannedScene
from tecogan_dist.data.prepare.sources import Source
from tecogan_dist.data.scenes import SceneMap
from tecogan_dist.data.writing import ClipStoreWriter

FIRST_SCENE = 2000
"""The original's first number."""
INPUTS_AT_A_TIME = 4
"""Where something is downloaded, or on a cluster: polite to a site. A decoder and an encoder alone use all cores."""
DRY_RUN_ATTEMPTS = 3
LOST_WORKERS = 3
"""Processes that may die while reading an input before it is given up."""


@dataclasses.dataclass
class Result:
    """What has become of an input."""

    scenes: tuple[PlannedScene, ...] | None
    """None: not known yet."""
    there: int = 0
    """Scenes that the store had before."""
    made: int = 0
    problem: str = ""
    """Why something of it is missing."""
    note: str = ""
    """What of it is not used."""

    @property
    def missing(self) -> int | None:
        """Scenes that are neither there nor made; None where it is not known how many it has."""
        return None if self.scenes is None else len(self.scenes) - self.there - self.made


class Preparation:
    """The inputs that sources stand for, on their way into a clip store. ``results`` is up to date at any time.

    Inputs are planned when this is made; :meth:`run` makes what is missing. ``writer`` is the store's; None in a dry
    run, where ``scenes`` are what the store has. ``damaged``: numbers of scenes that are to be made again, as are those
    whose clip is gone. ``downloads``: folder for what is fetched and unpacked, by default STORE/downloads, or
    ./downloads if the store is remote. ``dry_run``: only check what is remote. ``thorough``: compare every byte of the
    local inputs with what they held when their scenes were made. ``remake_changed``: where that differs, make the
    scenes again. Raises :class:`UserError` if not, if the store has other scenes of the same numbers, and if two inputs
    would have.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        store: Location,
        writer: ClipStoreWriter | None,
        *,
        first_scene: int = FIRST_SCENE,
        damaged: Collection[int] = (),
        downloads: Path | None = None,
        remove_source: bool = False,
        dry_run: bool = False,
        scenes: SceneMap | None = None,
        thorough: bool = False,
        remake_changed: bool = False,
        limits: Limits | None = None,
    ) -> None:
        require(writer is not None or dry_run, "only a dry run goes without a writer")
        store = store.absolute()  # Ray tasks have other working directories
        self._store, self._writer, self._dry_run = store, writer, dry_run
        self._known = SceneMap(Scenes.of(())) if scenes is None else scenes
        self._to_remake = set(damaged)
        self._to_remove: set[int] = set()
        """Those of ``_to_remake`` whose source has changed."""
        if writer is not None:
            self._to_remake |= missing_clips(store, writer.scenes.all()).keys()
        if downloads is None:
            downloads = store.path / "downloads" if store.is_local else Path("downloads")
        self._settings = Settings(
            store=store,
            downloads=downloads.resolve(),
            remove_source=remove_source,
            dry_run=dry_run,
            retrying=Retrying(attempts=DRY_RUN_ATTEMPTS) if dry_run else Retrying(),
            limits=limits or Limits(),
        )
        inputs = [entry for source in sources for entry in inputs_of(source) if not self._is_own_clip(entry)]
        self._look_for_changes(changed_scenes(inputs, self.scenes().all(), thorough=thorough), remake_changed)
        known = None if writer is None and not self._known else store
        plans = plan_inputs(inputs, first_number=first_scene, scenes=self.scenes(), store=known)
        self.results: dict[InputPlan, Result] = {}
        for plan in plans:
            stored = self.scenes().of(plan.numbers)
            self.results[plan] = Result(
                plan.scenes,
                there=sum(plan.is_there(planned, stored) for planned in plan.scenes or ()),
                problem=plan.problem,
                note="; ".join(filter(None, (plan.note, _unrecorded(plan, stored)))),
            )

    def scenes(self) -> SceneMap:
        """The store's scenes by number, without those that are to be made again."""
        scenes = self._known if self._writer is None else self._writer.scenes
        return scenes.without(self._to_remake)

    def _is_own_clip(self, entry: Input) -> bool:
        """Whether a pattern has met a clip of the store itself, as films/**/*.mp4 does for a store in films."""
        if not self._store.is_local or entry.source.is_remote or entry.path == entry.source.address:
            return False
        return Path(entry.path).absolute().is_relative_to(self._store.path / CLIPS)

    def _look_for_changes(self, changed: Mapping[str, list[int]], remake: bool) -> None:
        """Raise :class:`UserError` for inputs that are not what they were, if their scenes may not be made again."""
        for name, numbers in changed.items():
            if not remake:
                which = f"scene {numbers[0]}" if len(numbers) == 1 else f"scenes {numbers[0]} to {numbers[-1]}"
                raise UserError(
                    f"{name} is not what it was when {which} of the store were made of it: --remake-changed makes them "
                    "again, or put the former one back, or use another --first-scene and another name."
                )
            self._to_remove.update(numbers)
            self._to_remake.update(numbers)

    def todo(self) -> list[InputPlan]:
        """Inputs of which something is missing, or may be; in a dry run those that are remote."""
        plans = [plan for plan, result in self.results.items() if not result.problem and result.missing != 0]
        return [plan for plan in plans if plan.source.is_remote] if self._dry_run else plans

    def run(
        self,
        *,
        workers: int | None = None,
        address: str | None = None,
        watch: Callable[[InputPlan, Event], None] = lambda _plan, _event: None,
    ) -> None:
        """Make the scenes that are missing, and enter each into the index when its clip is complete.

        ``workers``: inputs at a time; 1: in this process, more: Ray tasks on the cluster at ``address`` (by default
        that of $RAY_ADDRESS, else on this machine). None: 4 if something is downloaded or on a cluster, else 1.
        ``watch`` is called for everything that happens, after it is in ``results``. Raises :class:`UserError` if all
        inputs have to stop, as for a full disk; whatever concerns one input only is in its result.
        """
        if self._to_remove and self._writer is not None:
            self._writer.remove(self._to_remove)
            self._to_remove = set()
        todo = self.todo()
        if not todo:
            return
        with self._events(todo, workers, address) as events:
            for plan, event in events:
                self._note(plan, event)
                watch(plan, event)
                if isinstance(event, Finished) and event.is_fatal:
                    raise UserError(event.problem)

    @contextlib.contextmanager
    def _events(
        self, todo: Sequence[InputPlan], workers: int | None, address: str | None
    ) -> Iterator[Iterator[tuple[InputPlan, Event]]]:
        """What happens to the inputs, here or on Ray."""
        has_ray = bool(cluster_address(address)) or ray.is_initialized()
        if workers is None:
            workers = INPUTS_AT_A_TIME if has_ray or any(plan.source.is_remote for plan in todo) else 1
        workers = min(workers, len(todo))
        if workers == 1 and not has_ray:
            with contextlib.closing(in_this_process(todo, self.scenes, self._settings)) as events:
                yield events
        else:
            with (
                connected(address, cpus=workers),
                contextlib.closing(by_ray_tasks(todo, self.scenes, self._settings, workers=workers)) as events,
            ):
                yield events

    def _note(self, plan: InputPlan, event: Event) -> None:
        """Enter what happened into the index and the results."""
        result = self.results[plan]
        if isinstance(event, Scene):
            present(self._writer, "scenes are made with a writer").enter(event)
            self._to_remake.discard(event.number)
            result.made += 1
        elif isinstance(event, Found):
            result.scenes = event.scenes
            result.there = self._count_there(plan, event.scenes) - result.made
            if event.is_certain:
                record(plan, event.scenes, self._store)
        elif isinstance(event, Finished):
            result.problem = event.problem
            result.note = event.note or result.note

    def _count_there(self, plan: InputPlan, planned_scenes: Iterable[PlannedScene]) -> int:
        scenes = self.scenes().of(plan.numbers)
        return sum(plan.is_there(planned, scenes) for planned in planned_scenes)


def in_this_process(
    plans: Sequence[InputPlan], scenes: Callable[[], SceneMap], settings: Settings
) -> Generator[tuple[InputPlan, Event]]:
    """What happens to each input, one after the other. ``scenes``: those that the index has at the time."""
    for plan in plans:
        for event in prepare_input(plan, scenes().of(plan.numbers), settings):
            yield plan, event


def by_ray_tasks(
    plans: Sequence[InputPlan], scenes: Callable[[], SceneMap], settings: Settings, *, workers: int
) -> Generator[tuple[InputPlan, Event]]:
    """What happens to the inputs, up to ``workers`` at a time, each a task of one CPU on the connected Ray.

    Downloads wait for the network and decoders take what cores there are: the CPU only bounds their number. An input
    whose process dies is started again, without the scenes that were finished.
    """
    task = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(prepare_input)
    waiting = deque((plan, 0) for plan in plans)
    running: dict[Any, tuple[InputPlan, int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                plan, lost = waiting.popleft()
                running[task.remote(plan, scenes().of(plan.numbers), settings)] = (plan, lost)
            ready: Any = ray.wait(list(running), num_returns=1)[0]
            events = ready[0]
            plan, lost = running[events]
            try:
                yield plan, ray.get(next(events))
            except StopIteration:
                del running[events]
            except ray.exceptions.RayTaskError:
                raise  # a defect of ours
            except ray.exceptions.RayError as error:
                del running[events]
                if lost + 1 < LOST_WORKERS:
                    waiting.append((plan, lost + 1))
                else:
                    reason = f"the process that read it died {LOST_WORKERS} times ({type(error).__name__})"
                    yield plan, Finished(problem=f"{reason}: is there enough memory?")
    finally:
        for events in running:
            ray.cancel(events, force=True)


def _unrecorded(plan: InputPlan, scenes: Mapping[int, Scene]) -> str:
    """A note on an input's scenes of which it is not known what they were made of; "" if there are none."""
    if plan.source.is_remote or all(scene.content is not None for scene in scenes.values()):
        return ""
    return "made by an earlier version, which did not record what it was made of: not compared"
