"""Weights files: what is written comes back, and every wrong file is refused with a sentence."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.load import from_tree
from tecogan_dist.config.schema import Config, DataConfig, ModelConfig
from tecogan_dist.models.discriminator import Discriminator
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.runs.find import load_upscaler, read_weights
from tecogan_dist.weights.format import save_weights
from tecogan_dist.weights.initial import load_initial
from tests.support.weights_files import SMALL, assert_equal_states, make_discriminator, make_upscaler, save_small

torch.set_num_threads(1)


def metadata_of(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
    return metadata


def initialised(path: Path, upscaler: RecurrentUpscaler, model: ModelConfig, *discriminator: Discriminator) -> str:
    """The sentence of :func:`load_initial` from a file."""
    return load_initial(read_weights(path), path, upscaler, model, *discriminator)


def edit(path: Path, **changes: Any) -> None:
    """Rewrite a weights file with changed metadata (None: removed) or, by ``tensors=``, changed tensors."""
    metadata = metadata_of(path)
    tensors = changes.pop("tensors", None) or safetensors.torch.load_file(path)
    metadata = {key: value for key, value in (metadata | changes).items() if value is not None}
    safetensors.torch.save_file(tensors, path, metadata)


def test_a_file_gives_back_the_model_and_what_it_computes(tmp_path: Path) -> None:
    discriminator = make_discriminator()
    run_config = Config(steps=7, model=SMALL)
    upscaler = save_small(
        tmp_path / "w.safetensors", step=5, run_config=run_config, discriminator_state=discriminator.state_dict()
    )
    weights = read_weights(tmp_path / "w.safetensors")
    assert (weights.model, weights.step) == (SMALL, 5)
    assert_equal_states(weights.upscaler, upscaler.state_dict())
    assert weights.discriminator is not None
    assert_equal_states(weights.discriminator, discriminator.state_dict())
    config = json.loads(metadata_of(tmp_path / "w.safetensors")["config"])
    assert from_tree(config, source="the file") == run_config

    loaded = load_upscaler(tmp_path / "w.safetensors", "cpu")
    assert not loaded.training
    assert loaded.generator.input.weight.is_contiguous(memory_format=torch.channels_last)
    assert loaded.generator.input.weight.requires_grad
    lr_frames = torch.rand(1, 2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded(lr_frames).sr_frames, upscaler(lr_frames).sr_frames, rtol=0, atol=1e-5)


def test_states_as_training_holds_them(tmp_path: Path) -> None:
    """Channels_last, bfloat16, and views into one buffer, as DeepSpeed keeps parameters."""
    upscaler = make_upscaler(SMALL).to(memory_format=torch.channels_last)
    flat = torch.cat([tensor.flatten() for tensor in upscaler.state_dict().values()])
    views, start = {}, 0
    for name, tensor in upscaler.state_dict().items():
        views[name] = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    for number, state in enumerate((upscaler.state_dict(), views)):
        path = tmp_path / f"{number}.safetensors"
        save_weights(path, upscaler_state=state, model=SMALL, run_config=None)
        assert_equal_states(read_weights(path).upscaler, upscaler.state_dict())
    halves = {name: tensor.bfloat16() for name, tensor in upscaler.state_dict().items()}
    save_weights(tmp_path / "b.safetensors", upscaler_state=halves, model=SMALL, run_config=None)
    assert_equal_states(
        read_weights(tmp_path / "b.safetensors").upscaler, {name: tensor.float() for name, tensor in halves.items()}
    )


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_small(path, step=1)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # as a disk that fills up
    try:
        with pytest.raises(UserError, match="cannot be written"):
            save_small(path, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(UserError, match="cannot be written"):
        save_small(tmp_path / "missing" / "w.safetensors", step=2)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_files_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for content in (b"", b"hello", bytes(1000), b"\xff" * 1000):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not a safetensors file"):
            load_upscaler(path, "cpu")
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="does not hold an upscaler of tecogan_dist"):
        load_upscaler(path, "cpu")


def test_truncated_files(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_small(path)
    whole = path.read_bytes()
    for size in (4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="cut short"):
            load_upscaler(path, "cpu")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": None}, "does not hold an upscaler"),
        ({"version": "2"}, "another version"),
        ({"model": None}, "does not say which model"),
        ({"model": "{"}, "does not say which model"),
        ({"model": json.dumps({"blokcs": 2})}, "blokcs"),
        ({"model": json.dumps({"scale": 3})}, "scale"),
        ({"model": json.dumps({"blocks": 2, "channels": 8, "flow_width": 4, "scale": 2})}, "incomplete or damaged"),
        ({"degradation": "BX"}, "unknown degradation"),
        ({"model": json.dumps({"blocks": 10**12, "channels": 8, "flow_width": 4})}, "not those of the model"),
        ({"model": json.dumps({"blocks": 2, "channels": 10**12, "flow_width": 4})}, "not those of the model"),
        ({"step": None}, "training step"),
        ({"step": "-3"}, "training step"),
        ({"warm_up": "-1"}, "does not say its warm-up"),
        ({"warm_up": "101"}, "does not say its warm-up"),
        ({"warm_up": ""}, "does not say its warm-up"),
        ({"step": "9" * 19}, "training step"),
        ({"step": "\u0663"}, "training step"),
        ({"author": "me"}, "unknown entry 'author'"),
        ({"model": "[" * 100_000}, "does not say which model"),
        ({"model": "null"}, "w.safetensors"),
        ({"model": json.dumps({"blocks": 2, "channels": 8.5, "flow_width": 4})}, "channels"),
        ({"model": json.dumps({"blocks": 2, "channels": 1_000_000, "flow_width": 4})}, "not those of the model"),
    ],
)
def test_damaged_metadata(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    save_small(tmp_path / "w.safetensors")
    edit(tmp_path / "w.safetensors", **changes)
    with pytest.raises(UserError, match=reason):
        load_upscaler(tmp_path / "w.safetensors", "cpu")


def test_a_file_knows_its_scale_and_degradation(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    double = dataclasses.replace(SMALL, scale=2)
    saved = save_small(path, model=double, run_config=Config(model=double, data=DataConfig(degradation="BI")))
    assert read_weights(path).model == double
    assert read_weights(path).degradation == "BI"
    upscaler = load_upscaler(path, "cpu")
    assert (upscaler.scale, upscaler.centred) == (2, True)
    assert upscaler.generator.centred
    assert_equal_states(upscaler.state_dict(), saved.state_dict())

    save_small(path)
    older: dict[str, Any] = {"degradation": None, "sha256": None}
    edit(path, model=json.dumps({"blocks": 2, "channels": 8, "flow_width": 4}), **older)
    assert "config" not in metadata_of(path)
    assert read_weights(path).model.scale == 4
    upscaler = load_upscaler(path, "cpu")
    assert (upscaler.scale, upscaler.centred) == (4, False)


def test_missing_added_and_reshaped_tensors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_small(path)
    whole = safetensors.torch.load_file(path)
    name = "upscaler.generator.up1.weight"
    for tensors in (
        {key: tensor for key, tensor in whole.items() if key != name},
        whole | {"upscaler.generator.up3.weight": torch.zeros(1)},
        whole | {name: torch.zeros(8, 8, 3, 4)},
    ):
        edit(path, tensors=tensors)
        with pytest.raises(UserError, match=r"incomplete or damaged \(generator\.up[13]\.weight"):
            load_upscaler(path, "cpu")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["upscaler.generator.up1.weight", "discriminator.score.bias"])
def test_weights_that_are_no_numbers_are_refused_and_not_written(tmp_path: Path, value: float, name: str) -> None:
    path = tmp_path / "w.safetensors"
    saved = save_small(path, discriminator_state=make_discriminator().state_dict())
    tensors = safetensors.torch.load_file(path)
    tensors[name].view(-1)[0] = value
    edit(path, tensors=tensors, sha256=None)
    reason = f"1 of the {tensors[name].numel()} numbers in {name} are infinite or not a number"
    with pytest.raises(UserError, match=rf"the weights in .*w\.safetensors cannot be used: {reason}"):
        read_weights(path)
    state = saved.state_dict()
    state["generator.up1.weight"].view(-1)[0] = value
    with pytest.raises(UserError, match=r"is not written: 1 of the 576 numbers in upscaler\.generator\.up1\.weight"):
        save_weights(tmp_path / "new.safetensors", upscaler_state=state, model=SMALL, run_config=None)
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_finite_weights_that_give_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = {name: tensor * 1e30 for name, tensor in make_upscaler(SMALL).state_dict().items()}
    save_weights(path, upscaler_state=state, model=SMALL, run_config=None)
    with pytest.raises(UserError, match="so large that the upscaler gives no picture"):
        load_upscaler(path, "cpu")


def test_a_copy_of_a_weights_file_is_verified_by_its_own_checksum(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_small(path, step=5)
    whole = path.read_bytes()
    for position in (whole.index(b'"step"') + 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(UserError, match="its content is not what was written"):
            load_upscaler(path, "cpu")
    path.write_bytes(whole)
    edit(path, sha256=None)  # as earlier versions wrote it
    assert read_weights(path).step == 5


def test_a_discriminator_has_to_be_whole(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for settings in ({"temporal_only": False}, {"temporal_only": True}):
        save_small(path, discriminator_state=make_discriminator(**settings).state_dict())
        assert read_weights(path).discriminator is not None
        whole = safetensors.torch.load_file(path)
        name = "discriminator.blocks.2.norm.beta"
        for tensors in ({**whole, name: torch.zeros(3)}, {key: whole[key] for key in whole if key != name}):
            edit(path, tensors=tensors, sha256=None)
            with pytest.raises(UserError, match=rf"incomplete or damaged \({name} is missing"):
                read_weights(path)


def test_starting_anew_from_equal_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    saved = save_small(path, step=8)
    upscaler = make_upscaler(SMALL, seed=99)
    sentence = initialised(path, upscaler, SMALL)
    assert sentence == f"loaded the upscaler from {path} (step 8)"
    assert_equal_states(upscaler.state_dict(), saved.state_dict())


def test_starting_anew_from_fewer_blocks(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    saved = save_small(path).state_dict()
    larger = dataclasses.replace(SMALL, blocks=4, output_init_scale=0.5)
    upscaler = make_upscaler(larger, seed=99)
    before = {name: tensor.clone() for name, tensor in upscaler.state_dict().items()}
    assert "2 of the 4 residual blocks" in initialised(path, upscaler, larger)
    new = ("generator.blocks.2.", "generator.blocks.3.")
    expected = {name: tensor if name.startswith(new) else saved[name] for name, tensor in before.items()}
    assert_equal_states(upscaler.state_dict(), expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"blocks": 1}, "have 2 residual blocks, the config asks for 1: change model.blocks"),
        ({"channels": 16}, "have 8 channels, the config asks for 16: change model.channels"),
        ({"flow_width": 8}, "have 4 flow channels, the config asks for 8: change model.flow_width"),
        ({"scale": 2}, r"upscale 4 times, the config asks for 2: change model.scale .*published ones are for 4"),
    ],
)
def test_starting_anew_from_another_architecture(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    save_small(tmp_path / "w.safetensors")
    model = dataclasses.replace(SMALL, **change)
    upscaler = make_upscaler(model, seed=99)
    before = {name: tensor.clone() for name, tensor in upscaler.state_dict().items()}
    with pytest.raises(UserError, match=reason):
        initialised(tmp_path / "w.safetensors", upscaler, model)
    assert_equal_states(upscaler.state_dict(), before)


def test_starting_anew_with_a_discriminator(tmp_path: Path) -> None:
    saved = make_discriminator()
    saved.get_buffer("blocks.0.norm.moving_mean").fill_(0.25)
    save_small(tmp_path / "with.safetensors", discriminator_state=saved.state_dict())
    save_small(tmp_path / "without.safetensors")

    equal = make_discriminator()
    sentence = initialised(tmp_path / "with.safetensors", make_upscaler(SMALL), SMALL, equal)
    assert sentence.endswith(", and the discriminator")
    assert_equal_states(equal.state_dict(), saved.state_dict())

    for file, discriminator, reason in (
        ("with.safetensors", make_discriminator(temporal_only=True), "other shapes"),
        ("without.safetensors", make_discriminator(), "the file has none"),
    ):
        before = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
        assert reason in initialised(tmp_path / file, make_upscaler(SMALL), SMALL, discriminator)
        assert_equal_states(discriminator.state_dict(), before)
