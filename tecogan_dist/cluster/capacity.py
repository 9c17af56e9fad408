"""Whether a Ray is large enough for a run, and what its workers ask of it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RpcError

from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.connect import cluster_address, connected
from tecogan_dist.cluster.embedded import is_embedded
from tecogan_dist.cluster.shortage import MODEL, Names, advice, fits
from tecogan_dist.config.schema import Config

CLUSTER_PATIENCE = 600.0
"""Seconds that a cluster which is too small gets to grow: an autoscaler may be about to start machines."""
ASKS_FOR_ALL = 30.0
"""Seconds for which an elastic run asks the autoscaler for all its workers, then only for as many as it needs: of a
request that the cluster may not grow to, Ray's autoscaler fulfils no part."""


@dataclass(frozen=True)
class Demand:
    """What is asked of a cluster: so many trainings at a time, each of so many workers."""

    config: Config
    """A training's settings; ``config.cluster`` says what its workers take."""
    trainings: int = 1
    gpus_per_worker: float = 1.0
    """Where GPUs are used."""
    names: Names = field(default_factory=Names)
    """Of what would ask for less."""
    needs_dashboard: bool = False
    """Of a Ray that is started here. Ray Train asks it which of its starters are gone, whose workers' places it then
    gives back."""


@contextlib.contextmanager
def connected_for(demand: Demand, *, importing: Sequence[str] = ()) -> Iterator[None]:
    """:func:`connected` for training. Raises :class:`UserError` if this machine is to run it and too small.

    A cluster can shrink afterwards: nothing of ours stays on the workers' machines, and its autoscaler is asked for
    nothing any more. Ray keeps what :func:`check_cluster` asks for when the driver is gone.
    """
    cluster = demand.config.cluster
    if not ray.is_initialized() and not cluster_address(cluster.address):
        _check_machine(demand)
    # The data stream of every worker needs a CPU next to the worker's own.
    cpus = demand.trainings * cluster.workers * (cluster.cpus_per_worker + 1)
    with connected(cluster.address, cpus=cpus, dashboard=demand.needs_dashboard, importing=importing):
        # Imports Ray Data and pandas, which a command does beside the start of Ray.
        from tecogan_dist.cluster.internals.ray_data import keep_statistics_here, start_helpers_early

        if not cluster_address(cluster.address):
            if is_embedded():
                start_helpers_early()
            yield
            return
        keep_statistics_here()
        try:
            yield
        finally:
            with contextlib.suppress(RpcError):  # the cluster itself is gone
                _ask_for([], config=demand.config)


def _check_machine(demand: Demand) -> None:
    cluster, there = demand.config.cluster, os.cpu_count() or 1
    workers, cpus_per_worker, names = cluster.workers, cluster.cpus_per_worker, demand.names
    if workers * cpus_per_worker <= there:
        return
    ways = [f"use {names.workers} {there // cpus_per_worker}"] if workers > 1 and there >= cpus_per_worker else []
    ways += [f"give each worker fewer CPUs ({names.cpus} {max(1, there // workers)})"] if cpus_per_worker > 1 else []
    number = f"{workers} worker{'s' if workers > 1 else ''}"
    each = f"{cpus_per_worker} CPU{'s' if cpus_per_worker > 1 else ''}{' each' if workers > 1 else ''}"
    raise UserError(
        f"this machine has {there} CPU{'s' if there > 1 else ''} and the run asks for {number} with {each}: "
        f"{', '.join([*ways, f'or use a cluster ({names.address})'])}."
    )


def resources_per_worker(config: Config, *, use_gpu: bool, gpus: float = 1) -> dict[str, float]:
    """What Ray reserves for each worker of a run."""
    cluster = config.cluster
    return {"CPU": cluster.cpus_per_worker} | ({"GPU": gpus} if use_gpu else {}) | cluster.resources_per_worker


def check_cluster(demand: Demand) -> bool:
    """Whether GPUs are used. Raises :class:`UserError` if the cluster cannot hold the workers and does not grow."""
    cluster = demand.config.cluster
    use_gpu = cluster.device == "cuda" or (cluster.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
    bundle = resources_per_worker(demand.config, use_gpu=use_gpu, gpus=demand.gpus_per_worker)
    least = cluster.workers if cluster.min_workers is None else cluster.min_workers
    needed = demand.trainings * least
    started, before = time.monotonic(), ""
    while True:
        nodes = _nodes()
        places, there = _places(nodes, demand.config, bundle), _describe_nodes(nodes)
        if places >= needed:
            return use_gpu
        at_a_time = f"{demand.trainings} trials at a time, " if demand.trainings > 1 else ""
        sentence = (
            f"{there} cannot hold {at_a_time}{needed} workers of "
            f"{_describe(bundle, cluster.accelerator_type)}, plus one CPU per worker for data"
        )
        way_out = _advice(demand, nodes=nodes, bundle=bundle, places=places)
        waited = time.monotonic() - started
        if not cluster_address(cluster.address) or waited > CLUSTER_PATIENCE:
            raise UserError(f"{sentence}: {way_out}.")
        if not before:
            wait = f"waiting {CLUSTER_PATIENCE / 60:.0f} minutes for more machines"
            print(f"{sentence}; {wait}, and then: {way_out}", flush=True)
        elif there != before:
            print(f"now {there}, with room for {places} of {needed} workers", flush=True)
        before = there
        workers = demand.trainings * (cluster.workers if waited < ASKS_FOR_ALL else least)
        # Again and again: Ray keeps one request only, and what is left of earlier runs may replace it.
        _ask_for(_wanted(workers, demand.config, bundle), config=demand.config)
        time.sleep(2)


def _advice(demand: Demand, *, nodes: list[dict[str, float]], bundle: dict[str, float], places: int) -> str:
    cluster = demand.config.cluster
    on_cluster = bool(cluster_address(cluster.address))
    words = advice(
        nodes,
        _place(demand.config, bundle),
        places=places,
        workers=cluster.workers,
        trainings=demand.trainings,
        names=demand.names,
        on_cluster=on_cluster,
    )
    if "GPU" not in bundle and cluster.device == "auto" and on_cluster:
        words += f" or for machines with GPUs, of which there are none now ({demand.names.device} cuda)"
    return words


def _wanted(workers: int, config: Config, bundle: dict[str, float]) -> list[dict[str, float]]:
    """What an autoscaler should make room for: the workers, and on whatever machines a CPU for the stream of each."""
    return [_place(config, bundle)] * workers + [{"CPU": 1}] * workers


def _ask_for(bundles: list[dict[str, float]], *, config: Config) -> None:
    """Have the autoscaler, if the cluster has one, keep it large enough for these, and forget what it was asked for."""
    if (cluster_address(config.cluster.address) or "").startswith("ray://"):
        # Through Ray's client only the cluster's own processes can ask.
        ray.get(ray.remote(num_cpus=0)(request_resources).remote(bundles=bundles))
    else:
        request_resources(bundles=bundles)


def trainings_at_a_time(demand: Demand, *, use_gpu: bool) -> int:
    """How many trainings the cluster, as it is now, has room for."""
    bundle = resources_per_worker(demand.config, use_gpu=use_gpu, gpus=demand.gpus_per_worker)
    return _places(_nodes(), demand.config, bundle) // demand.config.cluster.workers


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _places(nodes: list[dict[str, float]], config: Config, bundle: dict[str, float]) -> int:
    """How many workers the machines have room for, next to each of which its stream needs a CPU somewhere."""
    place = _place(config, bundle)
    places = sum(fits(node, place) for node in nodes)
    cpus = int(sum(node.get("CPU", 0) for node in nodes))
    return min(places, cpus // (config.cluster.cpus_per_worker + 1))


def _place(config: Config, bundle: dict[str, float]) -> dict[str, float]:
    """What a machine must have for a worker: the bundle, and a trace of the GPU model."""
    model = config.cluster.accelerator_type
    return bundle | ({f"{MODEL}{model}": 0.001} if model else {})


def _describe_nodes(nodes: list[dict[str, float]]) -> str:
    """``2 machines with 8 CPUs and 1 GPUs``"""
    cpus, gpus = (int(sum(node.get(name, 0) for node in nodes)) for name in ("CPU", "GPU"))
    return f"{len(nodes)} machine{'s' if len(nodes) > 1 else ''} with {cpus} CPUs and {gpus} GPUs"


def _describe(bundle: dict[str, float], accelerator_type: str | None) -> str:
    """``2 CPUs and 1 GPU on A100``"""
    parts = [
        f"{count:g} {name}{'s' if name in ('CPU', 'GPU') and count != 1 else ''}" for name, count in bundle.items()
    ]
    return " and ".join(parts) + (f" on {accelerator_type}" if accelerator_type else "")
