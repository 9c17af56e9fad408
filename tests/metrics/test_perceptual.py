"""LPIPS: where its weights come from, what is refused, and that its parts give the package's values."""

from __future__ import annotations

from pathlib import Path

import lpips
import numpy as np
import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.metrics.perceptual import TRUNK_FILES, WEIGHTS_VARIABLE, Lpips, Net, find_trunk, t_lp
from tecogan_dist.ops.cudnn import cudnn_flags
from tests.support.lpips_files import write_trunk


@pytest.fixture(autouse=True)
def no_weights_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))


def test_weights_are_found_in_the_order_path_variable_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cached = tmp_path / "torch_home" / "hub" / "checkpoints" / TRUNK_FILES["alex"]
    with pytest.raises(UserError, match="LPIPS and tLP need") as caught:
        find_trunk()
    assert str(cached) in str(caught.value)
    assert f"https://download.pytorch.org/models/{TRUNK_FILES['alex']}" in str(caught.value)
    assert "--metrics psnr,ssim,tof" in str(caught.value)
    cached.parent.mkdir(parents=True)
    write_trunk(cached)
    assert find_trunk().path == cached
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(write_trunk(tmp_path / "other.pth", seed=1)))
    assert find_trunk().path == tmp_path / "other.pth"
    assert find_trunk("alex", cached).path == cached


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", "vgg", "nan", {"features.0.weight": 1}])
def test_other_files_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "vgg":
        write_trunk(path, net="vgg")
    elif content == "nan":
        state = torch.load(write_trunk(path), weights_only=True)
        torch.save(state | {"features.0.bias": torch.full((64,), float("nan"))}, path)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"weights\.pth is not a .*download https://"):
        find_trunk("alex", path)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no weights of the LPIPS network are at .*none\.pth"):
        find_trunk("alex", tmp_path / "none.pth")


@pytest.mark.parametrize("net", ["alex", "squeeze", "vgg"])
def test_values_are_those_of_the_package(tmp_path: Path, net: Net) -> None:
    trunk = find_trunk(net, write_trunk(tmp_path / "trunk.pth", net=net, seed=3))
    ours = Lpips(trunk)
    package = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    names = package.net.state_dict()
    package.net.load_state_dict({name: trunk.state[f"features.{name.split('.', 1)[1]}"] for name in names})
    random = np.random.default_rng(0)
    first = random.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    second = np.clip(first + random.integers(-20, 20, first.shape), 0, 255).astype(np.uint8)
    tensors = [torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1 for image in (first, second)]
    with torch.no_grad():
        expected = float(package(*tensors))
    assert ours.distance(ours.features(first), ours.features(second)) == pytest.approx(expected, rel=1e-5)
    assert ours.distance(ours.features(first), ours.features(first)) == 0


def test_features_are_in_fp32_and_by_cudnn(tmp_path: Path) -> None:
    ours = Lpips(find_trunk("alex", write_trunk(tmp_path / "trunk.pth")))
    seen: list[tuple[bool, ...]] = []

    def observe(*_: object) -> None:
        cudnn = torch.backends.cudnn
        seen.append((cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark))

    ours._model.net.register_forward_pre_hook(observe)
    with cudnn_flags(allow_tf32=True, benchmark=True):
        ours.features(np.zeros((32, 32, 3), np.uint8))
        assert torch.backends.cudnn.allow_tf32
    assert seen == [(True, False, True, False)]


def test_making_the_network_leaves_the_random_state(tmp_path: Path) -> None:
    weights = write_trunk(tmp_path / "trunk.pth")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Lpips(find_trunk("alex", weights))
    assert torch.equal(torch.rand(3), expected)


def test_t_lp_is_a_distance_of_distances_times_100() -> None:
    assert t_lp(0.02, 0.05) == pytest.approx(3.0)
    assert t_lp(0.05, 0.02) == pytest.approx(3.0)
