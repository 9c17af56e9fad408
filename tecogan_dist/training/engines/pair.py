"""How a step's gradients are applied: two DeepSpeed engines, or plain torch optimisers in one process.

Both forms hold the weights, the moments and the learning-rate rule of one upscaler and, with an adversarial loss, one
discriminator; the training loop does not know which it has. Gradients are those of the weights before the step: both
backward passes come first, then the discriminator's update, then the upscaler's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tecogan_dist.config.schema import Config
from tecogan_dist.runs.writing import NETWORKS
from tecogan_dist.training.engines.moments import gather, restore
from tecogan_dist.training.engines.optimizers import build_optimizer
from tecogan_dist.training.objective import ObjectiveResult

Moments = dict[str, Tensor]


class EnginePair(Protocol):
    """What a training step uses. Both of the discriminator's are None without an adversarial loss."""

    upscaler: Callable[..., Any]
    """LR frames to :class:`Unrolled`, the pass that :meth:`update` trains."""
    discriminator: Callable[..., Any] | None
    """The pass that real triplets go through."""
    upscaler_module: nn.Module
    discriminator_module: nn.Module | None
    """The discriminator's plain module, for generated triplets and for validation."""
    not_finite: tuple[str, ...]
    """Those of NETWORKS whose gradients were not finite in the last update."""
    mark: Callable[[str], None]
    """Told what has just been done (``time/...``), where a backward pass turns to bringing gradients together."""

    def backward(self, result: ObjectiveResult, *, update_discriminator: bool, last: bool) -> None:
        """Add the gradients of a micro-batch; ``last``: it is the last one of its step."""

    def update(self, *, learning_rate: float, update_discriminator: bool) -> bool:
        """Update from the gradients since the last update, and forget them. Whether they all were finite.

        ``learning_rate`` is the generator's; the discriminator's is scaled from it. Gradients that are not finite
        update nothing, on all workers alike. With ``update_discriminator`` false, as it was for :meth:`backward`, the
        discriminator's weights, moments and step count stay untouched.
        """

    def gradient_norms(self, *, update_discriminator: bool) -> dict[str, Tensor]:
        """L2 norms of what :meth:`update` is about to use, 0-dim tensors: of flow, generator and discriminator.

        The same on all workers, which all call it between the last backward pass and the update.
        """

    def own_weights(self) -> list[Tensor]:
        """The upscaler's weights, or this worker's part of each, not copied."""

    def weights(self) -> contextlib.AbstractContextManager[None]:
        """While open, both plain modules hold their complete weights. All workers enter it."""

    def moments(self) -> tuple[Moments, dict[str, int]]:
        """``<network>.<kind>.<weight>`` -> Adam's moments, and each network's updates. All workers call it."""

    def load_moments(self, moments: Moments, updates: dict[str, int]) -> None:
        """Put them into a pair that has made no update yet. All workers call it."""


def gradients_are_finite(parameters: Iterable[Tensor]) -> bool:
    """Whether no gradient holds an infinity or NaN."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return bool(torch.stack(torch._foreach_norm(gradients)).isfinite().all())


def norms_of_parts(
    upscaler: nn.Module, discriminator: nn.Module | None, gradient: Callable[[nn.Parameter], Tensor | None]
) -> dict[str, Tensor]:
    """L2 norms of the gradients of the flow network, the generator and, if it is given, the discriminator."""
    parts = {"flow": upscaler.get_submodule("flow"), "generator": upscaler.get_submodule("generator")}
    if discriminator is not None:
        parts["discriminator"] = discriminator
    norms = {}
    for name, part in parts.items():
        gradients = [found for parameter in part.parameters() if (found := gradient(parameter)) is not None]
        norms[name] = torch.stack(torch._foreach_norm(gradients)).norm()
    return norms


def unmarked(done: str, /) -> None:
    """For pairs whose time nobody asks for."""


def networks_at(positions: Iterable[int]) -> tuple[str, ...]:
    """Names of the networks at these positions in the pair."""
    return tuple(NETWORKS[position] for position in positions)


def order(update_discriminator: bool) -> tuple[int, ...]:
    """Positions in the pair: the discriminator, which is updated first, and the upscaler."""
    return (1, 0) if update_discriminator else (0,)


def losses_in_order(result: ObjectiveResult, update_discriminator: bool) -> list[Tensor]:
    """What is differentiated, in :func:`order`."""
    if not update_discriminator:
        return [result.generator_loss]
    if result.discriminator_loss is None:
        raise RuntimeError("a discriminator is to be updated that the objective knows nothing of")
    return [result.discriminator_loss, result.generator_loss]


def gather_moments(networks: list[tuple[nn.Module, Any]], *, zero_stage: int | None) -> tuple[Moments, dict[str, int]]:
    """:meth:`EnginePair.moments` of (module, optimiser) in the order of NETWORKS."""
    found: Moments = {}
    updates = {}
    for network, (module, optimizer) in zip(NETWORKS, networks, strict=False):
        moments, updates[network] = gather(module, optimizer, zero_stage=zero_stage)
        found |= {f"{network}.{name}": tensor for name, tensor in moments.items()}
    return found, updates


def restore_moments(
    networks: list[tuple[nn.Module, Any]], moments: Moments, updates: dict[str, int], *, zero_stage: int | None
) -> None:
    """:meth:`EnginePair.load_moments` of (module, optimiser) in the order of NETWORKS."""
    for network, (module, optimizer) in zip(NETWORKS, networks, strict=False):
        prefix = f"{network}."
        own = {name.removeprefix(prefix): tensor for name, tensor in moments.items() if name.startswith(prefix)}
        restore(module, optimizer, own, updates.get(network, 0), zero_stage=zero_stage)


def make_optimizer(module: nn.Module, config: Config) -> torch.optim.Optimizer:
    """The optimiser of a network, fused where that is possible."""
    on_cuda = next(module.parameters()).is_cuda
    return build_optimizer(module.parameters(), config.optimizer, fused=on_cuda and config.optimizer.kind == "adam")


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """Of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
