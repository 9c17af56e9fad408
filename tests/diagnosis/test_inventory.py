"""What a machine tells of itself: this one, one without the package, and GPUs by what nvidia-smi prints."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch
from ray import cloudpickle

from tecogan_dist.diagnosis import inventory
from tecogan_dist.diagnosis.inventory import ask_nvidia_smi, disks, read_gpus, take_inventory

GPUS = """\
0, GPU-5f1c, NVIDIA H100 80GB HBM3, 81559, 523, 570.86.15, 0, Disabled
1, GPU-77aa, NVIDIA H100 80GB HBM3, 81559, 81001, 570.86.15, 3, Disabled
2, GPU-90be, NVIDIA GeForce RTX 3090, 24576, 1, 570.86.15, [N/A], [N/A]
"""
PROCESSES = """\
GPU-77aa, 4242, /usr/bin/python3, 80400
GPU-77aa, 4243, /opt/a, b/run, [N/A]
GPU-gone, 1, x, 5
"""


def test_gpus_and_their_processes_are_read() -> None:
    first, second, third = read_gpus(GPUS, PROCESSES)
    assert (first["index"], first["name"], first["megabytes"]) == (0, "NVIDIA H100 80GB HBM3", 81559)
    assert (first["driver"], first["uncorrected_ecc_errors"], first["processes"]) == ("570.86.15", 0, [])
    assert second["uncorrected_ecc_errors"] == 3
    assert second["processes"] == [
        {"pid": 4242, "name": "/usr/bin/python3", "megabytes": 80400},
        {"pid": 4243, "name": "/opt/a, b/run", "megabytes": None},
    ]
    assert third["uncorrected_ecc_errors"] is None
    assert not third["mig"]
    assert read_gpus("", "") == []


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "Failed to initialize NVML: Dr"),
        ("echo 'NVIDIA-SMI has failed because it cannot communicate with the driver' >&2; exit 9", "NVIDIA-SMI has"),
        ("exit 3", "nvidia-smi ends with status 3"),
    ],
)
def test_an_nvidia_smi_that_fails_says_why(
    script: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    gpus, told = ask_nvidia_smi()
    assert gpus == []
    assert told is not None
    assert told.startswith(problem)


def test_this_machine() -> None:
    told = take_inventory([("/tmp/not/there/yet", "a use")])
    assert told["versions"]["ray"] == ray.__version__
    assert told["versions"]["torch"] == importlib.metadata.version("torch")
    assert told["versions"]["CUDA"] == torch.version.cuda
    assert told["source_digest"] is not None
    assert told["torch_problem"] is None
    assert told["open_files"] <= told["open_files_hard"]
    assert all(0 < disk["free"] <= disk["total"] for disk in told["disks"])
    assert any("a use" in disk["use"] for disk in told["disks"])


def test_folders_on_one_disk_are_told_once(tmp_path: Path) -> None:
    (one,) = disks([(str(tmp_path), "first"), (str(tmp_path / "new"), "second")])
    assert one["use"] == "first, second"


def test_it_imports_the_standard_library_alone() -> None:
    tree = ast.parse(Path(inventory.__file__).read_text("utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)


ANSWER = """
import json, pickle, sys
sys.path.append(sys.argv[2])
kind, call = pickle.load(open(sys.argv[1], "rb"))
print(json.dumps(kind().do(call)))
"""


def test_a_machine_without_the_package_answers(tmp_path: Path) -> None:
    """As Ray carries it: by value. Without ``site`` the installed package is not found, as it is an editable one."""
    cloudpickle.register_pickle_by_value(inventory)
    try:
        (tmp_path / "call").write_bytes(cloudpickle.dumps((inventory.Probe, cloudpickle.dumps((take_inventory, [[]])))))
    finally:
        cloudpickle.unregister_pickle_by_value(inventory)
    words = [sys.executable, "-I", "-S", "-c", ANSWER, str(tmp_path / "call"), str(Path(ray.__file__).parents[1])]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=200, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["source_digest"] is None
    assert told["versions"]["ray"] == ray.__version__
