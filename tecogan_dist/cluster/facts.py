"""What the machines of the connected Ray are, and where Ray serves what it measures of each."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ray
from ray.exceptions import RayError

from tecogan_dist.cluster.shortage import MODEL

GIB = 2**30


def nodes() -> list[dict[str, Any]]:
    """Those that are alive, this process's own first; none if Ray does not tell.

    Each has ``name`` (its host's, with the beginning of the node's id where a host has several), ``address``, ``cpus``,
    ``gpus``, ``gpu_model`` (Ray's name, empty without GPUs), ``memory_gib`` that Ray may give away, and ``metrics``,
    the address of its measurements in Prometheus' format, empty if there is none.
    """
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]
        here = ray.get_runtime_context().get_node_id()
    except (RayError, RuntimeError):
        return []
    hosts = Counter(node["NodeManagerHostname"] for node in alive)
    found = []
    for node in sorted(alive, key=lambda node: (node["NodeID"] != here, node["NodeManagerHostname"], node["NodeID"])):
        host, identity, resources = node["NodeManagerHostname"], node["NodeID"], node["Resources"]
        address, port = node["NodeManagerAddress"], node.get("MetricsExportPort") or 0
        place = f"[{address}]" if ":" in address else address
        found.append(
            {
                "name": host if hosts[host] == 1 else f"{host}-{identity[:6]}",
                "address": address,
                "cpus": int(resources.get("CPU", 0)),
                "gpus": int(resources.get("GPU", 0)),
                "gpu_model": next((name.removeprefix(MODEL) for name in resources if name.startswith(MODEL)), ""),
                "memory_gib": round(resources.get("memory", 0) / GIB, 1),
                "metrics": f"http://{place}:{port}/metrics" if port else "",
            }
        )
    return found
