"""The task for SkyPilot, as far as it can be judged without SkyPilot, which wants other versions of packages than ours.

By hand the file went through SkyPilot 0.14's own ``Task.from_yaml``, and its ``run`` used SkyPilot's ``start_cluster``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tecogan_dist.commands.train import parse
from tests.support.paths import REPOSITORY

TASK: dict[str, Any] = yaml.safe_load((REPOSITORY / "cluster" / "skypilot.yaml").read_text("utf-8"))
KEYS = {
    "": "name workdir num_nodes resources file_mounts setup run envs secrets volumes config",
    "resources": "infra accelerators cpus memory instance_type use_spot job_recovery disk_size disk_tier network_tier "
    "local_disk max_hourly_cost ports image_id labels autostop any_of ordered",
    "resources/job_recovery": "strategy max_restarts_on_errors recover_on_exit_codes",
}
"""What SkyPilot 0.14 knows (sky/utils/schemas.py); it refuses other names."""
START = """#!/bin/bash
echo "start_cluster $RAY_AUTH_MODE $RAY_AUTH_TOKEN $RAY_HEAD_PORT $RAY_DASHBOARD_HOST $RAY_JOB_STOP_WAIT_TIME_S"
"""
PYTHON = """#!/bin/bash
printf 'python %s\\n' "$*"
"""


@pytest.mark.parametrize("place", KEYS)
def test_keys_are_known(place: str) -> None:
    node = TASK
    for name in filter(None, place.split("/")):
        node = node[name]
    assert set(node) <= set(KEYS[place].split())


def test_the_task() -> None:
    assert TASK["num_nodes"] == 2
    resources = TASK["resources"]
    assert re.fullmatch(r"[A-Z]\w+:\d", resources["accelerators"])
    assert resources["use_spot"] is True
    assert resources["job_recovery"]["strategy"] in ("EAGER_NEXT_REGION", "FAILOVER")
    assert "ports" not in resources
    assert TASK["secrets"] == {"RAY_AUTH_TOKEN": None}  # without a value it has to be given
    assert TASK["envs"]["RAY_AUTH_MODE"] == "token"
    assert TASK["envs"]["RAY_JOB_STOP_WAIT_TIME_S"] == "600"
    assert all(isinstance(value, str) for value in TASK["envs"].values())
    code = re.sub(r"#.*", "", TASK["setup"] + TASK["run"])
    assert "ray stop" not in code
    assert "ray start" not in code
    assert "~/sky_templates/ray/start_cluster" in code


@pytest.mark.parametrize("name", ["setup", "run"])
def test_shellcheck(name: str) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    # SC1090, SC1091: what is sourced exists there only.
    words = [str(shellcheck), "--shell=bash", "--exclude=SC1090,SC1091", "-"]
    done = subprocess.run(words, input=TASK[name], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def run(home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The task's ``run`` on one machine, with stand-ins for SkyPilot's script and for python."""
    for name, text in (
        ("sky_templates/ray/start_cluster", START),
        ("tecogan/bin/python", PYTHON),
        ("tecogan/bin/activate", f'PATH="{home}/tecogan/bin:$PATH"\n'),
    ):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    given = {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "RAY_AUTH_TOKEN": "of-a-test",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "4",
    }
    words = ["bash", "-c", TASK["run"]]
    return subprocess.run(words, env=TASK["envs"] | given | env, capture_output=True, text=True, timeout=60)


def test_the_first_machine_trains(tmp_path: Path) -> None:
    done = run(tmp_path, SKYPILOT_NODE_RANK="0", OPTIONS="--batch-size 8 --loss.adversarial 0.005")
    assert done.returncode == 0, done.stderr
    started, trained = done.stdout.splitlines()
    assert started == "start_cluster token of-a-test 6379 127.0.0.1 600"
    words = trained.split()
    assert words[:3] == ["python", "-m", "tecogan_dist.train"]
    options, config = parse(words[3:])
    assert options.output == "s3://films/frvsr"
    assert (config.cluster.address, config.cluster.workers, config.batch_size) == ("10.0.0.1:6379", 8, 8)
    assert "of-a-test" not in trained


def test_the_others_only_join(tmp_path: Path) -> None:
    done = run(tmp_path, SKYPILOT_NODE_RANK="1")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["start_cluster"]


def test_without_a_token_nothing_starts(tmp_path: Path) -> None:
    done = run(tmp_path, SKYPILOT_NODE_RANK="0", RAY_AUTH_TOKEN="")
    assert done.returncode == 1
    assert "launch with --secret RAY_AUTH_TOKEN" in done.stderr
    assert not done.stdout
