"""A cluster that grows and shrinks by itself: Ray's autoscaler with its provider of fake machines, all on this one."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

from tests.support.training_runs import RAY, RayHead, free_ports, ray_node, short_folder

MACHINES = 2
"""Most of each kind that the autoscaler starts."""
IDLE_SECONDS = 15
"""After which a machine without work is taken away."""
_MARK = "TECOGAN_TEST_CLUSTER"
"""Environment variable of all the cluster's processes, whoever started them."""
_NODE_ID = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"


@dataclass(frozen=True)
class AutoscaledCluster(RayHead):
    """Its head has no CPUs, as in ``cluster/``. Of its machines those with 2 CPUs start, those with a GPU never do."""

    mark: str

    def machines(self) -> set[str]:
        """Ids of the nodes that Ray counts as alive, without the head's."""
        with urllib.request.urlopen(f"{self.dashboard}/api/v0/nodes?limit=1000", timeout=60) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
        return {node["node_id"] for node in nodes if node["state"] == "ALIVE" and not node["is_head_node"]}

    def kill(self, machine: str) -> None:
        """SIGKILL for all processes of a machine."""
        _kill([process for process, node_id in _marked(self.mark) if node_id == machine])


@contextlib.contextmanager
def autoscaled_cluster() -> Iterator[AutoscaledCluster]:
    """A head and Ray's autoscaler, version 2. In the end all its processes are killed, the machines' too."""
    port, dashboard, agent, metrics, autoscaler = free_ports(5)
    with short_folder() as folder:
        config = folder / "cluster.yaml"
        config.write_text(yaml.safe_dump(_config(gcs_address=f"127.0.0.1:{port}")))
        words = [RAY, "start", "--head", f"--autoscaling-config={config}", f"--temp-dir={folder}", "--num-cpus=0"]
        words += ["--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-host=127.0.0.1"]
        words += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
        words += [f"--metrics-export-port={metrics}"]
        env = {
            _MARK: str(folder),
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            # By these the autoscaler knows that the head is the provider's first machine.
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            _NODE_ID: FAKE_HEAD_NODE_ID,
            # Ray's switch for laptops: fake machines listen on loopback too.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_agent_register_timeout_ms": "300000",  # its 30 s are short on a busy machine, and the raylet ends
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "AUTOSCALER_METRIC_PORT": str(autoscaler),
            "RAY_JOB_STOP_WAIT_TIME_S": "120",
        }
        try:
            with ray_node(words, env=env):
                session = (folder / "session_latest").resolve()
                yield AutoscaledCluster(f"http://127.0.0.1:{dashboard}", session, str(folder))
        finally:
            # Machines whose autoscaler is gone are nobody's children.
            _kill([process for process, _ in _marked(str(folder))])


def _config(*, gcs_address: str) -> dict[str, Any]:
    """What ``ray up`` would have made of a YAML file.

    Ray's wheels lack the defaults of the provider's short name, ``fake_multinode``: here it is named by its class.
    """
    lists = ["initialization_commands", "setup_commands", "cluster_synced_files"]
    lists += [f"{kind}_{what}" for kind in ("head", "worker") for what in ("setup_commands", "start_ray_commands")]
    cpus = {"CPU": 2, "object_store_memory": 100 * 2**20}
    # Less than Ray starts with: like a kind of machine that the cloud has run out of.
    gpu = {"CPU": 1, "GPU": 1, "object_store_memory": 1}
    return {
        "cluster_name": "fake",
        "max_workers": 2 * MACHINES,
        "idle_timeout_minutes": IDLE_SECONDS / 60,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
            "gcs_address": gcs_address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"node_config": {}, "resources": {"CPU": 0}, "max_workers": 0},
            "cpu": {"node_config": {}, "resources": cpus, "min_workers": 0, "max_workers": MACHINES},
            "gpu": {"node_config": {}, "resources": gpu, "min_workers": 0, "max_workers": MACHINES},
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        **{name: [] for name in lists},
    }


def _marked(mark: str) -> list[tuple[psutil.Process, str]]:
    """The cluster's processes, each with the id of the node that it belongs to."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            if environment.get(_MARK) == mark:
                found.append((process, environment.get(_NODE_ID, "")))
    return found


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive, f"processes that outlive SIGKILL: {alive}"
