"""Weights files: what is written comes back, and every wrong file is refused with a sentence."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import resource
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.load import from_tree
from tecogan_dist.config.schema import Config, DataConfig, DiscriminatorConfig, ModelConfig
from tecogan_dist.models.build import build_discriminator, build_upscaler
from tecogan_dist.models.discriminator import Discriminator
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.runs.find import load_upscaler, read_weights
from tecogan_dist.weights.format import save_weights
from tecogan_dist.weights.initial import load_initial
from tecogan_dist.weights.vgg import VggWeights, build_vgg, read_vgg, save_vgg

torch.set_num_threads(1)
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


def metadata_of(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
    return metadata


def initialised(path: Path, upscaler: RecurrentUpscaler, model: ModelConfig, *discriminator: Discriminator) -> str:
    """The sentence of :func:`load_initial` from a file."""
    return load_initial(read_weights(path), path, upscaler, model, *discriminator)


def assert_equal_states(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


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
    edit(path, model=json.dumps({"blocks": 2, "channels": 8, "flow_width": 4}), degradation=None)
    assert "config" not in metadata_of(path)
    assert read_weights(path).model.scale == 4
    older = load_upscaler(path, "cpu")
    assert (older.scale, older.centred) == (4, False)


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


@pytest.fixture(scope="module")
def torchvision_state() -> dict[str, Tensor]:
    """torchvision's own VGG19, without its classifier's 480 MB."""
    with torch.device("meta"):
        features = torchvision.models.vgg19().features
    generator = torch.Generator().manual_seed(3)
    return {
        f"features.{name}": torch.randn(tensor.shape, generator=generator) * (2 / max(1, tensor[0].numel())) ** 0.5
        for name, tensor in features.state_dict().items()
    }


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_vgg_computes_as_torchvision_does(
    tmp_path: Path, torchvision_state: dict[str, Tensor], suffix: str
) -> None:
    path = tmp_path / f"vgg{suffix}"
    stored = torchvision_state | {"classifier.0.weight": torch.zeros(4, 4)}
    torch.save(stored, path) if suffix == ".pth" else safetensors.torch.save_file(stored, path)
    random_state = torch.random.get_rng_state()
    vgg = build_vgg(read_vgg(str(path), seed=1))
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert not any(parameter.requires_grad for parameter in vgg.parameters())

    with torch.device("meta"):
        features = torchvision.models.vgg19().features
    state = {name.removeprefix("features."): tensor for name, tensor in torchvision_state.items()}
    features.load_state_dict(state, assign=True)
    frames = torch.rand(1, 3, 32, 32)
    normalize = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        found = vgg(frames * 2 - 1)
        # torchvision's layers after which conv2_2, conv3_4, conv4_4 and conv5_4 have passed their ReLU.
        for feature, end in zip(found, (9, 18, 27, 36), strict=True):
            expected = torch.nn.functional.normalize(features[:end](normalize(frames)), dim=1)
            torch.testing.assert_close(feature, expected, rtol=1e-3, atol=1e-5)


def test_vgg_of_tf_slim_comes_back(tmp_path: Path) -> None:
    weights = read_vgg("random", seed=4)
    assert weights.preprocessing == "tf_slim"
    save_vgg(tmp_path / "vgg.safetensors", weights)
    loaded = read_vgg(str(tmp_path / "vgg.safetensors"), seed=0)
    assert loaded.preprocessing == "tf_slim"
    assert_equal_states(loaded.state, weights.state)
    # Plain values survive the trip through Ray, which pickles them.
    sent: VggWeights = pickle.loads(pickle.dumps(loaded))
    vgg = build_vgg(sent)
    assert_equal_states(vgg.state_dict(), weights.state)
    torch.testing.assert_close(vgg.mean.flatten() * 255, torch.tensor([123.68, 116.779, 103.939]))


def test_random_vgg_follows_its_seed() -> None:
    one, again, other = (read_vgg("random", seed=seed).state for seed in (1, 1, 2))
    assert_equal_states(again, one)
    assert not torch.equal(other["conv3_1.weight"], one["conv3_1.weight"])
    assert one["conv5_4.weight"].std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert not one["conv5_4.bias"].any()


class _Touch:
    """Unpickled, it makes a file: what a malicious .pth could do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pth_is_refused_and_not_executed(tmp_path: Path, zipped: bool) -> None:
    path, made = tmp_path / "vgg.pth", tmp_path / "made"
    torch.save({"features.0.weight": _Touch(made)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="is not a state dict of plain tensors"):
        build_vgg(read_vgg(str(path), seed=1))
    assert not made.exists()
    torch.load(path, weights_only=False)  # it is malicious indeed
    assert made.exists()


def test_missing_and_wrong_vgg_files(tmp_path: Path, torchvision_state: dict[str, Tensor]) -> None:
    for source in (None, str(tmp_path / "nothing.pth")):
        with pytest.raises(UserError, match=r"vgg19-dcbb9e9d\.pth.*tecogan convert.*--perceptual\.weights"):
            read_vgg(source, seed=1)
    pth, safe = tmp_path / "v.pth", tmp_path / "v.safetensors"
    for content in (b"", b"hello", bytes(1000)):
        pth.write_bytes(content)
        safe.write_bytes(content)
        for path in (pth, safe):
            with pytest.raises(UserError, match="cut short"):
                read_vgg(str(path), seed=1)
    torch.save([1, 2], pth)
    with pytest.raises(UserError, match="does not hold a state dict"):
        read_vgg(str(pth), seed=1)
    safetensors.torch.save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, safe)
    with pytest.raises(UserError, match=r"is not a VGG19 file: features\.0\.bias is missing"):
        read_vgg(str(safe), seed=1)
    save_small(safe)
    with pytest.raises(UserError, match="is not a VGG19 file"):
        read_vgg(str(safe), seed=1)
    torch.save(torchvision_state | {"features.34.weight": torch.zeros(512, 512, 1, 1)}, pth)
    with pytest.raises(UserError, match=r"features\.34\.weight is missing or of a wrong shape"):
        read_vgg(str(pth), seed=1)
    pth.write_bytes(pth.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cut short"):
        read_vgg(str(pth), seed=1)
