"""The KubeRay manifests: every field is known and of its type, and they say what cluster/README.md promises."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import jsonschema
import pytest

from tests.support.paths import REPOSITORY
from tests.templates import manifests
from tests.templates.manifests import changed, check, cluster_of, containers, documents, groups, templates

FOLDER = REPOSITORY / "cluster"
NAMES = ("kuberay-cluster.yaml", "kuberay-job.yaml", "kuberay-try.yaml")
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["version"]
ALL = [(name, document) for name in NAMES for document in documents(FOLDER / name)]
RAY = [pytest.param(document, id=name) for name, document in ALL if document["kind"] in manifests.OF_RAY]
EVERY = [pytest.param(document, id=f"{name}: {document['kind']}") for name, document in ALL]
PODS = [
    pytest.param(template, id=f"{name}: {document['kind']} {i}")
    for name, document in ALL
    for i, template in enumerate(templates(document))
]


def of_kind(name: str, kind: str) -> dict[str, Any]:
    return next(document for file, document in ALL if file == name and document["kind"] == kind)


def variables(container: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in container.get("env", [])}


def gigabytes(quantity: str) -> float:
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "": 1}
    match = re.fullmatch(r"(\d+)(Ki|Mi|Gi|)", quantity)
    assert match, quantity
    return int(match[1]) * units[match[2]] / 1e9


@pytest.mark.parametrize("document", EVERY)
def test_every_field_is_known(document: dict[str, Any]) -> None:
    check(document)


PLANTED: list[tuple[str, str, tuple[str | int, ...], Any]] = [
    ("kuberay-cluster.yaml", "RayCluster", ("spec", "enableInTreeAutoscalling"), True),
    ("kuberay-cluster.yaml", "RayCluster", ("spec", "autoscalerOptions", "version"), "v3"),
    ("kuberay-cluster.yaml", "RayCluster", ("spec", "authOptions", "mode"), "tokens"),
    ("kuberay-cluster.yaml", "RayCluster", ("spec", "workerGroupSpecs", 0, "maxReplicas"), "4"),
    ("kuberay-cluster.yaml", "RayCluster", ("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
    ("kuberay-cluster.yaml", "RayCluster", ("spec", "headGroupSpec", "template", "spec", "tolerationz"), []),
    ("kuberay-cluster.yaml", "RayCluster", ("metadata", "label"), {}),
    ("kuberay-cluster.yaml", "NetworkPolicy", ("spec", "ingres"), []),
    ("kuberay-cluster.yaml", "StatefulSet", ("spec", "replicas"), "one"),
    ("kuberay-job.yaml", "RayJob", ("spec", "backofLimit"), 1),
    ("kuberay-job.yaml", "RayJob", ("spec", "preRunningDeadlineSeconds"), 0),
    ("kuberay-job.yaml", "RayJob", ("spec", "submitterPodTemplate", "spec", "containers", 0, "imag"), "x"),
    ("kuberay-try.yaml", "RayJob", ("spec", "deletionStrategy", "deletionRules", 0, "policy"), "DeleteAll"),
]


@pytest.mark.parametrize(("name", "kind", "path", "value"), PLANTED, ids=[str(case[2][-1]) for case in PLANTED])
def test_a_planted_mistake_is_found(name: str, kind: str, path: tuple[str | int, ...], value: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(changed(of_kind(name, kind), path, value))


@pytest.mark.parametrize("document", RAY)
def test_ray_nodes(document: dict[str, Any]) -> None:
    cluster = cluster_of(document)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"].startswith("2.60.")  # KubeRay wants to know, for the token
    head, *workers = groups(document)
    assert head["rayStartParams"]["num-cpus"] == "0"
    # Or the ended driver of a stopped job stays a zombie, and the job "running" for all of RAY_JOB_STOP_WAIT_TIME_S.
    assert head["template"]["spec"]["shareProcessNamespace"] is True
    for group in workers:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"], group["groupName"]
    for group in (head, *workers):
        spec = group["template"]["spec"]
        (node,) = spec["containers"]
        assert variables(node)["RAY_AUTH_MODE"] == "token"
        assert variables(node)["RAY_JOB_STOP_WAIT_TIME_S"] == "600"
        assert spec["terminationGracePeriodSeconds"] >= 630
        assert not {"livenessProbe", "readinessProbe", "startupProbe"} & set(node)  # KubeRay's are better
        # KubeRay's own `ray start`, and in autoscaler v2 pods that are never restarted.
        assert not {"command", "args"} & set(node)
        assert "restartPolicy" not in spec
        assert not set(variables(node)) & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "RAY_enable_autoscaler_v2"}
        mounted = {mount["mountPath"]: mount["name"] for mount in node["volumeMounts"]}
        assert {"/tmp", "/home/ray", "/dev/shm"} <= set(mounted)
        shm = next(volume for volume in spec["volumes"] if volume["name"] == mounted["/dev/shm"])["emptyDir"]
        assert shm["medium"] == "Memory"
        store = int(group["rayStartParams"]["object-store-memory"]) / 1e9
        # With half a GB for others; more than that in /dev/shm and Ray takes the disk.
        assert store < gigabytes(shm["sizeLimit"]) < gigabytes(node["resources"]["limits"]["memory"]) / 2
        if "nvidia.com/gpu" in node["resources"]["limits"]:
            assert node["resources"]["limits"] == node["resources"]["requests"]
            assert "nvidia.com/gpu" in {toleration["key"] for toleration in spec["tolerations"]}


def test_the_cluster_that_stays() -> None:
    cluster = of_kind("kuberay-cluster.yaml", "RayCluster")["spec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    names = [group["groupName"] for group in cluster["workerGroupSpecs"]]
    assert names == ["gpu", "gpu-spot", "cpu"]
    assert all(group["idleTimeoutSeconds"] > 0 for group in cluster["workerGroupSpecs"])
    assert cluster["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is True  # the autoscaler's

    redis = of_kind("kuberay-cluster.yaml", "StatefulSet")
    service = of_kind("kuberay-cluster.yaml", "Service")
    name, port = cluster["gcsFaultToleranceOptions"]["redisAddress"].split(":")
    assert (service["metadata"]["name"], service["spec"]["ports"][0]["port"]) == (name, int(port))
    assert service["spec"]["selector"] == redis["spec"]["template"]["metadata"]["labels"]
    (container,) = redis["spec"]["template"]["spec"]["containers"]
    secret = cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]
    assert container["env"][0]["valueFrom"] == secret
    assert redis["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "data"
    for group in groups(of_kind("kuberay-cluster.yaml", "RayCluster")):
        (node,) = group["template"]["spec"]["containers"]
        secrets = {source["secretRef"]["name"]: source["secretRef"]["optional"] for source in node["envFrom"]}
        assert secrets == {"tecogan-storage": True, "tecogan-wandb": True}


@pytest.mark.parametrize("name", ["kuberay-job.yaml", "kuberay-try.yaml"])
def test_jobs_end(name: str) -> None:
    """By KubeRay's own rules (validation.go), which are not in the schema."""
    spec = of_kind(name, "RayJob")["spec"]
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["backoffLimit"] >= 1
    assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    rules = spec.get("deletionStrategy", {}).get("deletionRules", [])
    assert bool(rules) != bool(spec.get("shutdownAfterJobFinishes")), "one or the other"
    assert "ttlSecondsAfterFinished" not in spec or spec["shutdownAfterJobFinishes"]
    # One plain command, of which KubeRay makes a part of a shell's line.
    assert not re.search(r"[;&|<>$`\n'\"]", spec["entrypoint"].strip()), spec["entrypoint"]
    workers = int(re.findall(r"--cluster\.workers (\d+)", spec["entrypoint"])[0])
    trainers = [group for group in spec["rayClusterSpec"]["workerGroupSpecs"] if group["groupName"] != "cpu"]
    assert workers == sum(group["replicas"] for group in trainers or spec["rayClusterSpec"]["workerGroupSpecs"])


@pytest.mark.parametrize("template", PODS)
def test_pods_are_locked(template: dict[str, Any]) -> None:
    spec = template["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert "automountServiceAccountToken" in spec
    for volume in spec["volumes"]:
        assert "hostPath" not in volume
    for container in containers(template):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        if "tecogan-dist" in container["image"]:
            assert container["image"].removesuffix("-cpu") == f"registry.example.com/tecogan-dist:{VERSION}"


@pytest.mark.parametrize("name", NAMES)
def test_closed_to_the_world_and_without_secrets(name: str) -> None:
    for file, document in ALL:
        if file != name:
            continue
        assert document["kind"] not in ("Ingress", "Secret")
        if document["kind"] == "Service":
            assert document["spec"]["type"] == "ClusterIP"
        if document["kind"] in manifests.OF_RAY:
            head = cluster_of(document)["headGroupSpec"]
            assert head["serviceType"] == "ClusterIP"
            assert not head.get("enableIngress")
        for template in templates(document):
            for container in containers(template):
                for variable, value in variables(container).items():
                    assert value is None or not re.search("TOKEN|KEY|SECRET|PASSWORD", variable), variable
    policy = of_kind(name, "NetworkPolicy")["spec"]
    own, operator = policy["ingress"]
    assert policy["podSelector"] == {}
    assert own == {"from": [{"podSelector": {}}]}
    # One entry with both selectors: the operator's pods in its namespace, and nobody else.
    (source,) = operator["from"]
    assert set(source) == {"namespaceSelector", "podSelector"}
    assert [port["port"] for port in operator["ports"]] == [8265]


def test_versions_are_this_ones() -> None:
    for name in NAMES:
        found = re.findall(r"tecogan-dist:(\S+)", (FOLDER / name).read_text("utf-8"))
        expected = f"{VERSION}-cpu" if name == "kuberay-try.yaml" else VERSION
        assert set(found) == {expected}, name
