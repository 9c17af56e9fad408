"""One process on plain torch optimisers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from tecogan_dist.config.schema import Config
from tecogan_dist.training.engines.pair import (
    Moments,
    gather_moments,
    gradients_are_finite,
    losses_in_order,
    make_optimizer,
    networks_at,
    norms_of_parts,
    order,
    restore_moments,
    set_learning_rate,
    unmarked,
)
from tecogan_dist.training.objective import ObjectiveResult


class PlainPair:
    """One process, torch optimisers: for trials inside a Tune worker, and the twin that DeepSpeed is tested against."""

    def __init__(self, upscaler: nn.Module, discriminator: nn.Module | None, config: Config) -> None:
        self.upscaler: Callable[..., Any] = upscaler
        self.upscaler_module: nn.Module = upscaler
        self.discriminator: Callable[..., Any] | None = discriminator
        self.discriminator_module: nn.Module | None = discriminator
        self.not_finite: tuple[str, ...] = ()
        self.mark = unmarked
        self._scale = config.discriminator.learning_rate_scale
        self._accumulation = config.accumulation
        self._clipping = config.optimizer.gradient_clipping
        modules = [upscaler] if discriminator is None else [upscaler, discriminator]
        self._networks = [(module, make_optimizer(module, config)) for module in modules]

    def backward(self, result: ObjectiveResult, *, update_discriminator: bool, last: bool) -> None:  # noqa: ARG002
        for loss in losses_in_order(result, update_discriminator):
            (loss / self._accumulation).backward()

    def update(self, *, learning_rate: float, update_discriminator: bool) -> bool:
        bad = []
        for position in order(update_discriminator):
            module, optimizer = self._networks[position]
            parameters = list(module.parameters())
            if gradients_are_finite(parameters):
                if self._clipping:
                    nn.utils.clip_grad_norm_(parameters, self._clipping)
                set_learning_rate(optimizer, learning_rate * (self._scale if position else 1.0))
                optimizer.step()
            else:
                bad.append(position)
            optimizer.zero_grad()
        self.not_finite = networks_at(bad)
        return not bad

    def gradient_norms(self, *, update_discriminator: bool) -> dict[str, Tensor]:
        discriminator = self.discriminator_module if update_discriminator else None
        return norms_of_parts(self.upscaler_module, discriminator, lambda parameter: parameter.grad)

    def own_weights(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.upscaler_module.parameters()]

    @contextlib.contextmanager
    def weights(self) -> Iterator[None]:
        yield

    def moments(self) -> tuple[Moments, dict[str, int]]:
        return gather_moments(self._networks, zero_stage=None)

    def load_moments(self, moments: Moments, updates: dict[str, int]) -> None:
        restore_moments(self._networks, moments, updates, zero_stage=None)
