"""An exponential moving average of the upscaler's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """``average = decay * average + (1 - decay) * weight`` after each update; every worker keeps the same one.

    The decay grows to its value as (1 + n) / (10 + n) over the first n updates (as TensorFlow's
    ExponentialMovingAverage with num_updates), so that the initial weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module = module
        self._decay = decay
        self.updates = 0
        self.state: dict[str, Tensor] = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        weights = self._module.state_dict()
        torch._foreach_lerp_(list(self.state.values()), [weights[name] for name in self.state], 1 - decay)

    def load(self, state: dict[str, Tensor], *, updates: int) -> None:
        """Go on from another one's ``state`` and ``updates``."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
        self.updates = updates
