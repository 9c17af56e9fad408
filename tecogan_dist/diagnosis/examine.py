"""The whole examination, part by part."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.capacity import Demand, connected_for
from tecogan_dist.cluster.shortage import Names
from tecogan_dist.config.schema import Config
from tecogan_dist.data.clips import ClipStore
from tecogan_dist.data.stream.fits import check_scenes
from tecogan_dist.data.stream.windows import window_config
from tecogan_dist.diagnosis.collectives import examine_collectives
from tecogan_dist.diagnosis.decoding import examine_decoding
from tecogan_dist.diagnosis.findings import Finding, in_order, not_checked
from tecogan_dist.diagnosis.inventory import Inventory, now, take_inventory
from tecogan_dist.diagnosis.judging import judge, judge_clocks
from tecogan_dist.diagnosis.machines import Machine, Machines
from tecogan_dist.diagnosis.network import examine_network
from tecogan_dist.diagnosis.storage_speed import examine_storage, remove_folder
from tecogan_dist.diagnosis.trial_training import examine_training, make_store, trial_config

NAMES = Names(
    workers="--workers",
    cpus="cluster.cpus_per_worker of --config",
    resources="cluster.resources_per_worker of --config",
    device="in --config cluster.device",
    model="cluster.accelerator_type of --config",
    address="--address",
)
ROUND_TRIPS = 5
"""Of which the quickest tells a clock best."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be examined besides the machines themselves."""

    address: str | None = None
    """Of the cluster that they are, as the user gave it."""
    storage: Location | None = None
    data: Location | None = None
    config: Config | None = None
    train: bool = False
    workers: int | None = None
    """None: a worker on each GPU, or on CPUs one on each machine and at least 2."""


def examine(machines: Machines, request: Request, *, say: Say) -> tuple[list[Finding], dict[str, dict[str, Any]]]:
    """All findings, worst first, and what each machine told of itself. ``say`` is told what is being measured.

    Raises :class:`UserError` for a request that makes no sense for these machines. What it writes is removed again.
    """
    data = window_config(request.config or Config())
    scene = None
    if request.data is not None:
        scenes = ClipStore.open(request.data).scenes
        check_scenes(scenes, data)
        scene = scenes[len(scenes) // 2]
    count = len(machines.all)
    if request.train and count > 1 and request.storage is None:
        raise UserError(f"--train on {count} machines needs --storage: a folder that all share, s3:// or gs://.")
    of_all = "of this machine" if count == 1 else f"of {count} machines"

    say(f"versions, GPUs, memory, disks {of_all}")
    findings, inventories = _inventories(machines)
    if machines.answering:
        findings += _clocks(machines)
        with _scratch(request.storage, machines, say) as folder:
            if request.storage is None:
                findings.append(not_checked("storage", "no --storage was given"))
            else:
                say(f"the speed of {request.storage}")
                findings += examine_storage(machines, request.storage, folder)
            say("decoding")
            findings += examine_decoding(machines, data, store=request.data, scene=scene)
            if len(machines.answering) > 1:
                say("bandwidth and latency between the machines")
            findings += examine_network(machines)
            if len(machines.answering) > 1 or any(len(told["gpus"]) > 1 for told in inventories.values()):
                say("all-reduce")
            findings += examine_collectives(machines, inventories)
            findings += _training(machines, request, inventories, findings, folder=folder, say=say)
    by_name: dict[str, dict[str, Any]] = {machine.name: dict(told) for machine, told in inventories.items()}
    return in_order(findings), by_name


def _inventories(machines: Machines) -> tuple[list[Finding], dict[Machine, Inventory]]:
    calls = {
        machine: (take_inventory, [(machine.session, "Ray's logs and objects")] if machine.session else [])
        for machine in machines.answering
    }
    findings, inventories = [], dict[Machine, Inventory]()
    for machine, answer in machines.ask_each(dict(calls)).items():
        if answer.problem is None:
            inventories[machine] = answer.value
            continue
        advice = "look there whether it and its raylet run (logs/raylet.out in Ray's folder), and start the node again"
        findings.append(
            Finding(status="fail", subject="answer", machines=(machine.name,), text=answer.problem, advice=advice)
        )
    if inventories:
        findings += judge(inventories)
    # What follows is this package's own code.
    machines.answering = [m for m in machines.answering if m in inventories and inventories[m]["source_digest"]]
    return findings, inventories


def _clocks(machines: Machines) -> list[Finding]:
    if len(machines.answering) < 2:
        return [not_checked("clock", "there is no other machine to compare with")]
    best: dict[Machine, tuple[float, float]] = {}
    for _ in range(ROUND_TRIPS):
        for machine, answer in machines.ask(now).items():
            half = (answer.received - answer.sent) / 2
            if answer.problem is None and (machine not in best or half < best[machine][1]):
                best[machine] = answer.value - answer.sent - half, half
    return judge_clocks(best)


def _training(
    machines: Machines,
    request: Request,
    inventories: dict[Machine, Inventory],
    findings: list[Finding],
    *,
    folder: Location,
    say: Say,
) -> list[Finding]:
    if not request.train:
        return [not_checked("training", "no --train was given")]
    if len(machines.answering) < len(machines.all):
        return [not_checked("training", "a machine does not answer, and Ray would put a worker there")]
    if any(finding.subject == "storage" and finding.status == "fail" for finding in findings):
        return [not_checked("training", "the storage fails")]
    if all(machine.cpus == 0 for machine in machines.all):
        text = "no machine that takes work is up: an autoscaler starts them when a run asks, and ends idle ones"
        advice = "give a group of workers a minimum for as long as you examine, or come while a run keeps them up"
        return [Finding(status="fail", subject="training", text=text, advice=advice)]
    wanted = request.config.cluster if request.config is not None else Config().cluster
    gpus = sum(
        min(told["torch_gpus"], len(told["gpus"]) if machine.gpus is None else machine.gpus)
        for machine, told in inventories.items()
    )
    use_gpu = wanted.device == "cuda" or (wanted.device == "auto" and gpus > 0)
    workers = request.workers or (
        gpus if use_gpu and gpus else _cpu_workers(machines, inventories, wanted.cpus_per_worker)
    )
    config = trial_config(request.config, workers=workers, address=request.address)
    say(f"20 training steps on {workers} worker{'s' if workers > 1 else ''}, and the same on one")
    store = request.data
    if store is None:
        store = folder / "store"
        make_store(store, config)
    demand = Demand(config, names=NAMES)
    # In this order: Ray sets its own when a cluster is joined.
    with connected_for(demand), interrupted_by_sigterm():
        return examine_training(config, store=store, folder=folder, use_gpu=use_gpu)


def _cpu_workers(machines: Machines, inventories: dict[Machine, Inventory], cpus_per_worker: int) -> int:
    """One on each machine that works, at least 2, as far as there are CPUs."""
    working = [machine for machine in machines.all if machine.cpus != 0]
    if working[0].cpus is None:  # no Ray yet: the data's CPU is only a number for its scheduler
        room = inventories[working[0]]["cpus"] // cpus_per_worker
    else:
        room = sum(machine.cpus or 0 for machine in working) // (cpus_per_worker + 1)
    return max(1, min(max(2, len(working)), room))


@contextlib.contextmanager
def _scratch(storage: Location | None, machines: Machines, say: Say) -> Iterator[Location]:
    """A folder of an own name in the storage, or in the temporary folder, which is not made yet; removed at the end."""
    name = f"tecogan_doctor_{uuid.uuid4().hex[:12]}"
    folder = (Location(str(Path(tempfile.gettempdir()))) if storage is None else storage) / name
    try:
        yield folder
    finally:
        try:
            remove_folder(folder)
        except (OSError, UserError) as error:
            say(f"warning: {folder} cannot be removed ({error}): remove it yourself")
        if folder.is_local and len(machines.all) > 1:
            machines.ask(remove_folder, folder)  # where it is not the same storage after all


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM (``ray job stop``) as Ctrl-C, so that what was written is removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
