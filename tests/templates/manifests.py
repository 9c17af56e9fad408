"""Kubernetes manifests read strictly: a key that nothing knows, a wrong type and a key given twice are mistakes."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.support.paths import REPOSITORY

SCHEMAS = REPOSITORY / "tests" / "reference" / "kuberay"
OF_RAY = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}


class Loader(yaml.SafeLoader):
    """YAML's safe loader, which by itself takes the last of a key's values."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value if not key.tag.endswith(":merge")]
        assert len(keys) == len(set(keys)), f"a key is there twice: {keys}"
        return super().construct_mapping(node, deep)


def documents(path: Path) -> list[dict[str, Any]]:
    """A file's documents, each with objects of its own wherever an alias stood."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(json.dumps(document)) for document in yaml.load_all(file, Loader)]


def strict(schema: Any) -> Any:
    """The schema, with objects that take no other properties than those they list."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


def ray_schema(kind: str) -> dict[str, Any]:
    """Of KubeRay's kind of object."""
    packed = (SCHEMAS / f"{OF_RAY[kind]}.v1.schema.json.gz").read_bytes()
    schema = strict(json.loads(gzip.decompress(packed)))
    assert isinstance(schema, dict)
    return schema


def check(document: dict[str, Any]) -> None:
    """Raise a ``ValidationError`` of jsonschema for a document that a Kubernetes with KubeRay would not take as it is
    meant.
    """
    if document["kind"] not in OF_RAY:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        return
    assert document["apiVersion"] == "ray.io/v1"
    jsonschema.Draft7Validator(ray_schema(document["kind"])).validate(document)
    # What the schema leaves to Kubernetes: metadata, and pods with all that Kubernetes itself demands of them.
    check({"apiVersion": "v1", "kind": "ConfigMap", "metadata": document["metadata"]})
    for template in templates(document):
        check({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"} | template.get("metadata", {}),
               "spec": template["spec"]})  # fmt: skip


def cluster_of(document: dict[str, Any]) -> dict[str, Any]:
    """The spec of the Ray cluster that a RayCluster or a RayJob makes."""
    spec = document["spec"]
    cluster = spec["rayClusterSpec"] if document["kind"] == "RayJob" else spec
    assert isinstance(cluster, dict)
    return cluster


def groups(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The head's and the workers' groups."""
    cluster = cluster_of(document)
    yield cluster["headGroupSpec"]
    yield from cluster["workerGroupSpecs"]


def templates(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All pods that the object writes out, Ray's nodes and others."""
    if document["kind"] in OF_RAY:
        yield from (group["template"] for group in groups(document))
        if "submitterPodTemplate" in document["spec"]:
            yield document["spec"]["submitterPodTemplate"]
    elif document["kind"] in ("StatefulSet", "Deployment"):
        yield document["spec"]["template"]


def containers(template: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from template["spec"].get("initContainers", [])
    yield from template["spec"]["containers"]


def changed(document: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A copy with another value at a path."""
    result = copy.deepcopy(document)
    node: Any = result
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return result
