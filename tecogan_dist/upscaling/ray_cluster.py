"""The Ray that segments are made on: who it is, what its GPUs can do, and how many actors have room there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import RayError, RayTaskError

from tecogan_dist.base.console import printable, say
from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.connect import cluster_address, connected
from tecogan_dist.cluster.ray_errors import find_user_error
from tecogan_dist.upscaling.nodes import Gpu, gpu_here
from tecogan_dist.upscaling.ray_actors import Device, Patience, RayActors

MOST_ACTORS = 4096
"""Of a cluster, which may grow."""
CPUS_OF_ACTOR = 4
"""Where GPUs are not used: more threads for one frame pay less and less."""
ASK_SECONDS = 1.0


@dataclass(frozen=True)
class Cluster:
    """A Ray that is connected, and what an actor takes there."""

    device: Device
    cpus: int
    """Of an actor: on CPUs, the threads of its network."""
    places: int
    """Actors that it has room for as it is now."""
    gpu: Gpu | None = None
    """One of its GPUs, where actors are to have them; the others are taken to be like it."""

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
    address: str | None,
    *,
    workers: int | None,
    device: Device | Literal["auto"],
    threads: int | None = None,
    precision: str = "auto",
    codec: str | None = None,
) -> Iterator[Cluster]:
    """The Ray of this process, of the cluster at ``address``, or one that is started here.

    An actor gets a GPU, where ``device`` "auto" finds any, or else ``threads`` CPUs, by default
    :func:`cpus_of_actor`. A cluster without GPUs is asked for them by "cuda", since it may be about to grow. Then one
    of its GPUs is looked at before anything is planned: whether it works, also with ``precision`` and with the encoder
    ``codec``. Raises :class:`UserError` if no cluster answers, if it has no GPU for "cuda" for PATIENCE, or one that
    cannot be used.
    """
    if (place := cluster_address(address)) and place.startswith("ray://"):
        raise UserError(
            "work is not spread through Ray's client (ray://): give the cluster's own address, HOST:6379, on one of "
            "its machines, or hand the command in with 'tecogan submit'."
        )
    with connected(address, cpus=(workers or 1) * (threads or 1)):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if device == "cuda" and not gpus and not place:
            raise UserError("there is no CUDA device here: use --device cpu.")
        if device == "cuda" or (gpus and device != "cpu"):
            yield Cluster("cuda", 1, max(gpus, 1), look_at_gpu(precision=precision, codec=codec))
            return
        if place and device == "auto":
            say("no GPU of the cluster is up: its CPUs are used; --device cuda --workers N waits for GPUs")
        cpus = threads or cpus_of_actor(nodes, workers)
        yield Cluster("cpu", cpus, sum(int(node.get("CPU", 0)) // cpus for node in nodes))


def look_at_gpu(*, precision: str, codec: str | None) -> Gpu:
    """One of the connected Ray's GPUs, in a process of its own there, which frees it. Raises :class:`UserError`."""
    # Of its own accord Ray ends the process of a task with a GPU after one call.
    look: Any = gpu_here
    remote: Any = ray.remote(num_cpus=1, num_gpus=1)(look)
    asked = remote.remote(precision=precision, codec=codec)
    patience = Patience("a task with 1 CPU and a GPU")
    try:
        # Given up, it goes with this process's connection. Not by ray.cancel: of a task that has just ended, Ray 2.60
        # then meets an answer that it does not expect, and aborts this process (task_manager.cc, CompletePendingTask).
        while not ray.wait([asked], timeout=ASK_SECONDS)[0]:
            patience.check()
        found: Gpu = ray.get(asked)
        return found
    except RayError as error:
        user_error = find_user_error(error)
        if user_error is not None:
            raise user_error from error
        if isinstance(error, RayTaskError) and not isinstance(error.cause, (ImportError, RuntimeError)):
            raise  # a defect of ours
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UserError(
            f"the cluster's GPU cannot be used ({printable(lines[-1].rstrip('.'), limit=300)}): install on all "
            "machines what is installed here, with a torch and drivers that serve their GPUs, or use --device cpu."
        ) from error


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
