"""All-reduce over gloo, a process on each machine, and over NCCL, one on each GPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import tecogan_dist
from tecogan_dist.diagnosis.findings import Finding, not_checked
from tecogan_dist.diagnosis.inventory import Inventory, last_line, without_hidden_gpus
from tecogan_dist.diagnosis.machines import Answer, Machine, Machines

MEGABYTES, REPEATS = 16, 5
"""Of an all-reduce: the published generator's and flow network's gradients are 11 MB in fp32."""
SHARE = 0.8
"""Of the patience that the processes get, so that they report before the machine counts as silent."""
ADVICE = {
    "gloo": "open all ports between the machines; name their network in GLOO_SOCKET_IFNAME on each (see 'ip address')",
    "nccl": "start the nodes with NCCL_DEBUG=INFO and run again; name their network in NCCL_SOCKET_IFNAME on each",
}


class RankSettings(TypedDict):
    backend: str
    """gloo or nccl."""
    address: str
    """Of the first rank's machine, where the first rank opens ``port``."""
    port: int
    rank: int
    ranks: int
    seconds: float
    """That each operation may take."""
    megabytes: int
    repeats: int


class Measured(TypedDict):
    latency: float
    """Seconds of an all-reduce of one number; the median."""
    bandwidth: float
    """Bytes a second that each rank sends: 2 (n - 1) / n of the tensor's bytes by the seconds of the fastest of the
    large all-reduces, which NVIDIA's nccl-tests call the bus bandwidth."""
    is_right: bool
    """Every element of every sum."""


def examine_collectives(machines: Machines, inventories: Mapping[Machine, Inventory]) -> list[Finding]:
    """gloo over machines, NCCL over GPUs, where there are at least two of them."""
    there = [machine for machine in machines.answering if machine in inventories]
    findings = []
    if len(there) < 2:
        findings.append(
            not_checked("gloo", "there is one machine" if len(machines.all) == 1 else "one machine answers")
        )
    else:
        findings += _all_reduce(machines, "gloo", {machine: [None] for machine in there})
    gpus: dict[Machine, list[str | None]] = {
        machine: devices for machine in there if (devices := _devices(machine, inventories[machine]))
    }
    count = sum(map(len, gpus.values()))
    if count < 2:
        findings.append(not_checked("NCCL", "there is no GPU" if not count else "there is one GPU"))
    else:
        findings += _all_reduce(machines, "nccl", gpus)
    return findings


def _devices(machine: Machine, told: Inventory) -> list[str | None]:
    """What CUDA_VISIBLE_DEVICES takes for each of the machine's GPUs that Ray, if it is there, was told of."""
    devices: list[str | None] = [gpu["uuid"] for gpu in told["gpus"]]
    return devices if machine.gpus is None else devices[: machine.gpus]


def _all_reduce(machines: Machines, backend: str, devices: Mapping[Machine, list[str | None]]) -> list[Finding]:
    name, first = {"gloo": "gloo", "nccl": "NCCL"}[backend], next(iter(devices))
    port = machines.ask_each({first: (free_port, first.address)})[first]
    if port.problem is not None:
        return [_failed(name, backend, {first: port})]
    ranks, begun = sum(map(len, devices.values())), 0
    calls = {}
    for machine, of_machine in devices.items():
        settings: list[tuple[RankSettings, str | None]] = []
        for device in of_machine:
            one: RankSettings = {
                "backend": backend,
                "address": first.address,
                "port": port.value,
                "rank": begun,
                "ranks": ranks,
                "seconds": SHARE * machines.patience,
                "megabytes": MEGABYTES,
                "repeats": REPEATS,
            }
            settings.append((one, device))
            begun += 1
        calls[machine] = (run_ranks, settings, SHARE * machines.patience)
    answers = machines.ask_each(dict(calls))
    failed = {machine: answer for machine, answer in answers.items() if answer.problem is not None}
    if failed:
        return [_failed(name, backend, failed)]
    results: list[Measured] = [measured for answer in answers.values() for measured in answer.value]
    who = f"{ranks} GPUs" if backend == "nccl" else f"{ranks} machines"
    if not all(measured["is_right"] for measured in results):
        wrong = tuple(machine.name for machine in answers if not all(m["is_right"] for m in answers[machine].value))
        advice = "do not train on these machines: memory or network changes numbers (ECC errors, cables, driver)"
        text = f"an all-reduce over {who} gives wrong sums"
        return [Finding(status="fail", subject=name, machines=wrong, text=text, advice=advice)]
    rate, latency = min(m["bandwidth"] for m in results), max(m["latency"] for m in results)
    text = f"all-reduce over {who}: {rate / 1e9:.2f} GB/s ({MEGABYTES} MiB), {1000 * latency:.2f} ms (one number)"
    figures = {"bytes_per_second": rate, "seconds": latency, "ranks": ranks}
    return [Finding(status="ok", subject=name, text=text, figures=figures)]


def _failed(name: str, backend: str, answers: Mapping[Machine, Answer]) -> Finding:
    # All fail when one does: the reason of the first.
    names, problem = tuple(machine.name for machine in answers), next(iter(answers.values())).problem
    text = f"an all-reduce fails ({problem})"
    return Finding(status="fail", subject=name, machines=names, text=text, advice=ADVICE[backend])


def free_port(address: str) -> int:
    """A port of this address that nobody listens on at present."""
    with socket.create_server((address, 0)) as server:
        return int(server.getsockname()[1])


def run_ranks(ranks: list[tuple[RankSettings, str | None]], seconds: float) -> list[Measured]:
    """This machine's processes, each with its GPU, ended after so many seconds at the latest.

    Raises ``RuntimeError`` with the last line of one that failed.
    """
    environment = without_hidden_gpus()
    # The package may have come with a job, and the processes run elsewhere.
    place = str(Path(tecogan_dist.__path__[0]).parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [place, environment.get("PYTHONPATH")]))
    deadline, started = time.monotonic() + seconds, list[subprocess.Popen[str]]()
    try:
        for settings, device in ranks:
            own = environment if device is None else environment | {"CUDA_VISIBLE_DEVICES": device}
            words = [sys.executable, "-m", "tecogan_dist.diagnosis.collective_rank", json.dumps(settings)]
            started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own))
        results: list[Measured] = []
        for process in started:
            try:
                output, errors = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired as error:
                raise RuntimeError(f"it does not end in {seconds:.0f} s") from error
            if process.returncode:
                raise RuntimeError(last_line(errors) or f"status {process.returncode}")
            results.append(json.loads(last_line(output)))
        return results
    finally:
        for process in started:
            process.kill()
            process.wait()
