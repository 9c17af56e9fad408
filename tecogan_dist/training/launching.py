"""How the kernels of a step are started (``cluster.compile``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.schema import Config

if TYPE_CHECKING:  # a command checks settings before it has torch
    import torch

Launched = Literal["singly", "compiled", "captured"]


def launched(config: Config, device: torch.device) -> Launched:
    """What ``cluster.compile`` comes to on this worker, where ``auto`` is what was fastest (scripts/README.md).

    Raises :class:`UserError` for a graph that is not on a GPU.
    """
    cluster = config.cluster
    if cluster.compile == "graph":
        check_graph(config, is_gpu=device.type == "cuda")
        return "captured"
    if cluster.compile == "auto" and device.type == "cuda" and cluster.zero_stage == 0 and not _meets(config):
        return "captured"
    return "compiled" if cluster.compile == "on" else "singly"


def check_graph(config: Config, *, is_gpu: bool) -> None:
    """Raise :class:`UserError` if a graph is wanted and workers have no GPU."""
    if config.cluster.compile == "graph" and not is_gpu:
        raise UserError("cluster.compile graph is for GPUs, and the workers have none: set it to auto or off.")


def _meets(config: Config) -> bool:
    """Whether workers meet within the passes: a graph with collectives of several GPUs was never run."""
    import torch.distributed as dist

    workers = dist.get_world_size() if dist.is_initialized() else 1
    return workers > 1 and config.loss.adversarial > 0 and config.discriminator.global_batch_norm
