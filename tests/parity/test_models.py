"""The networks against the original's, with the reference's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tecogan_dist.config.schema import DiscriminatorConfig
from tecogan_dist.models.build import TRIPLET_CHANNELS, build_discriminator
from tecogan_dist.models.flow import FlowNetwork
from tecogan_dist.models.generator import Generator
from tecogan_dist.models.vgg import FEATURES, Vgg19, unit
from tecogan_dist.weights.tensorflow.names import tensorflow_name, to_tensorflow_layout
from tests.parity.reference import close, fill_by_rule, images, load, pixels, relative_distance, rule


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    return request.config.getoption("--reference")


def test_the_weight_rule_itself(folder: Path) -> None:
    vectors = load(folder, "fnet.npz")
    network = FlowNetwork()
    fill_by_rule(network, int(vectors["seed"]), prefix="flow.")
    ours = {tensorflow_name(f"flow.{n}"): to_tensorflow_layout(f"flow.{n}", t) for n, t in network.state_dict().items()}
    for name, (_, absolute_sum, length) in zip(vectors["w_names"], vectors["w_checks"], strict=True):
        assert np.abs(ours[name].astype(np.float64)).sum() == pytest.approx(absolute_sum, rel=1e-6)
        assert np.linalg.norm(ours[name].astype(np.float64)) == pytest.approx(length, rel=1e-6)
    stored = {
        key[2:]: array
        for name in ("generator.npz", "discriminator.npz")
        for key, array in load(folder, name).items()
        if key.startswith("w:")
    }
    for name, array in stored.items():
        assert np.array_equal(rule(name, array.shape, int(vectors["seed"])), array), name


def test_flow_network(folder: Path) -> None:
    vectors = load(folder, "fnet.npz")
    network = FlowNetwork()
    fill_by_rule(network, int(vectors["seed"]), prefix="flow.")
    for key in [key for key in vectors if key.startswith("x_")]:
        previous, current = images(vectors[key]).split(3, dim=1)
        with torch.no_grad():
            flow = network(previous, current)
        close(pixels(flow), vectors[key.replace("x_", "flow_")], absolute=5e-5, what=key)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_generator(folder: Path, memory_format: torch.memory_format) -> None:
    vectors = load(folder, "generator.npz")
    cases = [key for key in vectors if key.startswith("x")]
    assert cases
    for key in cases:
        blocks = int("".join(character for character in key.split("_")[0] if character.isdigit()))
        network = Generator(blocks=blocks).to(memory_format=memory_format)
        fill_by_rule(network, int(vectors["seed"]), prefix="generator.")
        lr_frame, previous = images(vectors[key]).split((3, 48), dim=1)
        with torch.no_grad():
            close(pixels(network(lr_frame, previous)), vectors["y" + key[1:]], absolute=5e-5, what=key)


def test_discriminator(folder: Path) -> None:
    vectors = load(folder, "discriminator.npz")
    network = build_discriminator(DiscriminatorConfig(temporal_only=vectors["x"].shape[-1] == TRIPLET_CHANNELS))
    fill_by_rule(network, int(vectors["seed"]), prefix="discriminator.")
    x = images(vectors["x"]).requires_grad_()
    score, features = network(x, update_statistics=True)
    for i, feature in enumerate(features):
        close(pixels(feature), vectors[f"layer{i}"], absolute=1e-4, what=f"layer{i}")
    close(pixels(score), vectors["sigmoid"], absolute=1e-5)
    for name, buffer in network.named_buffers():
        expected = vectors["after_one_update:" + tensorflow_name(f"discriminator.{name}")]
        close(buffer, expected, relative=1e-5, absolute=1e-7, what=name)
    torch.log(score + 1e-12).mean().neg().backward()
    assert x.grad is not None
    assert x.grad.norm().item() == pytest.approx(float(vectors["grad_x_l2"]), rel=1e-3)
    for name, parameter in network.named_parameters():
        their_name = tensorflow_name(f"discriminator.{name}")
        assert parameter.grad is not None
        gradient = to_tensorflow_layout(f"discriminator.{name}", parameter.grad)
        assert np.linalg.norm(gradient) == pytest.approx(float(vectors[f"grad_l2:{their_name}"]), rel=1e-3), name
        first = vectors[f"grad_first256:{their_name}"]
        assert relative_distance(gradient.ravel()[: first.size], first) < 1e-3, name


def test_vgg_features(folder: Path) -> None:
    vectors = load(folder, "vgg.npz")
    network = Vgg19("tf_slim")
    fill_by_rule(network, int(vectors["seed"]), prefix="vgg.")
    with torch.no_grad():
        features = network(images(vectors["x"]))
    for name, feature in zip(FEATURES, features, strict=True):
        expected = vectors[f"norm:vgg_19/{name.split('_')[0]}/{name}"]
        close(pixels(unit(feature)), expected, absolute=1e-6, what=name)
