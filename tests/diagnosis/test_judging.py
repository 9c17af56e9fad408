"""From what machines tell to verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from tecogan_dist.diagnosis.findings import Finding
from tecogan_dist.diagnosis.inventory import Gpu, Inventory
from tecogan_dist.diagnosis.judging import judge, judge_clocks, judge_rates
from tecogan_dist.diagnosis.machines import Machine

GB = 10**9
A = Machine(name="a", address="10.0.0.1", is_here=True, cpus=0, gpus=0, object_store=2 * GB, session="/tmp/ray/s")
B = Machine(name="b", address="10.0.0.2", cpus=16, gpus=1, object_store=9 * GB, session="/tmp/ray/s")
C = Machine(name="c", address="10.0.0.3", cpus=16, gpus=1, object_store=9 * GB, session="/tmp/ray/s")
VERSIONS: dict[str, str | None] = {
    "python": "3.12.3",
    "torch": "2.9.1",
    "deepspeed": "0.19.8",
    "ray": "2.60.0",
    "tecogan_dist": "0.1.0",
    "CUDA": "13.0",
    "cuDNN": "91300",
    "NCCL": "2.28.3",
}


def gpu(**changes: Any) -> Gpu:
    row: Any = {
        "index": 0,
        "uuid": "GPU-1",
        "name": "NVIDIA L4",
        "megabytes": 23034.0,
        "used_megabytes": 1.0,
        "driver": "570.86.15",
        "uncorrected_ecc_errors": 0.0,
        "mig": False,
        "processes": [],
        **changes,
    }
    return row


def told(*, versions: dict[str, str | None] | None = None, **changes: Any) -> Inventory:
    tree: Any = {
        "host": "x",
        "versions": VERSIONS | (versions or {}),
        "source_digest": "0123456789ab",
        "torch_problem": None,
        "torch_gpus": 1,
        "gpus": [gpu()],
        "gpu_problem": None,
        "cpus": 16,
        "memory": 30 * GB,
        "shared_memory": 16 * GB,
        "shared_memory_free": 16 * GB,
        "disks": [{"folder": "/tmp", "use": "temporary files", "total": 200 * GB, "free": 100 * GB}],
        "open_files": 65536,
        "open_files_hard": 65536,
        **changes,
    }
    return tree


HEAD = told(torch_gpus=0, gpus=[])


def worse(findings: list[Finding]) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return [(f.status, f.subject, f.text, f.machines) for f in findings if f.status in ("fail", "warn")]


def test_a_sound_cluster() -> None:
    findings = judge({A: HEAD, B: told(), C: told()})
    assert [(f.status, f.subject) for f in findings] == [
        ("ok", name) for name in ("versions", "GPUs", "shared memory", "object store", "disk", "open files")
    ]
    assert "NVIDIA driver 570.86.15: the same on 3 machines" in findings[0].text
    assert findings[1].text == "2 x NVIDIA L4 22 GiB, no ECC error, no other process"


def test_the_odd_one_out_is_named() -> None:
    findings = judge({A: HEAD, B: told(versions={"deepspeed": "9.9.9"}), C: told()})
    assert worse(findings) == [("fail", "deepspeed", "9.9.9 here, 0.19.8 on 2 others", ("b",))]
    assert "deepspeed" not in findings[1].text


def test_of_two_the_other_one_is_odd() -> None:
    findings = judge({A: HEAD, B: told(versions={"ray": "2.59.0"})})
    assert worse(findings) == [("fail", "ray", "2.59.0 here, 2.60.0 on the other", ("b",))]


def test_files_of_the_package_count_and_its_absence() -> None:
    findings = judge({A: HEAD, B: told(source_digest="ba9876543210"), C: told(source_digest=None)})
    (missing, other) = worse(findings)
    assert missing == ("fail", "tecogan_dist", "tecogan_dist is not installed", ("c",))
    assert other[2] == "0.1.0 (files ba9876543210) here, 0.1.0 (files 0123456789ab) on the other"


def test_a_package_that_came_with_a_job_has_no_version() -> None:
    with_job: dict[str, str | None] = {"tecogan_dist": None}
    assert worse(judge({B: told(versions=with_job), C: told(versions=with_job)})) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"torch_problem": "ImportError: libcudart"}, ("fail", "torch", "cannot be imported (ImportError: libcudart)")),
        ({"torch_gpus": 0}, ("fail", "GPUs", "torch can use 0 of 1 GPUs (driver 570.86.15, torch for CUDA 13.0)")),
        ({"gpu_problem": "no driver", "gpus": []}, ("fail", "GPUs", "nvidia-smi fails: no driver")),
        (
            {"gpus": [gpu(uncorrected_ecc_errors=3.0)]},
            ("fail", "GPU memory", "GPU 0 has 3 uncorrected ECC errors since the machine was started"),
        ),
        (
            {"gpus": [gpu(processes=[{"pid": 7, "name": "python", "megabytes": 900.0}])]},
            ("warn", "GPUs", "GPU 0 is used by python (process 7, 900 MiB)"),
        ),
        ({"gpus": [gpu(driver="550.1")]}, ("warn", "NVIDIA driver", "550.1 here, 570.86.15 on the other")),
        ({"shared_memory": None}, ("warn", "shared memory", "there is no /dev/shm")),
        (
            {"shared_memory": 64 * 2**20},
            ("warn", "shared memory", "/dev/shm has 67 MB, Ray's object store 9.0 GB: it is on a disk"),
        ),
        (
            {"disks": [{"folder": "/tmp", "use": "all", "total": 50 * GB, "free": GB // 2}]},
            ("fail", "disk", "500 MB free of 50.0 GB at /tmp (all)"),
        ),
        (
            {"disks": [{"folder": "/tmp", "use": "all", "total": 1000 * GB, "free": 20 * GB}]},
            (
                "fail",
                "disk",
                "20.0 GB free of 1000.0 GB at /tmp (all): Ray writes nothing to a disk that is 95% full",
            ),
        ),
        (
            {"disks": [{"folder": "/tmp", "use": "all", "total": 50 * GB, "free": 5 * GB}]},
            ("warn", "disk", "5.0 GB free of 50.0 GB at /tmp (all)"),
        ),
        ({"open_files": 1024}, ("warn", "open files", "a process may open 1024")),
    ],
)
def test_what_is_wrong_with_a_machine(changes: dict[str, Any], expected: tuple[str, str, str]) -> None:
    assert worse(judge({A: HEAD, C: told(), B: told(**changes)})) == [(*expected, ("b",))]


def test_several_gpus_need_shared_memory() -> None:
    four = [gpu(index=i, uuid=f"GPU-{i}") for i in range(4)]
    changes: dict[str, Any] = {"gpus": four, "torch_gpus": 4, "shared_memory": 64 * 2**20}
    (finding,) = worse(judge({Machine(name="d", address="", cpus=4, gpus=4, object_store=9 * GB): told(**changes)}))
    assert finding[:2] == ("fail", "shared memory")
    assert "NCCL" in finding[2]


def test_a_mixture_of_gpus_and_gpus_that_ray_does_not_know() -> None:
    two = told(gpus=[gpu(), gpu(index=1, uuid="GPU-2", name="NVIDIA A10G")], torch_gpus=2)
    first, second = worse(judge({B: two}))
    assert first[2] == "Ray was told of 1 of 2 GPUs"
    assert second[2] == "different models train together: 1 x NVIDIA L4 22 GiB, 1 x NVIDIA A10G 22 GiB"


def test_a_machine_without_ray() -> None:
    alone = Machine(name="a", address="127.0.0.1", is_here=True)
    findings = judge({alone: told(shared_memory=64 * 2**20, open_files=1024)})
    # Ray raises the limit of files itself, as far as it may.
    assert worse(findings) == [
        ("warn", "shared memory", "/dev/shm has 67 MB of 30.0 GB memory: Ray's objects go to a disk", ("a",))
    ]
    assert any(f.text == "not checked: no Ray is running here" for f in findings)


@pytest.mark.parametrize(
    ("ahead", "uncertainty", "status"),
    [(60.0, 0.01, "fail"), (-60.0, 0.01, "fail"), (5.0, 0.01, "warn"), (0.02, 0.01, "ok"), (5.0, 4.5, "ok")],
)
def test_clocks(ahead: float, uncertainty: float, status: str) -> None:
    (first,) = judge_clocks({A: (0.0001, 0.0002), B: (ahead, uncertainty)})
    assert first.status == status
    assert len(judge_clocks({A: (0.0, 0.1), B: (ahead, uncertainty), C: (0.1, 0.1)})) == 1 + (status != "ok")
    if status != "ok":
        assert f"{abs(ahead)} s {'ahead of' if ahead > 0 else 'behind'} this machine's" in first.text


def test_a_slow_one_among_others() -> None:
    def rates(*values: float) -> list[Finding]:
        named = {str(i): value for i, value in enumerate(values)}
        machines = {name: (name,) for name in named}
        return judge_rates(named, subject="storage", what="writes", show="{:.0f} MB/s".format, machines=machines)

    slow, all_of_them = rates(900, 1000, 200)
    assert (slow.status, slow.machines) == ("warn", ("2",))
    assert slow.text == "writes 200 MB/s, the median of 3 is 900 MB/s"
    assert all_of_them.text == "each writes 200 MB/s to 1000 MB/s"
    assert len(rates(1000, 200)) == 1
    assert rates(5)[0].text == "writes 5 MB/s"
