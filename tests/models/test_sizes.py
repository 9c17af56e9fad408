"""Sizes from settings alone, against the networks themselves."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.memory import machine_memory
from tecogan_dist.commands import train
from tecogan_dist.config.schema import Config, ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.models.sizes import parameter_count, training_memory


@pytest.mark.parametrize("model", [ModelConfig(), ModelConfig(scale=2, blocks=3, channels=7, flow_width=5)])
def test_weights_are_counted(model: ModelConfig) -> None:
    with torch.device("meta"):
        upscaler = build_upscaler(model)
    assert parameter_count(model) == sum(weight.numel() for weight in upscaler.parameters())


def test_more_of_anything_needs_more() -> None:
    least = training_memory(Config())
    assert 10**8 < least < 10**10
    assert training_memory(dataclasses.replace(Config(), batch_size=10**6)) > least
    assert training_memory(dataclasses.replace(Config(), steps=10**6)) == least
    assert training_memory(dataclasses.replace(Config(), model=ModelConfig(channels=10**9))) > 10**20


@pytest.mark.parametrize("setting", ["model.channels", "model.blocks", "batch-size", "data.crop-size"])
def test_sizes_beyond_this_machine_are_said_before_anything_starts(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    argv = ["--config", "smoke_frvsr", "--data", "store", "--output", "run", f"--{setting}", str(8 * 10**11)]
    with pytest.raises(UserError, match=r"needs [0-9.]+e?\+?[0-9]* [A-Z]B of memory .*: lower model\.channels"):
        train.parse(argv)
    assert training_memory(train.parse(argv[:-2])[1]) < machine_memory()
