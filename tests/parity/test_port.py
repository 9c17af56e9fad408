"""The arithmetic of TecoGAN-PyTorch against its own code, from a .pth file through our weights file to images.

Of the images that its code gave, the vectors hold every fifth row and column (``stride``), which meets all phases of
the enlargements; with all pixels, the same was measured once. ``--reference DIR`` may hold another set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tecogan_dist.commands import convert, upscale
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.runs.find import load_upscaler
from tecogan_dist.upscaling.images import to_image
from tecogan_dist.upscaling.sequence import upscale_float, upscale_frames
from tecogan_dist.upscaling.working import frozen, thawed
from tecogan_dist.weights.pytorch_port import convert_port
from tests.parity.reference import close, load
from tests.support.port_files import KERNELS, port_shapes, port_state

torch.set_num_threads(1)

TOLERANCE = 2e-5
FEW = 1e-3
"""The part of all numbers in which images may differ, by a level."""
CASES = ("bd4", "bd4_odd", "bi4", "bd2")


@pytest.fixture(scope="module")
def vectors(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    return load(request.config.getoption("--reference"), "pytorch_port.npz")


def settings(vectors: dict[str, np.ndarray], case: str) -> dict[str, Any]:
    blocks, scale = (int(number) for number in vectors[f"{case}:settings"][:2])
    return {"blocks": blocks, "scale": scale, "degradation": str(vectors[f"{case}:degradation"])}


@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_are_the_ports(vectors: dict[str, np.ndarray], case: str) -> None:
    expected = {f"{name} {shape}" for name, shape in port_shapes(**settings(vectors, case)).items()}
    assert expected == set(vectors[f"{case}:keys"].tolist())
    assert any(name.startswith(KERNELS) for name in expected) == (settings(vectors, case)["degradation"] == "BD")


def save_port(vectors: dict[str, np.ndarray], case: str, folder: Path) -> Path:
    """Our weights file, converted from the port's."""
    torch.save(port_state(port_shapes(**settings(vectors, case)), seed=int(vectors["seed"])), folder / "port.pth")
    convert_port(folder / "port.pth", folder / "port.safetensors")
    return folder / "port.safetensors"


def compare_images(vectors: dict[str, np.ndarray], case: str, images: np.ndarray) -> None:
    stride = int(vectors.get("stride", 1))
    difference = np.abs(images[:, ::stride, ::stride].astype(int) - vectors[f"{case}:out_u8"])
    assert difference.max() <= 1
    assert (difference > 0).mean() < FEW


@pytest.mark.parametrize("case", CASES)
def test_its_weights_give_its_outputs(vectors: dict[str, np.ndarray], case: str, tmp_path: Path) -> None:
    wanted = settings(vectors, case)
    model = load_upscaler(save_port(vectors, case, tmp_path), "cpu")
    assert (model.scale, model.centred) == (wanted["scale"], wanted["degradation"] == "BI")

    frames = [torch.from_numpy(frame) for frame in vectors[f"{case}:lr"]]
    upscaled = list(upscale_float(model, frames, device=torch.device("cpu"), warm_up=model.warm_up))
    assert len(upscaled) == len(frames) == len(vectors[f"{case}:out_u8"])
    stride = int(vectors.get("stride", 1))
    for frame, expected in zip((upscaled[0], upscaled[-1]), vectors[f"{case}:out"], strict=True):
        close(frame.sr_frame[:, ::stride, ::stride], expected, absolute=TOLERANCE, what=case)
    images = np.stack([to_image(frame.sr_frame, rounds=model.rounds).numpy() for frame in upscaled])
    compare_images(vectors, case, images)
    # By itself the upscaler rounds, and begins without a warm-up, as this model wants it.
    written = np.stack([image.numpy() for image in upscale_frames(model, frames, device=torch.device("cpu"))])
    compare_images(vectors, case, written)


def test_the_warm_up_of_its_settings_for_tests(vectors: dict[str, np.ndarray], tmp_path: Path) -> None:
    """``num_pad_front: 5``: frames 5 to 1, here the three that there are, go through it first and are dropped."""
    plain = load_upscaler(save_port(vectors, "bd4_odd", tmp_path), "cpu")
    warmed = tmp_path / "warmed.safetensors"
    convert.main([str(tmp_path / "port.pth"), str(warmed), "--warm-up", "5"])
    model = load_upscaler(warmed, "cpu")
    assert (plain.warm_up, model.warm_up, model.rounds) == (0, 5, True)
    assert thawed(frozen(model), torch.device("cpu")).warm_up == 5  # for workers
    frames = [torch.from_numpy(frame) for frame in vectors["bd4_odd:lr"]]
    padded = list(upscale_frames(plain, frames[:0:-1] + frames, device=torch.device("cpu")))[len(frames) - 1 :]
    (tmp_path / "in").mkdir()
    for number, frame in enumerate(vectors["bd4_odd:lr"]):
        Image.fromarray(frame).save(tmp_path / "in" / f"{number:04d}.png")
    upscale.main([str(tmp_path / "in"), str(tmp_path / "out"), "--weights", str(warmed)])
    results = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").iterdir())]
    np.testing.assert_array_equal(np.stack(results), np.stack(padded))
    assert np.abs(results[0].astype(int) - upscale_first(plain, frames)).max() > 1


def upscale_first(model: RecurrentUpscaler, frames: list[torch.Tensor]) -> np.ndarray:
    return next(iter(upscale_frames(model, frames, device=torch.device("cpu")))).numpy()


def test_the_command_gives_its_images(vectors: dict[str, np.ndarray], tmp_path: Path) -> None:
    weights = save_port(vectors, "bd4_odd", tmp_path)
    (tmp_path / "in").mkdir()
    for number, frame in enumerate(vectors["bd4_odd:lr"]):
        Image.fromarray(frame).save(tmp_path / "in" / f"{number:04d}.png")
    upscale.main([str(tmp_path / "in"), str(tmp_path / "out"), "--weights", str(weights)])
    results = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").iterdir())]
    compare_images(vectors, "bd4_odd", np.stack(results))
