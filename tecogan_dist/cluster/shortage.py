"""What a Ray lacks for a run, in words, and what to ask for instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Node = Mapping[str, float]
MODEL = "accelerator_type:"
"""How Ray marks a machine with a GPU's model."""


@dataclass(frozen=True)
class Names:
    """Of the options, or keys of a file, by which a command's user asks for less."""

    workers: str = "--cluster.workers"
    cpus: str = "--cluster.cpus-per-worker"
    resources: str = "--cluster.resources-per-worker"
    device: str = "--cluster.device"
    model: str = "--cluster.accelerator-type"
    address: str = "--cluster.address"
    trainings: str = ""
    """So many at a time; empty: the command has only one."""


def fits(node: Node, place: Node) -> int:
    """How many of ``place``, what a worker reserves, a machine has room for."""
    return min(int(node.get(name, 0) / count + 1e-9) for name, count in place.items() if count)


def advice(
    nodes: Sequence[Node], place: Node, *, places: int, workers: int, trainings: int, names: Names, on_cluster: bool
) -> str:
    """What to do where ``trainings`` of ``workers`` each find only ``places``: half a sentence, without a full stop."""
    if not any(fits(node, place) for node in nodes):
        return _missing(nodes, place, names=names, on_cluster=on_cluster)
    if places < 1:  # a machine could take a worker, and then none has a CPU left for its data
        return (
            f"no CPU is left for a worker's data: give each worker fewer ({names.cpus}), or add a machine"
            if place.get("CPU", 1) > 1
            else "no CPU is left for a worker's data: add a machine, which needs no GPU"
        )
    if trainings > 1 and places >= workers:
        text = f"ask for fewer ({names.trainings} {places // workers})"
    else:
        text = f"ask for fewer ({names.workers} {places})"
    return f"{text} or train without GPUs ({names.device} cpu)" if "GPU" in place else text


def _missing(nodes: Sequence[Node], place: Node, *, names: Names, on_cluster: bool) -> str:
    """What no machine has, whose absence no smaller number of workers mends."""
    best = {name: max((node.get(name, 0) for node in nodes), default=0) for name in place}
    more = "add one" if on_cluster else f"use a cluster that has one ({names.address})"
    lacking = [name for name, count in place.items() if best[name] + 1e-9 < count]
    name = next((name for name in ("GPU", *lacking) if name in lacking), None)
    if name is None:
        together = " and ".join(_said(name, count) for name, count in place.items())
        return f"no single machine has {together}: {more}, or ask for less of them"
    if name == "GPU":
        return f"no machine has a GPU that Ray knows of: {more}, or train without ({names.device} cpu)"
    if name.startswith(MODEL):
        there = sorted({key.removeprefix(MODEL) for node in nodes for key in node if key.startswith(MODEL)})
        found = f", but {', '.join(there)}" if there else ""
        return f"no machine has a GPU of the model {name.removeprefix(MODEL)}{found}: {more}, or change {names.model}"
    if name == "CPU" and best[name] < 1:
        return f"no machine that takes work is up: {more}"
    if name == "CPU":
        return f"no machine has {place[name]:g} CPUs: give each worker {best[name]:g} at most ({names.cpus}), or {more}"
    return f"no machine has {_said(name, place[name])}: {more}, or change {names.resources}"


def _said(name: str, count: float) -> str:
    if name.startswith(MODEL):
        return name.removeprefix(MODEL)
    return f"{count:g} {name}{'s' if name in ('CPU', 'GPU') and count != 1 else ''}"
