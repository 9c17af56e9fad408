"""Small networks and weights files to test with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tecogan_dist.config.schema import DiscriminatorConfig, ModelConfig
from tecogan_dist.models.build import build_discriminator, build_upscaler
from tecogan_dist.models.discriminator import Discriminator
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.weights.format import save_weights

SMALL = ModelConfig(blocks=2, channels=8, flow_width=4)


def make_upscaler(model: ModelConfig, *, seed: int = 0) -> RecurrentUpscaler:
    torch.manual_seed(seed)
    return build_upscaler(model)


def make_discriminator(**settings: bool) -> Discriminator:
    return build_discriminator(DiscriminatorConfig(**settings))


def save_small(path: Path, *, model: ModelConfig = SMALL, step: int = 0, **extra: Any) -> RecurrentUpscaler:
    upscaler = make_upscaler(model, seed=step)
    extra.setdefault("run_config", None)
    save_weights(path, upscaler_state=upscaler.state_dict(), model=model, step=step, **extra)
    return upscaler


def assert_equal_states(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
