"""Generators of TecoGAN-PyTorch become weights files; whatever else is in a .pth is a sentence, and nothing runs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors
import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.convert import main
from tecogan_dist.config.load import from_tree
from tecogan_dist.config.schema import Config, ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.models.port import PortUpscaler
from tecogan_dist.runs.find import load_upscaler, read_weights
from tecogan_dist.weights.format import save_weights
from tecogan_dist.weights.initial import load_initial
from tecogan_dist.weights.pytorch_port import convert_port, is_torch_file, port_name, read_port
from tests.support.port_files import KERNELS, port_shapes, port_state
from tests.support.weights_files import SMALL, assert_equal_states, save_small

torch.set_num_threads(1)

SIZES: dict[str, Any] = {"blocks": 2, "channels": 8, "width": 4}
PORT = ModelConfig(blocks=2, channels=8, flow_width=4, arithmetic="pytorch_port")


def small(**settings: Any) -> OrderedDict[str, Tensor]:
    return port_state(port_shapes(**SIZES | settings), seed=7)


def saved(path: Path, content: Any = None, **settings: Any) -> Path:
    torch.save(small() if content is None else content, path, **settings)
    return path


def metadata_of(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
    return metadata


@pytest.mark.parametrize(
    ("scale", "degradation", "zipped"), [(4, "BD", True), (4, "BI", False), (2, "BD", False), (2, "BI", True)]
)
def test_what_a_file_holds_is_read_off_its_names(
    tmp_path: Path, scale: Literal[4, 2], degradation: str, zipped: bool
) -> None:
    state = small(scale=scale, degradation=degradation)
    source = saved(tmp_path / "p.pth", state, _use_new_zipfile_serialization=zipped)
    line = convert_port(source, tmp_path / "p.safetensors")
    assert f"upscaler of TecoGAN-PyTorch for {scale}x {degradation} with 2 residual blocks of 8 channels" in line
    weights = read_weights(tmp_path / "p.safetensors")
    assert weights.model == dataclasses.replace(PORT, scale=scale)
    assert (weights.degradation, weights.step, weights.discriminator) == (degradation, 0, None)
    kept = {name: tensor for name, tensor in state.items() if name not in KERNELS}
    assert_equal_states({port_name(name): tensor for name, tensor in weights.upscaler.items()}, kept)
    model = load_upscaler(tmp_path / "p.safetensors", "cpu")
    assert isinstance(model, PortUpscaler)
    assert (model.scale, model.centred) == (scale, degradation == "BI")


def test_a_wrapped_or_half_precision_state_dict(tmp_path: Path) -> None:
    state = small()
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    _, model, degradation = read_port(saved(tmp_path / "p.pth", wrapped))
    assert (model, degradation) == (PORT, "BD")
    halves = {name: tensor if name in KERNELS else tensor.half() for name, tensor in state.items()}
    found, _, _ = read_port(saved(tmp_path / "h.pth", halves))
    torch.testing.assert_close(found["generator.up1.weight"], halves["srnet.conv_up.0.weight"].float())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = saved(tmp_path / "TecoGAN_4x_BD.pth"), tmp_path / "p.safetensors"
    main([str(source), str(output)])
    assert "for 4x BD with 2 residual blocks" in capsys.readouterr().out
    before = read_weights(output).upscaler
    with pytest.raises(UserError, match="exists"):
        main([str(source), str(output)])
    main([str(source), str(output), "--overwrite"])
    assert_equal_states(read_weights(output).upscaler, before)
    unnamed = saved(tmp_path / "iter500K")  # known by its content
    main([str(unnamed), str(tmp_path / "q.safetensors")])
    assert_equal_states(read_weights(tmp_path / "q.safetensors").upscaler, before)
    with pytest.raises(UserError, match="only weights are made: leave out --to"):
        main([str(source), str(tmp_path / "run"), "--to", "checkpoint"])
    assert not is_torch_file(tmp_path)
    assert not is_torch_file(tmp_path / "nothing.pth")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"srnet.conv_up.2.weight": None}, r"srnet\.conv_up\.2\.weight is missing"),
        ({"srnet.resblocks.0.conv.2.bias": torch.zeros(7)}, r"srnet\.resblocks\.0\.conv\.2\.bias is missing or of a w"),
        ({"srnet.resblocks.0.conv.0.weight": None}, r"srnet\.resblocks\.0\.conv\.0\.weight is missing"),
        ({"srnet.resblocks.5.conv.0.bias": torch.zeros(8)}, r"srnet\.resblocks\.5\.conv\.0\.bias does not belong"),
        ({"srnet.conv_in.0.weight": None}, r"srnet\.conv_in\.0\.weight is missing"),
        ({"srnet.conv_in.0.weight": "text"}, r"srnet\.conv_in\.0\.weight is missing or of a wrong shape"),
        ({"srnet.conv_in.0.weight": torch.zeros(8, 30, 3, 3)}, "takes 30 channels, where those take 51 and 15"),
        ({"srnet.conv_in.0.weight": torch.zeros(0, 51, 3, 3)}, "impossible sizes"),
        ({"srnet.conv_in.0.weight": torch.zeros(1 << 17, 51, 1, 1)}, "impossible sizes"),
        ({"srnet.conv_out.bias": torch.zeros(3, dtype=torch.float64)}, "not of plain float32 numbers but float64"),
        ({"fnet.flow.2.bias": torch.tensor([0.0, math.nan])}, r"1 of the 2 numbers in fnet\.flow\.2\.bias"),
        ({KERNELS[1]: torch.zeros(4, 4)}, r"srnet\.upsample_func\.kernels holds another enlargement's numbers"),
        ({KERNELS[0]: torch.zeros(2, 4)}, r"upsample_func\.kernels is missing or of a wrong shape"),
        ({3: torch.zeros(1)}, "3 does not belong to one"),
    ],
)
def test_state_dicts_that_are_not_quite_one(tmp_path: Path, change: dict[Any, Any], reason: str) -> None:
    state = {name: value for name, value in ({**small(), **change}).items() if value is not None}
    source = saved(tmp_path / "p.pth", state)
    with pytest.raises(UserError, match=reason) as caught:
        main([str(source), str(tmp_path / "p.safetensors")])
    assert "not a generator of TecoGAN-PyTorch" in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["p.pth"]


def test_files_of_another_kind(tmp_path: Path) -> None:
    discriminator = {
        "conv_in.0.weight": torch.zeros(64, 27, 3, 3),
        "discriminator_block.block1.0.weight": torch.zeros(64, 64, 4, 4),
        "dense.weight": torch.zeros(1, 16384),
        KERNELS[0]: torch.zeros(4, 4),
    }
    for content, reason in (
        (discriminator, "is a discriminator of TecoGAN-PyTorch, which upscales nothing"),
        ({"features.0.weight": torch.zeros(64, 3, 3, 3)}, r"VGG19 of torchvision: train's --perceptual\.weights"),
        ({"conv.weight": torch.zeros(1)}, r"holds no generator of TecoGAN-PyTorch .* but conv\.weight"),
        ({}, "but nothing"),
        ([1, 2], "does not hold a state dict"),
        ({"fnet.encoder1.0.weight": torch.zeros(4, 6, 3, 3)}, r"srnet\.conv_in\.0\.weight is missing"),
    ):
        with pytest.raises(UserError, match=reason):
            main([str(saved(tmp_path / "d.pth", content)), str(tmp_path / "d.safetensors")])
    for damaged in (b"", b"PK\3\4 and no archive", bytes(1000), saved(tmp_path / "whole.pth").read_bytes()[:-500]):
        (tmp_path / "d.pth").write_bytes(damaged)
        with pytest.raises(UserError, match="is not a state dict of plain tensors, or is damaged or cut short"):
            main([str(tmp_path / "d.pth"), str(tmp_path / "d.safetensors")])
    assert sorted(os.listdir(tmp_path)) == ["d.pth", "whole.pth"]


class _Touch:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_file_is_refused_and_not_executed(tmp_path: Path, zipped: bool) -> None:
    made = tmp_path / "made"
    content = {**small(), "srnet.conv_out.bias": _Touch(made)}
    source = saved(tmp_path / "p.pth", content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="is not a state dict of plain tensors"):
        main([str(source), str(tmp_path / "p.safetensors")])
    (tmp_path / "q.pth").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match="is not a state dict of plain tensors"):
        main([str(tmp_path / "q.pth"), str(tmp_path / "q.safetensors")])
    assert not made.exists()
    torch.load(source, weights_only=False)  # it is malicious indeed
    assert made.exists()


def test_tensors_that_repeat_few_numbers_are_not_made_large(tmp_path: Path) -> None:
    """A file of some kB that says to hold a network of 40 GB."""
    channels = 1 << 15
    shapes = port_shapes(blocks=1, channels=channels, width=4)
    content = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    source = saved(tmp_path / "p.pth", content)
    assert source.stat().st_size < 100_000
    with pytest.raises(UserError, match="its tensors share their numbers"):
        read_port(source)


def test_weights_that_give_no_picture(tmp_path: Path) -> None:
    content = {name: tensor if name in KERNELS else tensor * 1e20 for name, tensor in small().items()}
    with pytest.raises(UserError, match="so large that the upscaler gives no picture"):
        main([str(saved(tmp_path / "p.pth", content)), str(tmp_path / "p.safetensors")])
    assert os.listdir(tmp_path) == ["p.pth"]


def test_files_of_the_original_are_as_they_were(tmp_path: Path) -> None:
    """Versions that know no other arithmetic read them; the port's files they refuse, by an unknown setting."""
    save_small(tmp_path / "w.safetensors")
    expected = {"scale": 4, "blocks": 2, "channels": 8, "flow_width": 4, "output_init_scale": 1.0}
    assert json.loads(metadata_of(tmp_path / "w.safetensors")["model"]) == expected
    convert_port(saved(tmp_path / "p.pth"), tmp_path / "p.safetensors")
    assert json.loads(metadata_of(tmp_path / "p.safetensors")["model"]) == expected | {"arithmetic": "pytorch_port"}


def test_neither_arithmetic_takes_the_others_weights(tmp_path: Path) -> None:
    convert_port(saved(tmp_path / "p.pth"), tmp_path / "port.safetensors")
    save_small(tmp_path / "original.safetensors")
    for file, model in (("port.safetensors", SMALL), ("original.safetensors", PORT)):
        weights = read_weights(tmp_path / file)
        upscaler = build_upscaler(model)
        before = {name: tensor.clone() for name, tensor in upscaler.state_dict().items()}
        with pytest.raises(UserError, match=r"are for model\.arithmetic \w+ and give wrong pictures in the config's"):
            load_initial(weights, tmp_path / file, upscaler, model)
        assert_equal_states(upscaler.state_dict(), before)
    upscaler = build_upscaler(PORT)
    load_initial(read_weights(tmp_path / "port.safetensors"), "port.safetensors", upscaler, PORT)
    assert_equal_states(upscaler.state_dict(), read_weights(tmp_path / "port.safetensors").upscaler)


def test_a_run_of_the_port_is_recorded_as_one(tmp_path: Path) -> None:
    config = from_tree({"model": {**dataclasses.asdict(PORT)}, "data": {"degradation": "BI"}}, source="test")
    assert config == dataclasses.replace(Config(), model=PORT, data=config.data)
    state = build_upscaler(PORT).state_dict()
    save_weights(tmp_path / "w.safetensors", upscaler_state=state, model=PORT, run_config=config)
    weights = read_weights(tmp_path / "w.safetensors")
    assert (weights.model, weights.degradation) == (PORT, "BI")
    with pytest.raises(UserError, match=r"model\.arithmetic"):
        from_tree({"model": {"arithmetic": "tensorflow"}}, source="test")
