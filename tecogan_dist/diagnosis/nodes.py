"""The nodes of the connected Ray cluster: an actor on each, which does what it is handed."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tecogan_dist.cluster.ray_errors import find_user_error
from tecogan_dist.diagnosis import inventory
from tecogan_dist.diagnosis.machines import NO_ANSWER, Answer, Machine, Machines, in_words


class Nodes(Machines):
    """Every node that Ray takes for alive."""

    def __init__(self, machines: dict[Machine, str], *, patience: float) -> None:
        super().__init__(list(machines), patience=patience)
        # 0 CPUs: the head, on which nothing else may run, answers too, and so does a node that is busy.
        kind = ray.remote(num_cpus=0)(inventory.Probe)
        self._probes: dict[Machine, Any] = {
            machine: kind.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
            for machine, node in machines.items()
        }

    def close(self) -> None:
        """End the actors, also those that never began."""
        for probe in self._probes.values():
            ray.kill(probe)

    def _ask(self, calls: dict[Machine, tuple[Any, ...]]) -> dict[Machine, Answer]:
        asked: dict[Any, tuple[Machine, float]] = {}
        for machine, (function, *arguments) in calls.items():
            call = cloudpickle.dumps((function, arguments))
            sent = time.time()
            asked[self._probes[machine].do.remote(call)] = machine, sent
        answers: dict[Machine, Answer] = {}
        deadline = time.monotonic() + self.patience
        while asked and (left := deadline - time.monotonic()) > 0:
            for reference in ray.wait(list(asked), timeout=left)[0]:
                received = time.time()
                machine, sent = asked.pop(reference)
                answers[machine] = _answer(reference, sent=sent, received=received)
        for machine, _ in asked.values():
            answers[machine] = Answer(problem=NO_ANSWER.format(self.patience), is_silent=True)
        return answers


def _answer(reference: Any, *, sent: float, received: float) -> Answer:
    try:
        return Answer(value=ray.get(reference, timeout=30), sent=sent, received=received)
    except GetTimeoutError:
        return Answer(problem="its answer does not arrive", is_silent=True)
    except RayTaskError as error:
        cause = find_user_error(error) or error.cause
        return Answer(problem=in_words(cause if isinstance(cause, BaseException) else error))
    except RayError as error:
        kind = type(error).__name__
        return Answer(problem=f"Ray takes it for dead, or its process died there ({kind})", is_silent=True)


@contextlib.contextmanager
def nodes_of_cluster(*, patience: float) -> Iterator[Nodes]:
    """The connected cluster's. Code of :mod:`inventory` travels by value from now on."""
    cloudpickle.register_pickle_by_value(inventory)
    nodes = Nodes(_machines(), patience=patience)
    try:
        yield nodes
    finally:
        nodes.close()
        cloudpickle.unregister_pickle_by_value(inventory)


def dead_nodes() -> list[str]:
    """Addresses of nodes that the cluster once had and lost, or let go."""
    return sorted(node["NodeManagerAddress"] for node in ray.nodes() if not node["Alive"])


def _machines() -> dict[Machine, str]:
    """Each with its node's id, this process's own first."""
    here = ray.get_runtime_context().get_node_id()
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"] != here)
    hosts = Counter(node["NodeManagerHostname"] for node in alive)
    machines = {}
    for node in alive:
        host, identity, resources = node["NodeManagerHostname"], node["NodeID"], node["Resources"]
        # Several nodes on one host are told apart by what Ray calls them.
        name = host if hosts[host] == 1 else f"{host}/{identity[:6]}"
        machine = Machine(
            name=name,
            address=node["NodeManagerAddress"],
            is_here=identity == here,
            cpus=int(resources.get("CPU", 0)),
            gpus=int(resources.get("GPU", 0)),
            object_store=int(resources.get("object_store_memory", 0)),
            # .../session_*/sockets/plasma_store
            session=str(PurePosixPath(node["ObjectStoreSocketName"]).parents[1]),
        )
        machines[machine] = identity
    return machines
