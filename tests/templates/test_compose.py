"""cluster/compose.yaml: its schema, what it promises, and its commands, run on two hosts as Docker would run them."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import REPOSITORY
from tests.support.training_runs import until
from tests.templates.containers import Host, two_hosts
from tests.templates.manifests import documents

FILE = REPOSITORY / "cluster" / "compose.yaml"
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["version"]


(COMPOSE,) = documents(FILE)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NODES = ("head", "worker", "worker-gpu")


def schema_check(path: Path) -> subprocess.CompletedProcess[str]:
    words = [str(Path(sys.executable).with_name("check-jsonschema")), "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*words, str(path)], capture_output=True, text=True, check=False, timeout=60)


def test_the_schema_knows_every_field(tmp_path: Path) -> None:
    done = schema_check(FILE)
    assert done.returncode == 0, done.stdout

    for good, bad in (
        ("read_only: true", "readonly: true"),
        ("service_healthy", "healthy"),
        ("retries: 3", "retry: 3"),
    ):
        planted = tmp_path / "compose.yaml"
        planted.write_text(FILE.read_text("utf-8").replace(good, bad), "utf-8")
        assert schema_check(planted).returncode != 0, bad


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_locked(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "1000:1000"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service)
    assert service["image"] == f"${{TECOGAN_IMAGE:-registry.example.com/tecogan-dist:{VERSION}-cpu}}"
    environment = service["environment"]
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_JOB_STOP_WAIT_TIME_S"] == "600"
    # From the host's environment, and an error without.
    assert re.fullmatch(r"\$\{RAY_AUTH_TOKEN:\?.+\}", environment["RAY_AUTH_TOKEN"])
    assert service.get("ports", []) == (["127.0.0.1:8265:8265"] if name == "head" else [])


def test_nodes() -> None:
    for name in NODES:
        service = SERVICES[name]
        words = service["command"]
        assert words[:2] == ["ray", "start"]
        assert "--block" in words
        assert service["healthcheck"]["retries"] >= 1
        assert name == "head" or service["depends_on"] == {"head": {"condition": "service_healthy"}}
        store = int(next(word.split("=")[1] for word in words if word.startswith("--object-store-memory=")))
        assert store < 0.9 * 1e9 * int(service["shm_size"].removesuffix("gb"))  # or Ray takes the disk
    assert "--num-cpus=0" in SERVICES["head"]["command"]
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    conditions = {name: value["condition"] for name, value in SERVICES["train"]["depends_on"].items()}
    assert conditions == {"worker": "service_healthy", "store": "service_completed_successfully"}


def test_the_video_is_that_of_kuberay_try() -> None:
    manifest = documents(REPOSITORY / "cluster" / "kuberay-try.yaml")
    script = next(document["data"]["video.py"] for document in manifest if document["kind"] == "ConfigMap")
    lines = [line for line in script.splitlines() if not line.startswith("#") and line != "import sys"]
    ours = SERVICES["video"]["command"][-1].replace('"/shared/blobs.mp4"', "sys.argv[1]")
    assert "\n".join(lines).strip() == ours.strip()
    store = next(
        container["command"]
        for document in manifest
        if document["kind"] == "RayJob"
        for container in document["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["initContainers"]
        if container["name"] == "store"
    )
    assert store == SERVICES["store"]["command"]


def healthy(host: Host, service: dict[str, Any]) -> bool:
    """What Docker would find: the service's own check, in its network."""
    kind, *words = service["healthcheck"]["test"]
    words = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
    done = subprocess.run(host.machine.on(words), capture_output=True, check=False, timeout=60)
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_trains(tmp_path: Path) -> None:
    """All services but the GPU's, in their order: with the token, as user 1000, on read-only roots."""
    environment = {**SERVICES["head"]["environment"], "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with two_hosts(tmp_path, ("head", "worker")) as (head, worker):
        assert not healthy(head, SERVICES["head"])
        with head.running(SERVICES["head"]["command"], env=environment, shm="1g") as first:
            until(lambda: healthy(head, SERVICES["head"]), "a healthy head")
            with worker.running(SERVICES["worker"]["command"], env=environment, shm="1g") as second:
                until(lambda: healthy(worker, SERVICES["worker"]), "a healthy worker")
                for node in (first, second):
                    assert not node.all("instead of /dev/shm"), node.end
                worker.run(SERVICES["video"]["command"], env=environment)
                prepared = worker.run(SERVICES["store"]["command"], env=environment)
                assert "holds 4 scenes" in prepared, prepared

                words = [*SERVICES["train"]["command"], "--steps=20", "--tracking.save-every=10"]
                done = head.run(words, env=environment, seconds=600)
                assert "trained to step 20" in done, done
                # And nothing without the token.
                stranger = environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
                with pytest.raises(AssertionError, match=r"(?i)auth|token"):
                    head.run(["ray", "job", "list", "--address=http://head:8265"], env=stranger)
        assert (tmp_path / "shared" / "frvsr" / "checkpoint_00000020").is_dir()
