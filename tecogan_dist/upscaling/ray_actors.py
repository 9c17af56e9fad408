"""Workers that are actors of Ray, each with the model loaded once, on a GPU of its own or on a group of CPUs.

Only paths and small results travel. Source and work folder are on storage that all nodes share, which each actor looks
for before its first frame. Another kind of GPU or processor may give another last bit: bit-identical are actors on
machines of one kind.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError

from tecogan_dist.base.console import printable, say
from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.ray_errors import find_user_error
from tecogan_dist.upscaling.devices import device_here
from tecogan_dist.upscaling.nodes import Node, check_package, differences, node_here
from tecogan_dist.upscaling.segment import Kept, SegmentTask
from tecogan_dist.upscaling.workers import Broke, Done, Event, Failed, Lost, Noted, Ready, Workers
from tecogan_dist.upscaling.working import Order, thawed, work

PATIENCE = 600.0
"""Seconds that a cluster without room for a single actor gets to grow: an autoscaler may be about to start machines."""
SAY_SECONDS = 20.0
MOST_LOST_STARTS = 3
"""Actors, for each that there is to be, that may be lost before one was ready or made a segment."""

OURS = f"{UserError.__module__}.{UserError.__qualname__}: "
"""How a trace's last line begins whose rest is a sentence for the user."""

Device = Literal["cpu", "cuda"]


@dataclass
class Patience:
    """What waits for room on a cluster that may be about to grow."""

    wanted: str
    """What there is to be room for."""
    begun: float = field(default_factory=time.monotonic)
    has_said: bool = False

    def renew(self) -> None:
        """There was room just now."""
        self.begun, self.has_said = time.monotonic(), False

    def check(self) -> None:
        """Say that it is waited; after PATIENCE raise :class:`UserError`."""
        waited = time.monotonic() - self.begun
        if waited > PATIENCE:
            raise UserError(
                f"the cluster had no room for {self.wanted} for {PATIENCE / 60:.0f} minutes: wait until other work on "
                "it is done, or add machines."
            )
        if waited > SAY_SECONDS and not self.has_said:
            self.has_said = True
            say(f"waiting for the cluster to start {self.wanted}, {PATIENCE / 60:.0f} minutes at most")


def with_what(cpus: int, device: Device) -> str:
    """What an actor takes, in words."""
    return f"an actor with {cpus} CPU{'s' if cpus > 1 else ''}{' and a GPU' if device == 'cuda' else ''}"


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
        self._patience = Patience(with_what(cpus, device))
        self._first: Node | None = None
        self._has_told_differences = False

    @property
    def count(self) -> int:
        return self._count

    @property
    def actors(self) -> list[Any]:
        """The handles, by worker."""
        return [place.actor for _, place in sorted(self._places.items())]

    def __enter__(self) -> RayActors:
        self._shared = ray.put(self._model)
        self._patience.renew()
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
                self._compare(worker, ray.get(place.waiting))
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
        if isinstance(event, Lost):
            self._lose(worker, event)
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
        if isinstance(error, RayActorError) and error.actor_init_failed:
            self._not_started(worker, error)
            return
        is_expected = isinstance(error, RayActorError) and error.preempted
        self._lose(worker, Lost(worker, f"an actor was lost ({type(error).__name__})", is_expected=is_expected))

    def _not_started(self, worker: int, error: RayActorError) -> None:
        """Of an actor that failed in its beginning, which another one there would do again.

        Where there are others that work, they do its part. Raises :class:`UserError` where there are none.
        """
        text = f"an actor cannot be started{_where(error)} ({_reason(error)})"
        if not any(place.is_ready for place in self._places.values()):
            raise UserError(
                f"{text}: install on all machines what is installed here, with a torch and drivers that serve their "
                "GPUs, or use --device cpu."
            ) from error
        self._end(worker)
        self._events.append(Noted(worker, f"{text}: the others do its part"))

    def _lose(self, worker: int, lost: Lost) -> None:
        """Put another actor in the place of one. Raises :class:`UserError` if that has been in vain too often."""
        self._lost_starts += not lost.is_expected
        if self._lost_starts > MOST_LOST_STARTS * self._count:
            raise UserError(
                f"Ray's actors that upscale are lost again and again ({lost.reason}): look at the cluster with "
                "'tecogan doctor', free memory, or use fewer --workers."
            )
        self._end(worker)
        self._events.append(lost)
        self._start(worker)

    def _compare(self, worker: int, node: object) -> None:
        """Tell once that machines differ. Raises :class:`UserError` for another version of the package."""
        there = check_package(node)
        self._first = self._first or there
        different = differences(self._first, there)
        if different and not self._has_told_differences:
            self._has_told_differences = True
            text = f"the cluster's machines differ ({different}): the last bits depend on which of them makes a segment"
            self._events.append(Noted(worker, text))

    def _check_room(self) -> None:
        """Raise :class:`UserError` if no actor at all gets a place for long."""
        if any(place.is_ready for place in self._places.values()):
            self._patience.renew()
        else:
            self._patience.check()

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
        self._device = device_here("cuda" if device == "cuda" else "cpu", precision="auto")
        self._model = thawed(ray.get(shared[0]), self._device)
        self._kept = Kept()

    def ready(self) -> Node:
        """Return, when the model is there, what it runs on."""
        return node_here(self._device)

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


def _reason(error: RayActorError) -> str:
    """The last line of the trace in an error's text, which is what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[-1].removeprefix(OURS).rstrip(".") if lines else type(error).__name__, limit=300)


def _where(error: RayActorError) -> str:
    """On which machine, by the error's text, if that says so."""
    found = re.search(r"\bip=([0-9a-fA-F.:]+)", str(error))
    return f" on {found[1]}" if found else ""
