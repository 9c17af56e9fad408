"""From what machines tell of themselves to verdicts: pure functions, and the thresholds with their reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from tecogan_dist.diagnosis.findings import Finding, Status, not_checked
from tecogan_dist.diagnosis.inventory import PACKAGE, Disk, Gpu, Inventory
from tecogan_dist.diagnosis.machines import Machine

SHARED_MEMORY_SHARE = 0.3
"""Of the memory. Ray's object store, 30% of the memory by default, lives in /dev/shm if it fits, else on a disk; more
than 30% is Ray's own advice. A container gets 64 MiB unless told otherwise."""
NCCL_SHARED_MEMORY = 2**30
"""Bytes that several GPUs of a machine should find: NCCL fails in a container's 64 MiB."""
STREAM_BYTES = 600 * 2**20
"""Object store that a worker's data stream fills at the published settings: 8 decoders, each 4 tasks ahead, of 32
windows of 588 kB (tecogan_dist/data/stream/stream.py)."""
RAY_FULL = 0.95
"""Share of a disk from which on Ray writes no more objects to it (its ``local_fs_capacity_threshold``)."""
DISK_FAIL, DISK_WARN = 2**30, 10 * 2**30
"""Bytes. A checkpoint in the making takes up to 0.5 GB, logs and cached clips the rest; of a store with hundreds of
scenes the cached clips alone are some GB."""
OPEN_FILES = 8192
"""What Ray recommends at least; below 4096 it warns of connections that fail."""
CLOCK_WARN, CLOCK_FAIL = 1.0, 30.0
"""Seconds. From 1 on the lines of logs are out of order. A job's or cloud's tokens are refused when they seem to come
from the future or to be old: minutes for S3's signatures (15) and for signed tokens (often 1 to 5)."""
COMPARABLE, SLOW = 3, 1 / 3
"""So many of a kind can be compared; one is slow below this share of their median: less is chance on a busy machine."""
EXACT: dict[str, tuple[Status, str]] = {
    "python": ("fail", "use the same image, or the same python, on all nodes"),
    "torch": ("fail", "install the same torch on all nodes: one image for all"),
    "deepspeed": ("fail", "install the same deepspeed on all nodes: one image for all"),
    "ray": ("fail", "install the same ray on all nodes: one image for all"),
    PACKAGE: (
        "fail",
        "install the same tecogan_dist on all nodes, or start with 'tecogan submit', which takes it along",
    ),
    "CUDA": ("fail", "install the same build of torch on all nodes: one image for all"),
    "cuDNN": ("warn", "install the same build of torch on all nodes: one image for all"),
    "NCCL": ("fail", "install the same build of torch on all nodes: NCCL's versions do not talk to each other"),
    "NVIDIA driver": ("warn", "install the same driver on all GPU machines"),
}
"""By what differs: how bad that is, and what to do. In the order in which they are shown."""

Inventories = Mapping[Machine, Inventory]


def judge(inventories: Inventories) -> list[Finding]:
    """All verdicts on what the machines tell. There is at least one."""
    return [
        *judge_versions(inventories),
        *judge_torch(inventories),
        *judge_gpus(inventories),
        *judge_shared_memory(inventories),
        *judge_object_store(inventories),
        *judge_disks(inventories),
        *judge_open_files(inventories),
    ]


def judge_versions(inventories: Inventories) -> list[Finding]:
    """Missing packages, and what is not the same everywhere."""
    findings, same = [], []
    for name, (status, advice) in EXACT.items():
        values = {machine: _version(name, told) for machine, told in inventories.items()}
        if name in ("torch", "deepspeed", PACKAGE):
            for machine, value in values.items():
                if value is None:
                    text = f"{name} is not installed"
                    findings.append(_on(machine, "fail", name, text, advice))
        present = {machine: value for machine, value in values.items() if value is not None}
        if not present:
            continue
        usual = _usual(present)
        if len(set(present.values())) == 1:
            same.append(f"{name} {usual}")
        others = sum(value == usual for value in present.values())
        for machine, value in present.items():
            if value != usual:
                text = f"{value} here, {usual} on {_others(others)}"
                findings.append(_on(machine, status, name, text, advice, {"version": value, "usual": usual}))
    findings.append(Finding(status="ok", subject="versions", text=", ".join(same) + _everywhere(inventories)))
    return findings


def _version(name: str, told: Inventory) -> str | None:
    if name == "NVIDIA driver":
        return told["gpus"][0]["driver"] if told["gpus"] else None
    version = told["versions"].get(name)
    if name != PACKAGE:
        return version
    digest = told["source_digest"]
    # A package that came with a job is there without being installed.
    return None if digest is None else f"{version or 'uninstalled'} (files {digest})"


def _usual(values: Mapping[Machine, str]) -> str:
    """What most have; of equally many what this machine has."""
    counts = Counter(values.values())
    here = next((value for machine, value in values.items() if machine.is_here), None)
    return max(counts, key=lambda value: (counts[value], value == here))


def judge_torch(inventories: Inventories) -> list[Finding]:
    """Whether torch can be used, with all GPUs of the machine."""
    findings = []
    for machine, told in inventories.items():
        if told["torch_problem"]:
            text, advice = f"cannot be imported ({told['torch_problem']})", "install torch again: pip install torch"
            findings.append(_on(machine, "fail", "torch", text, advice))
        elif told["torch_gpus"] < len(told["gpus"]) and not any(gpu["mig"] for gpu in told["gpus"]):
            build = told["versions"]["CUDA"]
            text = f"torch can use {told['torch_gpus']} of {len(told['gpus'])} GPUs"
            why = f"driver {told['gpus'][0]['driver']}, torch for " + (f"CUDA {build}" if build else "CPUs")
            advice = "install a torch that fits the driver, or a newer driver; is CUDA_VISIBLE_DEVICES set?"
            findings.append(_on(machine, "fail", "GPUs", f"{text} ({why})", advice))
    return findings


def judge_gpus(inventories: Inventories) -> list[Finding]:
    findings: list[Finding] = []
    kinds: Counter[str] = Counter()
    for machine, told in inventories.items():
        if told["gpu_problem"]:
            advice = "mend the driver (often a reboot after its update); nvidia-smi must work there"
            findings.append(_on(machine, "fail", "GPUs", f"nvidia-smi fails: {told['gpu_problem']}", advice))
        for gpu in told["gpus"]:
            kinds[_kind(gpu)] += 1
            findings += _judge_gpu(machine, gpu)
        if machine.gpus is not None and machine.gpus < len(told["gpus"]):
            text = f"Ray was told of {machine.gpus} of {len(told['gpus'])} GPUs"
            findings.append(
                _on(machine, "warn", "GPUs", text, "start the node with the right --num-gpus, or without it")
            )
    if not kinds and not findings:
        return [Finding(status="note", subject="GPUs", text="none: training runs on CPUs")]
    if len(kinds) > 1:
        text = "different models train together: " + ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
        advice = "expect the speed of the slowest, or choose one (train's --cluster.accelerator-type)"
        findings.append(Finding(status="warn", subject="GPUs", text=text, advice=advice, figures=dict(kinds)))
    elif kinds:
        ((kind, count),) = kinds.items()
        text = f"{count} x {kind}, no ECC error, no other process" if not findings else f"{count} x {kind}"
        findings.append(Finding(status="ok", subject="GPUs", text=text, figures={kind: count}))
    return findings


def _judge_gpu(machine: Machine, gpu: Gpu) -> list[Finding]:
    findings, name = [], f"GPU {gpu['index']}"
    if gpu["uncorrected_ecc_errors"]:
        text = f"{name} has {gpu['uncorrected_ecc_errors']:.0f} uncorrected ECC errors since the machine was started"
        advice = "leave the machine out; reset the GPU or reboot, and replace it if they come back"
        findings.append(_on(machine, "fail", "GPU memory", text, advice))
    if gpu["processes"]:
        first, more = gpu["processes"][0], len(gpu["processes"]) - 1
        size = "" if first["megabytes"] is None else f", {first['megabytes']:.0f} MiB"
        text = f"{name} is used by {first['name']} (process {first['pid']}{size})" + (
            f" and {more} more" if more else ""
        )
        findings.append(_on(machine, "warn", "GPUs", text, "wait for it, end it, or train on other GPUs"))
    return findings


def _kind(gpu: Gpu) -> str:
    return gpu["name"] + ("" if gpu["megabytes"] is None else f" {gpu['megabytes'] / 1024:.0f} GiB")


def judge_shared_memory(inventories: Inventories) -> list[Finding]:
    findings, least = [], None
    for machine, told in inventories.items():
        size, share = told["shared_memory"], SHARED_MEMORY_SHARE * told["memory"]
        if size is None:
            findings.append(_on(machine, "warn", "shared memory", "there is no /dev/shm", "mount a tmpfs there"))
            continue
        advice = f"give it {gigabytes(share)} (docker run --shm-size; in Kubernetes an emptyDir of medium Memory)"
        if size < NCCL_SHARED_MEMORY and len(told["gpus"]) > 1:
            text = f"/dev/shm has {gigabytes(size)}: NCCL between the machine's GPUs fails in too little"
            findings.append(_on(machine, "fail", "shared memory", text, advice))
        elif machine.object_store is not None and size < machine.object_store:
            store = gigabytes(machine.object_store)
            text = f"/dev/shm has {gigabytes(size)}, Ray's object store {store}: it is on a disk"
            findings.append(_on(machine, "warn", "shared memory", text, advice))
        elif machine.object_store is None and size < share:
            text = f"/dev/shm has {gigabytes(size)} of {gigabytes(told['memory'])} memory: Ray's objects go to a disk"
            findings.append(_on(machine, "warn", "shared memory", text, advice))
        else:
            least = size if least is None else min(least, size)
    if least is not None:
        text = f"{gigabytes(least)}{_each(inventories)} in /dev/shm"
        findings.append(Finding(status="ok", subject="shared memory", text=text, figures={"least_bytes": least}))
    return findings


def judge_object_store(inventories: Inventories) -> list[Finding]:
    findings, least = [], None
    for machine in inventories:
        if machine.object_store is None:
            return [not_checked("object store", "no Ray is running here")]
        workers = max(1, machine.gpus or 0)
        wanted = workers * STREAM_BYTES
        if machine.object_store < wanted and (machine.cpus or machine.gpus):
            streams = "stream of a worker fills" if workers == 1 else f"streams of {workers} workers fill"
            text = f"{gigabytes(machine.object_store)}, and the data {streams} {gigabytes(wanted)}"
            advice = f"start the node with --object-store-memory={wanted}, or objects go through the disk"
            findings.append(_on(machine, "warn", "object store", text, advice))
        else:
            least = machine.object_store if least is None else min(least, machine.object_store)
    if least is not None:
        text = f"{gigabytes(least)}{_each(inventories)}"
        findings.append(Finding(status="ok", subject="object store", text=text, figures={"least_bytes": least}))
    return findings


def judge_disks(inventories: Inventories) -> list[Finding]:
    findings, least = [], None
    for machine, told in inventories.items():
        for disk in told["disks"]:
            verdict = _judge_disk(machine, disk)
            if verdict is None:
                least = disk["free"] if least is None else min(least, disk["free"])
            else:
                findings.append(verdict)
    if least is not None:
        text = f"{gigabytes(least)} free{_each(inventories)}"
        findings.append(Finding(status="ok", subject="disk", text=text, figures={"least_bytes": least}))
    return findings


def _judge_disk(machine: Machine, disk: Disk) -> Finding | None:
    free, used = disk["free"], 1 - disk["free"] / max(disk["total"], 1)
    text = f"{gigabytes(free)} free of {gigabytes(disk['total'])} at {disk['folder']} ({disk['use']})"
    advice = f"make room on the disk of {disk['folder']}, or give the machine a larger one"
    if free < DISK_FAIL:
        return _on(machine, "fail", "disk", text, advice, dict(disk))
    # Ray's threshold is about the disk of its own folder, which a machine without Ray will have there too.
    if used > RAY_FULL:
        return _on(
            machine, "fail", "disk", f"{text}: Ray writes nothing to a disk that is 95% full", advice, dict(disk)
        )
    return _on(machine, "warn", "disk", text, advice, dict(disk)) if free < DISK_WARN else None


def judge_open_files(inventories: Inventories) -> list[Finding]:
    findings, least = [], None
    for machine, told in inventories.items():
        # A Ray that is started here raises its own limit; a node's was set when it was started.
        limit = max(told["open_files"], min(told["open_files_hard"], 65536))
        limit = limit if machine.cpus is None else told["open_files"]
        if limit < OPEN_FILES:
            advice = (
                "run 'ulimit -n 65536' before 'ray start' (docker run --ulimit nofile=65536; LimitNOFILE= of a service)"
            )
            findings.append(_on(machine, "warn", "open files", f"a process may open {limit}", advice))
        else:
            least = limit if least is None else min(least, limit)
    if least is not None:
        text = f"a process may open {least}"
        findings.append(Finding(status="ok", subject="open files", text=text, figures={"least": least}))
    return findings


def judge_clocks(offsets: Mapping[Machine, tuple[float, float]]) -> list[Finding]:
    """``offsets``: seconds that a machine is ahead of this one, and how far that may be wrong."""
    findings, largest = [], 0.0
    for machine, (ahead, uncertainty) in offsets.items():
        surely = max(0.0, abs(ahead) - uncertainty)
        if surely < CLOCK_WARN:
            largest = max(largest, abs(ahead))
            continue
        text = (
            f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's (to within {uncertainty:.3f} s)"
        )
        status: Status = "fail" if surely > CLOCK_FAIL else "warn"
        advice = "run a time service (chrony, systemd-timesyncd) on every machine"
        figures = {"seconds_ahead": ahead, "uncertainty": uncertainty}
        findings.append(_on(machine, status, "clock", text, advice, figures))
    if len(findings) < sum(not machine.is_here for machine in offsets):
        worst = max(uncertainty for _, uncertainty in offsets.values())
        text = f"at most {largest:.3f} s apart (to within {worst:.3f} s)"
        findings.append(Finding(status="ok", subject="clock", text=text, figures={"seconds": largest}))
    return findings


def judge_rates(
    rates: Mapping[str, float],
    *,
    subject: str,
    what: str,
    show: Callable[[float], str],
    machines: Mapping[str, tuple[str, ...]],
) -> list[Finding]:
    """What is much slower than the others of its kind, and the range of all.

    ``rates``: a second, by a name that ``machines`` has too. ``what``: of one of them, half a sentence to go before a
    rate.
    """
    ordered = sorted(rates.values())
    median = ordered[len(ordered) // 2]
    findings = [
        Finding(
            status="warn",
            subject=subject,
            machines=machines[name],
            text=f"{what} {show(rate)}, the median of {len(rates)} is {show(median)}",
            advice="find out why, or leave it out: all wait for the slowest",
            figures={"rate": rate, "median": median},
        )
        for name, rate in rates.items()
        if len(rates) >= COMPARABLE and rate < SLOW * median
    ]
    spread = show(ordered[0]) if len(ordered) == 1 else f"{show(ordered[0])} to {show(ordered[-1])}"
    each = f"each {what}" if len(ordered) > 1 else what
    return [*findings, Finding(status="ok", subject=subject, text=f"{each} {spread}", figures={"rates": dict(rates)})]


def gigabytes(count: float) -> str:
    """``1.5 GB``, or MB where that says more."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _on(
    machine: Machine, status: Status, subject: str, text: str, advice: str, figures: Mapping[str, object] | None = None
) -> Finding:
    return Finding(
        status=status, subject=subject, machines=(machine.name,), text=text, advice=advice, figures=dict(figures or {})
    )


def _everywhere(inventories: Inventories) -> str:
    return f": the same on {len(inventories)} machines" if len(inventories) > 1 else ""


def _each(inventories: Inventories) -> str:
    return " or more" if len(inventories) > 1 else ""


def _others(count: int) -> str:
    return "the other" if count == 1 else f"{count} others"
