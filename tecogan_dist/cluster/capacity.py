"""Whether a Ray is large enough for a run, and what its workers ask of it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import ray
import ray.autoscaler.sdk

from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.connect import cluster_address, connected
from tecogan_dist.config.schema import Config

CLUSTER_PATIENCE = 600.0
"""Seconds that a cluster which is too small gets to grow: an autoscaler may be about to start machines."""


@contextlib.contextmanager
def connected_for(config: Config) -> Iterator[None]:
    """:func:`connected` for a training run. Raises :class:`UserError` if this machine is to run it and too small."""
    cluster = config.cluster
    if not ray.is_initialized() and not cluster_address(cluster.address):
        _check_machine(config)
    # The data stream of every worker needs a CPU next to the worker's own.
    with connected(cluster.address, cpus=cluster.workers * (cluster.cpus_per_worker + 1)):
        yield


def _check_machine(config: Config) -> None:
    workers, cpus_per_worker, there = config.cluster.workers, config.cluster.cpus_per_worker, os.cpu_count() or 1
    if workers * cpus_per_worker > there:
        raise UserError(
            f"this machine has {there} CPUs and the run asks for {workers} workers with {cpus_per_worker} each: use "
            f"--cluster.workers {max(1, there // cpus_per_worker)}, fewer CPUs for each (--cluster.cpus-per-worker 1), "
            "or a cluster (--cluster.address)."
        )


def resources_per_worker(config: Config, *, use_gpu: bool) -> dict[str, float]:
    """What Ray reserves for each worker of a run."""
    cluster = config.cluster
    return {"CPU": cluster.cpus_per_worker} | ({"GPU": 1} if use_gpu else {}) | cluster.resources_per_worker


def check_cluster(config: Config) -> bool:
    """Whether the run uses GPUs. Raises :class:`UserError` if the cluster cannot hold its workers and does not grow."""
    cluster = config.cluster
    use_gpu = cluster.device == "cuda" or (cluster.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
    bundle = resources_per_worker(config, use_gpu=use_gpu)
    kind = {f"accelerator_type:{cluster.accelerator_type}": 0.001} if cluster.accelerator_type else {}
    needed = cluster.workers if cluster.min_workers is None else cluster.min_workers
    started = time.monotonic()
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        places = sum(
            min(int(node.get(name, 0) // count) for name, count in (bundle | kind).items() if count) for node in nodes
        )
        # Next to each worker its stream needs a CPU somewhere.
        cpus = int(sum(node.get("CPU", 0) for node in nodes))
        if places >= needed and cpus >= needed * (cluster.cpus_per_worker + 1):
            return use_gpu
        sentence = (
            f"{len(nodes)} machine{'s' if len(nodes) > 1 else ''} with {cpus} CPUs and "
            f"{int(sum(node.get('GPU', 0) for node in nodes))} GPUs cannot hold {needed} workers of "
            f"{_describe(bundle, cluster.accelerator_type)}, plus one CPU per worker for data"
        )
        advice = f"ask for fewer (--cluster.workers {max(1, min(places, cpus // (cluster.cpus_per_worker + 1)))})"
        if use_gpu:
            advice += " or train without GPUs (--cluster.device cpu)"
        if not cluster_address(cluster.address) or time.monotonic() - started > CLUSTER_PATIENCE:
            raise UserError(f"{sentence}: {advice}.")
        if time.monotonic() - started < 1:
            print(f"{sentence}; waiting {CLUSTER_PATIENCE / 60:.0f} minutes for more machines, or {advice}", flush=True)
            ray.autoscaler.sdk.request_resources(bundles=[bundle] * needed)
        time.sleep(2)


def _describe(bundle: dict[str, float], accelerator_type: str | None) -> str:
    """``2 CPUs and 1 GPU on A100``"""
    parts = [
        f"{count:g} {name}{'s' if name in ('CPU', 'GPU') and count != 1 else ''}" for name, count in bundle.items()
    ]
    return " and ".join(parts) + (f" on {accelerator_type}" if accelerator_type else "")
