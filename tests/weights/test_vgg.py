"""VGG19's weights: torchvision's, TF-slim's and random ones; other files are a sentence, and nothing is executed."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.models.vgg import unit
from tecogan_dist.weights.vgg import VggWeights, build_vgg, read_vgg, save_vgg
from tests.support.weights_files import assert_equal_states, save_small

torch.set_num_threads(1)


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
            torch.testing.assert_close(unit(feature), expected, rtol=1e-3, atol=1e-5)


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
    assert torch.equal(vgg.mean.flatten(), torch.tensor([123.68, 116.78, 103.94]))


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
    spoiled = torchvision_state | {"features.34.bias": torch.full((512,), math.nan)}
    torch.save(spoiled, pth)
    with pytest.raises(UserError, match=r"v\.pth is not a VGG19 file .*: 512 of the 512 numbers in features\.34\.bias"):
        read_vgg(str(pth), seed=1)
    pth.write_bytes(pth.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cut short"):
        read_vgg(str(pth), seed=1)
