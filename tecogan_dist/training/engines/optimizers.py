"""Adam as torch has it, and as TensorFlow 1 has it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from tecogan_dist.base.invariants import require
from tecogan_dist.config.schema import OptimizerConfig


def build_optimizer(
    parameters: Iterable[Tensor], settings: OptimizerConfig, *, fused: bool = False
) -> torch.optim.Optimizer:
    """The optimiser that ``settings.kind`` names. ``fused``: one kernel for all tensors (CUDA, torch's Adam only)."""
    if settings.kind == "adam_tf1":
        return AdamTF1(
            parameters, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), eps=settings.epsilon
        )
    return Adam(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=fused,
    )


def _without_compiler() -> None:
    """Keep torch's optimisers from importing torch's compiler only to tell it that some methods are not for it: a
    second of every worker's start. Nothing here compiles an optimiser."""
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        method = inspect.unwrap(getattr(torch.optim.Optimizer, name))
        vars(method).setdefault("__dynamo_disable", method)  # where torch looks for what it has made of it


_without_compiler()


class Adam(torch.optim.Adam):
    """torch's, without what its step has around it for torch's compiler, which it would import."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class AdamTF1(torch.optim.Optimizer):
    """Adam with TensorFlow 1's epsilon: ``w -= lr_t * m / (sqrt(v) + eps)``, ``lr_t = lr sqrt(1 - b2^t) / (1 - b1^t)``.

    torch adds epsilon to the bias-corrected ``sqrt(v / (1 - b2^t))``; here it is up to 31 times stronger at the first
    step, which shows where gradients are below about 1e-5. (tf.train.AdamOptimizer's documentation, "epsilon hat".)
    The arguments are named as torch.optim names them, because DeepSpeed reads ``lr`` and ``betas`` from the groups.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch overloads it
        require(closure is None, "there is no closure, which would need a second forward pass")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return None

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        t = state["step"].item()
        state["exp_avg"].lerp_(parameter.grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
        size = group["lr"] * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        parameter.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt().add_(group["eps"]), value=-size)
