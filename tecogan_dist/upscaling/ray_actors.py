"""Workers that are actors of Ray, each with the model loaded once, on a GPU of its own or on a group of CPUs.

Only paths and small results travel. Source and work folder are on storage that all nodes share, which each actor looks
for before its first frame. Another kind of GPU or processor may give another last bit: bit-identical are actors on
machines of one kind.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from tecogan_dist.base.console import say
from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.connect import cluster_address, connected
from tecogan_dist.cluster.ray_errors import find_user_error
from tecogan_dist.upscaling.segment import Kept, SegmentTask
from tecogan_dist.upscaling.workers import Broke, Done, Event, Failed, Lost, Ready, Workers
from tecogan_dist.upscaling.working import Order, thawed, work

MOST_ACTORS = 4096
"""Of a cluster, which may grow."""
CPUS_OF_ACTOR = 4
"""Where GPUs are not used: more threads for one frame pay less and less."""
PATIENCE = 600.0
"""Seconds that a cluster without room for a single actor gets to grow: an autoscaler may be about to start machines."""
SAY_SECONDS = 20.0
MOST_LOST_STARTS = 3
"""Actors, for each that there is to be, that may be lost before one was ready or made a segment."""

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Cluster:
    """A Ray that is connected, and what an actor takes there."""

    device: Device
    cpus: int
    """Of an actor: on CPUs, the threads of its network."""
    places: int
    """Actors that it has room for as it is now."""

    @contextlib.contextmanager
    def actors(self, model: bytes, *, workers: int | None, groups: int) -> Iterator[RayActors]:
        """``workers``, or as many as there are places, but no more than ``groups`` that can be made at the same time.

        ``model``: of :func:`tecogan_dist.upscaling.working.frozen`.
        """
        count = max(1, min(workers or max(1, self.places), groups, MOST_ACTORS))
        with RayActors(model, count=count, device=self.device, cpus=self.cpus) as actors:
            yield actors


@contextlib.contextmanager
def cluster(
    address: str | None, *, workers: int | None, device: Device | Literal["auto"], threads: int | None = None
) -> Iterator[Cluster]:
    """The Ray of this process, of the cluster at ``address``, or one that is started here.

    An actor gets a GPU, where ``device`` "auto" finds any, or else ``threads`` CPUs, by default
    :func:`cpus_of_actor`. Raises :class:`UserError` if no cluster answers, or if it has no GPU for "cuda".
    """
    with connected(address, cpus=(workers or 1) * (threads or 1)):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if device == "cuda" and not gpus:
            raise UserError(
                "the cluster has no GPU: add machines that have, or use --device cpu."
                if cluster_address(address)
                else "there is no CUDA device here: use --device cpu."
            )
        if gpus and device != "cpu":
            yield Cluster("cuda", 1, gpus)
        else:
            cpus = threads or cpus_of_actor(nodes, workers)
            yield Cluster("cpu", cpus, sum(int(node.get("CPU", 0)) // cpus for node in nodes))


def cpus_of_actor(nodes: list[dict[str, float]], workers: int | None) -> int:
    """CPUs of each actor: as many as the smallest machine with any has, at most CPUS_OF_ACTOR; fewer if more
    ``workers`` than that makes places for are asked for.
    """
    there = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    most = min([CPUS_OF_ACTOR, *there])
    for cpus in range(most, 1, -1):
        if sum(count // cpus for count in there) >= (workers or 1):
            return cpus
    return 1


@dataclass
class _Place:
    actor: Any
    waiting: Any
    """What Ray is asked for: that the actor is ready, or the events of its task."""
    is_ready: bool = False
    is_busy: bool = False


class RayActors(Workers):
    """``count`` actors on the connected Ray. ``model``: of :func:`tecogan_dist.upscaling.working.frozen`."""

    def __init__(self, model: bytes, *, count: int, device: Device, cpus: int) -> None:
        self._count, self.device, self.cpus = count, device, cpus
        self._model = model
        self._shared: Any = None
        self._places: dict[int, _Place] = {}
        self._events: deque[Event] = deque()
        self._lost_starts = 0
        self._begun = time.monotonic()
        self._has_said = False

    @property
    def count(self) -> int:
        return self._count

    @property
    def actors(self) -> list[Any]:
        """The handles, by worker."""
        return [place.actor for _, place in sorted(self._places.items())]

    def __enter__(self) -> RayActors:
        self._shared = ray.put(self._model)
        self._begun = time.monotonic()
        try:
            for worker in range(self._count):
                self._start(worker)
        except BaseException:
            self._end_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end_all()

    def begin(self, worker: int, task: SegmentTask) -> None:
        place = self._places[worker]
        try:
            order = Order.of(task)
        except UserError as error:
            self._events.append(Failed(worker, str(error)))
            return
        place.is_busy = True
        place.waiting = place.actor.upscale.options(num_returns="streaming").remote(order)

    def stop(self, worker: int) -> None:
        self._end(worker)
        self._start(worker)

    def event(self, timeout: float) -> Event | None:
        if self._events:
            return self._events.popleft()
        asked = {place.waiting: worker for worker, place in self._places.items() if place.waiting is not None}
        if not asked:
            time.sleep(timeout)
            return None
        ready: list[Any] = ray.wait(list(asked), num_returns=1, timeout=timeout)[0]
        self._check_room()
        for waiting in ready:
            self._take(asked[waiting])
        return self._events.popleft() if self._events else None

    def _take(self, worker: int) -> None:
        place = self._places[worker]
        try:
            if not place.is_ready:
                ray.get(place.waiting)
                place.is_ready, place.waiting = True, None
                self._events.append(Ready(worker))
                return
            event: Event = ray.get(next(place.waiting))
        except StopIteration:  # after its last event, which was taken before
            place.waiting = None
            return
        except RayError as error:
            self._failed(worker, error)
            return
        if isinstance(event, (Done, Failed, Broke)):
            place.waiting, place.is_busy = None, False
            self._lost_starts = 0
        self._events.append(event)

    def _failed(self, worker: int, error: RayError) -> None:
        user_error = find_user_error(error)
        if user_error is not None:
            raise user_error from error
        if isinstance(error, RayTaskError):
            raise error  # a defect of ours
        self._lost_starts += 1
        kind = type(error).__name__
        if self._lost_starts > MOST_LOST_STARTS * self._count:
            raise UserError(
                f"Ray's actors that upscale are lost again and again ({kind}): look at the cluster with 'tecogan "
                "doctor', free memory, or use fewer --workers."
            ) from error
        self._end(worker)
        self._events.append(Lost(worker, f"an actor was lost ({kind})"))
        self._start(worker)

    def _check_room(self) -> None:
        """Raise :class:`UserError` if no actor at all gets a place for long."""
        if any(place.is_ready for place in self._places.values()):
            self._begun, self._has_said = time.monotonic(), False
            return
        waited = time.monotonic() - self._begun
        wanted = f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}{' and a GPU' if self.device == 'cuda' else ''}"
        if waited > PATIENCE:
            raise UserError(
                f"the cluster had no room for an actor with {wanted} for {PATIENCE / 60:.0f} minutes: wait until other "
                "work on it is done, or add machines."
            )
        if waited > SAY_SECONDS and not self._has_said:
            self._has_said = True
            say(f"waiting for the cluster to start an actor with {wanted}, {PATIENCE / 60:.0f} minutes at most")

    def _start(self, worker: int) -> None:
        remote: Any = ray.remote(num_cpus=self.cpus, num_gpus=1 if self.device == "cuda" else 0, max_restarts=0)(_Actor)
        # In a list it stays a reference, whose value each machine takes once.
        actor = remote.remote([self._shared], worker, self.device, self.cpus)
        self._places[worker] = _Place(actor, actor.ready.remote())

    def _end_all(self) -> None:
        for worker in list(self._places):
            self._end(worker)
        self._events.clear()

    def _end(self, worker: int) -> None:
        place = self._places.pop(worker)
        with contextlib.suppress(RayError, ValueError):
            ray.kill(place.actor)
        self._events = deque(event for event in self._events if event.worker != worker)


class _Actor:
    """The model on its device, in a process of Ray's."""

    def __init__(self, shared: list[Any], worker: int, device: str, cpus: int) -> None:
        self._worker, self._threads = worker, cpus if device == "cpu" else None
        torch.set_num_threads(cpus)
        self._model = thawed(ray.get(shared[0]), torch.device(device))
        self._kept = Kept()

    def ready(self) -> None:
        """Return when the model is there."""

    def upscale(self, order: Order) -> Generator[Event]:
        """What happens to the task, as it happens; the work itself is done in a thread."""
        events: queue.Queue[Event | None] = queue.Queue()

        def run() -> None:
            try:
                work(order, self._model, kept=self._kept, worker=self._worker, tell=events.put, threads=self._threads)
            finally:
                events.put(None)

        thread = threading.Thread(target=run, name="upscale", daemon=True)
        thread.start()
        while (event := events.get()) is not None:
            yield event
        thread.join()
