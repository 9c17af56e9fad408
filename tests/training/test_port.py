"""Training in TecoGAN-PyTorch's arithmetic, from its weights; neither arithmetic goes on from the other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.checkpoints import newest_checkpoint
from tecogan_dist.runs.find import read_weights
from tecogan_dist.training.begin import build_networks, check_origin
from tecogan_dist.weights.pytorch_port import convert_port, port_name
from tests.support.plain_runs import make_config, run
from tests.support.port_files import port_shapes, port_state


def test_a_run_from_the_ports_weights(tmp_path: Path) -> None:
    config = make_config(["--model.arithmetic", "pytorch_port", "--steps", "2"])
    model = config.model
    state = port_state(port_shapes(blocks=model.blocks, channels=model.channels, width=model.flow_width), seed=5)
    torch.save(state, tmp_path / "port.pth")
    convert_port(tmp_path / "port.pth", tmp_path / "port.safetensors")
    config = dataclasses.replace(config, initial_weights=str(tmp_path / "port.safetensors"))
    upscaler, _, sentence = build_networks(config, initial_weights=config.initial_weights)
    assert sentence.startswith("loaded the upscaler")
    for name, tensor in upscaler.state_dict().items():
        assert torch.equal(tensor, state[port_name(name)])

    ended = run(config, tmp_path / "run")
    weights = read_weights(tmp_path / "run")
    assert (ended.step, weights.step, weights.model) == (2, 2, model)
    moved = [not torch.equal(tensor, state[port_name(name)]) for name, tensor in weights.upscaler.items()]
    assert all(moved)
    assert run(dataclasses.replace(config, steps=3), tmp_path / "run").step == 3

    other = dataclasses.replace(config, model=dataclasses.replace(model, arithmetic="original"))
    refused = r"are for model\.arithmetic pytorch_port and give wrong pictures in the config's, original"
    with pytest.raises(UserError, match=refused):
        build_networks(other, initial_weights=config.initial_weights)
    origin = newest_checkpoint(Location.of(tmp_path / "run"))
    assert origin is not None
    check_origin(origin, config)
    with pytest.raises(UserError, match=refused):
        check_origin(origin, other)
