"""The files for ``ray up``: Ray's own code takes them, and each is what the issue asks of it."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import ray.autoscaler._private as ray_autoscaler
import yaml
from botocore.exceptions import ParamValidationError
from jsonschema import ValidationError
from moto import mock_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.local.config import LOCAL_CLUSTER_NODE_TYPE
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from tests.support.paths import REPOSITORY

CLOUDS = ["aws", "gcp", "azure"]
KINDS = [*CLOUDS, "onprem"]
GROUPS = {"gpu", "gpu-spot", "cpu"}
AZURE_TEMPLATES = Path(ray_autoscaler.__path__[0]) / "_azure"
EVERYBODY = re.compile(r"0\.0\.0\.0|::/0")
SECRET = re.compile(r"AKIA|PRIVATE KEY|ghp_|hf_[A-Za-z]|[0-9a-f]{32}|(?i:password|secret|_key|token)\s*[:=]\s*[\w'\"]")


def read(kind: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "cluster" / f"{kind}.yaml").read_text("utf-8"))


def as_ray_takes_it(config: dict[str, Any]) -> dict[str, Any]:
    """The config as ``ray up`` fills it out and checks it."""
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def commands(config: dict[str, Any]) -> Iterator[str]:
    """Every shell command in a config."""
    for name, value in config.items():
        if name.endswith("_commands"):
            yield from value
    for group in config.get("available_node_types", {}).values():
        yield from commands(group)


def is_spot(kind: str, group: dict[str, Any]) -> bool:
    """Whether the group's machines are spot machines, in the words of their cloud."""
    machine = group["node_config"]
    if kind == "aws":
        return machine.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    if kind == "gcp":
        return machine.get("scheduling", {}).get("provisioningModel") == "SPOT"
    return machine["azure_arm_parameters"].get("priority") == "Spot"


@pytest.mark.parametrize("kind", KINDS)
def test_ray_takes_it(kind: str) -> None:
    prepared = as_ray_takes_it(read(kind))
    taken = AutoscalingConfig(copy.deepcopy(prepared), skip_content_hash=True)  # the head's, autoscaler v2
    assert taken.get_max_num_worker_nodes() == prepared["max_workers"] > 0
    assert (taken.get_idle_timeout_s() or 0) > 0
    # Ray's own lists would install Ray.
    assert not prepared["setup_commands"] + prepared["head_setup_commands"] + prepared["worker_setup_commands"]


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        ("", {"idle_timeout_minute": 10}),
        ("", {"max_workers": "8"}),
        ("docker", {"imagge": "x"}),
        ("auth", {"ssh_usr": "ubuntu"}),
        ("available_node_types/gpu", {"min_worker": 1}),
        ("available_node_types/gpu", {"resources": {"CPU": -1}}),
    ],
)
@pytest.mark.parametrize("kind", CLOUDS)
def test_ray_refuses_planted_mistakes(kind: str, place: str, wrong: dict[str, Any]) -> None:
    config = read(kind)
    node = config
    for name in filter(None, place.split("/")):
        node = node[name]
    node.update(wrong)
    with pytest.raises(ValidationError):
        as_ray_takes_it(config)


@pytest.mark.parametrize("kind", CLOUDS)
def test_groups(kind: str) -> None:
    prepared = as_ray_takes_it(read(kind))
    groups = dict(prepared["available_node_types"])
    head = groups.pop(prepared["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert set(groups) == GROUPS
    for name, group in groups.items():
        raw = read(kind)["available_node_types"][name]
        assert 0 <= raw["min_workers"] < raw["max_workers"] <= prepared["max_workers"]
        assert group["resources"].get("GPU", 0) == (0 if name == "cpu" else 1)
        assert group["resources"]["CPU"] > 0
        assert is_spot(kind, group) == (name == "gpu-spot")
        options = group["docker"]["worker_run_options"]
        assert ("--gpus=all" in options) == (name != "cpu")
        assert any(re.fullmatch(r"--shm-size=\d+g", option) for option in options)
    spot, usual = groups["gpu-spot"], groups["gpu"]
    assert spot["priority"] > usual["priority"]
    # But for that they are the same machine.
    for name in ("InstanceMarketOptions", "scheduling"):
        for group in (spot, usual):
            group["node_config"].pop(name, None)
    for name in ("priority", "billingProfile"):
        spot["node_config"].get("azure_arm_parameters", {}).pop(name, None)
    assert spot["node_config"] == usual["node_config"]


def test_on_premises_there_is_one_group_whose_head_does_no_training() -> None:
    prepared = as_ray_takes_it(read("onprem"))
    (group,) = prepared["available_node_types"].values()
    assert prepared["head_node_type"] == LOCAL_CLUSTER_NODE_TYPE
    assert 0 < group["min_workers"] <= group["max_workers"] == len(prepared["provider"]["worker_ips"])
    assert "--num-gpus=0" in prepared["head_start_ray_commands"][-1]
    assert "RAY_enable_autoscaler_v2=0" in prepared["head_start_ray_commands"][-1]  # test_ray_up_runs.py says why


@pytest.mark.parametrize("kind", KINDS)
def test_start_commands(kind: str) -> None:
    config = read(kind)
    head, worker = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    for start in (head[-1], worker[-1]):
        variables = "export RAY_AUTH_MODE=token RAY_JOB_STOP_WAIT_TIME_S=600; ulimit -n 65536; "
        assert start.removeprefix("export RAY_enable_autoscaler_v2=0; ").startswith(f"{variables}ray start --")
    for word in ("--head", "--num-cpus=0", "--dashboard-host=127.0.0.1"):
        assert word in head[-1].split()
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head[-1]
    assert '--address="$RAY_HEAD_IP:6379"' in worker[-1]
    assert "--dashboard-host" not in worker[-1]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    if kind != "onprem":
        assert config["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("kind", KINDS)
def test_image_is_of_this_version_and_the_same_everywhere(kind: str) -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    docker = read(kind)["docker"]
    assert docker["image"] == f"registry.example.com/tecogan-dist:{version}"
    assert not {"head_image", "worker_image"} & set(docker)
    assert any(option.startswith("--shm-size=") for option in docker["head_run_options"])


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_is_in_it_and_nobody_is_let_in(kind: str) -> None:
    text = (REPOSITORY / "cluster" / f"{kind}.yaml").read_text("utf-8")
    values = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert not SECRET.search(values.replace("ssh_private_key: ~/.ssh/", "").replace("~/.ray/auth_token", ""))
    assert not EVERYBODY.search(text)
    assert SECRET.search("aws_secret_access_key: abc")
    assert SECRET.search("RAY_AUTH_TOKEN=" + 16 * "0f")


@pytest.mark.parametrize("kind", KINDS)
def test_shell_commands(kind: str) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    for command in commands(read(kind)):
        # RAY_HEAD_IP: Ray exports it before.
        words = [str(shellcheck), "--shell=bash", "--exclude=SC2154", "-"]
        done = subprocess.run(words, input=f"{command}\n", capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout


def test_aws_starts_these_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's provider for AWS, as it is, with moto for AWS: what it asks for, and that it opens no port."""
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray puts its SSH key there
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    prepared = as_ray_takes_it(read("aws"))
    with mock_aws():
        ec2 = boto3.client("ec2", prepared["provider"]["region"])
        network = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        group = ec2.create_security_group(GroupName="tecogan", Description="-", VpcId=network)["GroupId"]
        boto3.client("iam").create_instance_profile(InstanceProfileName="tecogan")
        for node_type in prepared["available_node_types"].values():
            assert node_type["node_config"]["SecurityGroupIds"] == ["sg-00000000000000000"]
            node_type["node_config"]["SecurityGroupIds"] = [group]
        config = AWSNodeProvider.bootstrap_config(prepared)
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name, node_type in config["available_node_types"].items():
            tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: name}
            provider.create_node(node_type["node_config"], tags, 1)
        machines = [one for some in ec2.describe_instances()["Reservations"] for one in some["Instances"]]
        named = {{tag["Key"]: tag["Value"] for tag in one["Tags"]}[TAG_RAY_USER_NODE_TYPE]: one for one in machines}
        assert set(named) == GROUPS | {"head"}
        assert [name for name, one in named.items() if one.get("InstanceLifecycle") == "spot"] == ["gpu-spot"]
        for one in machines:
            assert [have["GroupId"] for have in one["SecurityGroups"]] == [group]
            assert one["ImageId"].startswith("resolve:ssm:/aws/service/")
        assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"] == []
        machine = config["available_node_types"]["gpu"]["node_config"] | {"InstanceTyp": "g6.4xlarge"}
        with pytest.raises(ParamValidationError, match="InstanceTyp"):
            provider.create_node(machine, tags, 1)


def test_azure_knows_the_machines_settings() -> None:
    template = json.loads((AZURE_TEMPLATES / "azure-vm-template.json").read_text("utf-8"))
    filled_in_by_ray = {"vmName", "vmTags", "vmCount", "provisionPublicIp", "msi", "nsg", "subnet"}
    allowed = {*template["parameters"], "availability_zone"} - filled_in_by_ray - {"adminUsername", "publicKey"}
    config = read("azure")
    for group in config["available_node_types"].values():
        assert set(group["node_config"]) == {"azure_arm_parameters"}
        assert set(group["node_config"]["azure_arm_parameters"]) <= allowed
    # Only the head has a public address, and what the file says of Ray's rule for SSH is still so.
    assert config["provider"]["use_internal_ips"]
    assert config["provider"]["use_external_head_ip"]
    network = json.loads((AZURE_TEMPLATES / "azure-config-template.json").read_text("utf-8"))
    (rules,) = [one["properties"]["securityRules"] for one in network["resources"] if "securityRules" in str(one)]
    (rule,) = rules
    assert (rule["name"], rule["properties"]["destinationPortRange"]) == ("SSH", "22")
    assert rule["properties"]["sourceAddressPrefix"] == "*"


def test_google_knows_the_machines_settings() -> None:
    # Of Compute Engine's API v1: instances.insert. Its own library is not installed here.
    machine = {"machineType", "disks", "networkInterfaces", "serviceAccounts", "scheduling"}
    disk = {"diskSizeGb", "diskType", "sourceImage"}
    plan = {"provisioningModel", "instanceTerminationAction", "onHostMaintenance"}
    config = read("gcp")
    zone, project = config["provider"]["availability_zone"], config["provider"]["project_id"]
    for name, group in config["available_node_types"].items():
        node = group["node_config"]
        assert set(node) <= machine
        assert set(node.get("scheduling", {})) <= plan
        (boot,) = node["disks"]
        assert set(boot) == {"boot", "autoDelete", "initializeParams"}
        assert set(boot["initializeParams"]) == disk
        assert f"/{zone}/" in boot["initializeParams"]["diskType"]
        assert "/family/" in boot["initializeParams"]["sourceImage"]
        # With a network of its own everywhere, Ray does not look for one, and would find `default`.
        assert node["networkInterfaces"][0]["subnetwork"].startswith(f"projects/{project}/")
        assert ("serviceAccounts" in node) == (name != "head")
        if "GPU" in group["resources"]:
            assert node["scheduling"]["onHostMaintenance"] == "TERMINATE"
