"""What a machine computes and encodes with: what a result's bits depend on, and what its GPU can do."""

from __future__ import annotations

import importlib.metadata
import socket
from dataclasses import dataclass

import torch

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling.devices import device_here
from tecogan_dist.video.encoders import ENCODERS, NAMES, opens

UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a worker says of the machine that it is on."""

    host: str
    package: str
    """Version of tecogan_dist, UNKNOWN where it runs without having been installed."""
    tools: dict[str, str]
    """Of :func:`tools`."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What is to be known of a GPU before work for it is planned."""

    capability: tuple[int, int]
    free: int
    """Bytes."""
    encodes: bool
    """Whether the hardware encoder that was asked for works there; without one, no."""


def tools(device: torch.device) -> dict[str, str]:
    """What the bits of a result depend on besides the request, by names for a sentence."""
    versions = {
        "torch": torch.__version__,
        "PyAV": importlib.metadata.version("av"),  # with its FFmpeg and encoders
        "the CPU": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        versions |= {"cuDNN": str(torch.backends.cudnn.version()), "the GPU": torch.cuda.get_device_name(device)}
    return versions


def node_here(device: torch.device) -> Node:
    """This machine."""
    return Node(host=printable(socket.gethostname()), package=package_version(), tools=tools(device))


def package_version() -> str:
    try:
        return importlib.metadata.version("tecogan_dist")
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN


def gpu_here(*, precision: str, codec: str | None) -> Gpu:
    """The GPU of this process. Raises :class:`UserError` as :func:`device_here` if it cannot be used."""
    device = device_here("cuda", precision=precision)
    name = hardware_encoder(codec)
    free, _ = torch.cuda.mem_get_info(device)
    return Gpu(capability=torch.cuda.get_device_capability(device), free=free, encodes=name is not None and opens(name))


def hardware_encoder(codec: str | None) -> str | None:
    """The encoder that a user names, if it is a GPU's."""
    name = NAMES.get(codec or "", codec)
    encoder = ENCODERS.get(name or "")
    return name if encoder is not None and encoder.software is not None else None


def check_package(node: object) -> Node:
    """What a worker says of its machine; versions that knew no :class:`Node` said something else.

    Raises :class:`UserError` unless it has this process's version of the package.
    """
    ours = package_version()
    if not isinstance(node, Node):
        raise UserError(
            f"a machine of the cluster has an older tecogan_dist, and this command is of {ours}: install the same "
            "version on all of them."
        )
    if node.package != ours:
        raise UserError(
            f"the node {node.host} has tecogan_dist {node.package}, and this command is of {ours}: install the same "
            "version on all machines."
        )
    return node


def differences(first: Node, other: Node) -> str:
    """In words, by what the results of two machines may differ in their last bits; nothing if they are alike."""
    names = [name for name in first.tools | other.tools if first.tools.get(name) != other.tools.get(name)]
    return "; ".join(
        f"{name} is {printable(first.tools.get(name), limit=40)} on {first.host} and "
        f"{printable(other.tools.get(name), limit=40)} on {other.host}"
        for name in names
    )
