"""What a machine tells of itself.

The standard library only, at the top and in every function: Ray carries this module to other machines by value, so that
one that lacks this package, or has another version of it, answers too.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pickle
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from typing import Any, TypedDict

PACKAGE = "tecogan_dist"
DISTRIBUTIONS = ("torch", "deepspeed", "ray", PACKAGE)
SOURCES = (".py", ".yaml", ".html")
TORCH_SECONDS = 100.0
"""Importing torch takes 2 s from a disk, a minute from a busy network drive."""
NVIDIA_SMI_SECONDS = 60.0
GPU_FIELDS = (
    "index,uuid,name,memory.total,memory.used,driver_version,ecc.errors.uncorrected.volatile.total,mig.mode.current"
)
PROCESS_FIELDS = "gpu_uuid,pid,process_name,used_memory"
ASK_TORCH = """
import json, torch

def asked(question):
    try:
        return question()
    except Exception:
        return None

nccl = asked(lambda: ".".join(map(str, torch.cuda.nccl.version()))) if torch.version.cuda else None
print(json.dumps({
    "torch": torch.__version__,
    "cuda": torch.version.cuda,
    "cudnn": asked(torch.backends.cudnn.version),
    "nccl": nccl,
    "gpus": asked(torch.cuda.device_count) or 0,
}))
"""
"""Run in a process of its own: a broken driver can make it hang or die."""


class Gpu(TypedDict):
    """A row of nvidia-smi; megabytes are MiB, None is what it does not tell."""

    index: int
    uuid: str
    name: str
    megabytes: float | None
    used_megabytes: float | None
    driver: str
    uncorrected_ecc_errors: float | None
    """Since the machine was started; None also where the memory has no ECC or it is off."""
    mig: bool
    processes: list[GpuProcess]


class GpuProcess(TypedDict):
    pid: int
    name: str
    megabytes: float | None


class Disk(TypedDict):
    folder: str
    use: str
    total: int
    """Bytes."""
    free: int
    """Bytes that a user without privileges can still write."""


class Inventory(TypedDict):
    """All plain values."""

    host: str
    versions: dict[str, str | None]
    """By name; None: is not installed, or does not say."""
    source_digest: str | None
    """Of this package's files on that machine."""
    torch_problem: str | None
    torch_gpus: int
    """That torch can use."""
    gpus: list[Gpu]
    gpu_problem: str | None
    """Why nvidia-smi, which is there, failed."""
    cpus: int
    memory: int
    """Bytes, like the next three."""
    shared_memory: int | None
    shared_memory_free: int | None
    disks: list[Disk]
    open_files: int
    open_files_hard: int


class Probe:
    """The actor on each machine: does what it is handed."""

    def do(self, call: bytes) -> Any:
        """``call`` is a pickled (function, arguments): what cannot be unpickled here is reported like any error."""
        function, arguments = pickle.loads(call)
        return function(*arguments)


def now() -> float:
    """This machine's clock: seconds since 1970."""
    return time.time()


def take_inventory(folders: list[tuple[str, str]]) -> Inventory:
    """``folders``: further (path, use) whose disks are looked at, beside the temporary folder's."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    told, torch_problem = ask_torch()
    versions |= {"CUDA": told.get("cuda"), "cuDNN": told.get("cudnn") and str(told["cudnn"]), "NCCL": told.get("nccl")}
    gpus, gpu_problem = ask_nvidia_smi()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shared = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    return {
        "host": socket.gethostname(),
        "versions": versions,
        "source_digest": source_digest(),
        "torch_problem": torch_problem,
        "torch_gpus": told.get("gpus", 0),
        "gpus": gpus,
        "gpu_problem": gpu_problem,
        "cpus": os.cpu_count() or 1,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "shared_memory": None if shared is None else shared.f_frsize * shared.f_blocks,
        "shared_memory_free": None if shared is None else shared.f_frsize * shared.f_bavail,
        "disks": disks([(temporary_folder(), "temporary files and cached clips"), *folders]),
        "open_files": limited(soft),
        "open_files_hard": limited(hard),
    }


def temporary_folder() -> str:
    """Where Python's is meant to be; ``tempfile`` itself would pass over one that is full, and say nothing."""
    return os.environ.get("TMPDIR") or "/tmp"


def limited(number: int) -> int:
    """A limit of files; where there is none, the kernel's own."""
    return 2**20 if number == resource.RLIM_INFINITY else number


def disks(folders: list[tuple[str, str]]) -> list[Disk]:
    """Folders on the same disk are told once, with what they are for."""
    found: dict[int, Disk] = {}
    for folder, use in folders:
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder) or "/"
        device, usage = os.stat(folder).st_dev, shutil.disk_usage(folder)
        if device in found:
            found[device]["use"] += f", {use}"
        else:
            found[device] = {"folder": folder, "use": use, "total": usage.total, "free": usage.free}
    return list(found.values())


def source_digest() -> str | None:
    """The first 12 digits of a SHA-256 over the files of this package, if it can be imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    root, digest = spec.submodule_search_locations[0], hashlib.sha256()
    paths = [
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(SOURCES)
    ]
    for path in sorted(paths):
        with open(os.path.join(root, path), "rb") as file:
            digest.update(path.encode() + b"\0" + hashlib.sha256(file.read()).digest())
    return digest.hexdigest()[:12]


def without_hidden_gpus() -> dict[str, str]:
    """The environment, in which Ray hides all GPUs from a task that reserves none."""
    environment = dict(os.environ)
    if not environment.get("CUDA_VISIBLE_DEVICES"):
        environment.pop("CUDA_VISIBLE_DEVICES", None)
    return environment


def ask_torch() -> tuple[dict[str, Any], str | None]:
    """What torch tells, and what is wrong with it."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", ASK_TORCH],
            capture_output=True,
            text=True,
            timeout=TORCH_SECONDS,
            check=False,
            env=without_hidden_gpus(),
        )
    except subprocess.TimeoutExpired:
        return {}, f"it cannot be imported in {TORCH_SECONDS:.0f} s"
    if asked.returncode:
        return {}, last_line(asked.stderr) or f"it ends with status {asked.returncode}"
    return json.loads(asked.stdout.splitlines()[-1]), None


def ask_nvidia_smi() -> tuple[list[Gpu], str | None]:
    """The machine's GPUs, and why they cannot be told; none of either where there is no nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], None
    texts = []
    for question in (f"--query-gpu={GPU_FIELDS}", f"--query-compute-apps={PROCESS_FIELDS}"):
        try:
            asked = subprocess.run(
                [program, question, "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                timeout=NVIDIA_SMI_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return [], f"nvidia-smi does not answer in {NVIDIA_SMI_SECONDS:.0f} s"
        if asked.returncode:
            return [], last_line(asked.stdout + asked.stderr) or f"nvidia-smi ends with status {asked.returncode}"
        texts.append(asked.stdout)
    return read_gpus(*texts), None


def read_gpus(gpus: str, processes: str) -> list[Gpu]:
    """From what nvidia-smi prints for ``GPU_FIELDS`` and ``PROCESS_FIELDS`` as CSV without header and units."""
    found: dict[str, Gpu] = {}
    for row in csv.reader(gpus.splitlines(), skipinitialspace=True):
        index, uuid, name, total, used, driver, ecc, mig = (word.strip() for word in row)
        found[uuid] = {
            "index": int(index),
            "uuid": uuid,
            "name": name,
            "megabytes": number(total),
            "used_megabytes": number(used),
            "driver": driver,
            "uncorrected_ecc_errors": number(ecc),
            "mig": mig == "Enabled",
            "processes": [],
        }
    for row in csv.reader(processes.splitlines(), skipinitialspace=True):
        # A process's name may hold commas.
        uuid, pid, *name_words, memory = (word.strip() for word in row)
        if uuid in found:
            process: GpuProcess = {"pid": int(pid), "name": ", ".join(name_words), "megabytes": number(memory)}
            found[uuid]["processes"].append(process)
    return list(found.values())


def number(word: str) -> float | None:
    """None for ``[N/A]``, ``[Not Supported]`` and the like."""
    try:
        return float(word)
    except ValueError:
        return None


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
