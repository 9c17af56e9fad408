"""Every operation against the original's, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tecogan_dist.models.layers import Conv3x3, DoublingConv3x3, HalvingConv4x4
from tecogan_dist.ops.degrade import blur_down, blur_down_crops, windows_to_frames
from tecogan_dist.ops.images import pad_symmetric, quantize, space_to_depth, to_signed, to_unit
from tecogan_dist.ops.resampling import resize_bicubic, resize_bilinear, warp
from tests.parity.reference import close, images, load, pixels

TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def vectors(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    return load(request.config.getoption("--reference"), "ops.npz")


IMAGE_OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "upscale_four": lambda x: resize_bilinear(x, 4),
    "bicubic_four": resize_bicubic,
    "resize_x2": lambda x: resize_bilinear(x, 2),
    "resize_x4": lambda x: resize_bilinear(x, 4),
    "s2d": space_to_depth,
    "maxpool_odd": lambda x: F.max_pool2d(x, 2),
}


@pytest.mark.parametrize("name", IMAGE_OPS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_image_operation(vectors: dict[str, np.ndarray], name: str, memory_format: torch.memory_format) -> None:
    x = images(vectors[f"{name}:x"]).contiguous(memory_format=memory_format)
    close(pixels(IMAGE_OPS[name](x)), vectors[f"{name}:out"], absolute=TOLERANCE, what=name)


@pytest.mark.parametrize("name", ["gauss", "gauss136"])
def test_degradation_of_crops(vectors: dict[str, np.ndarray], name: str) -> None:
    hr = images(vectors[f"{name}:hr_u8"]).float() * (1 / 255)
    close(pixels(blur_down_crops(hr)), vectors[f"{name}:out"], absolute=TOLERANCE, what=name)


def test_training_frames_from_windows(vectors: dict[str, np.ndarray]) -> None:
    crops = vectors["gauss136:hr_u8"]
    lr_frames, hr_frames = windows_to_frames(torch.from_numpy(crops)[None])
    close(pixels(lr_frames)[0], vectors["gauss136:out"], absolute=TOLERANCE)
    inner = crops[:, 4:-4, 4:-4].astype(np.float64) / 255 * 2 - 1
    close(pixels(hr_frames)[0], inner, absolute=TOLERANCE)


def test_degradation_of_frames(vectors: dict[str, np.ndarray]) -> None:
    hr = images(vectors["cvdown:hr_u8"])[None].float() / 255
    close(pixels(blur_down(hr))[0], vectors["cvdown:out"], absolute=TOLERANCE)


def test_warp_and_its_gradients(vectors: dict[str, np.ndarray]) -> None:
    cases = sorted({key.split(":")[0] for key in vectors if key.startswith("warp_")})
    assert cases
    for case in cases:
        x = images(vectors[f"{case}:x"]).requires_grad_()
        flow = images(vectors[f"{case}:flow"]).requires_grad_()
        out = warp(x, flow)
        out.backward(images(vectors[f"{case}:up"]))
        assert x.grad is not None
        assert flow.grad is not None
        close(pixels(out), vectors[f"{case}:out"], absolute=TOLERANCE, what=case)
        close(pixels(x.grad), vectors[f"{case}:grad_x"], absolute=TOLERANCE, what=f"{case} grad_x")
        close(pixels(flow.grad), vectors[f"{case}:grad_flow"], absolute=TOLERANCE, what=f"{case} grad_flow")


def test_ranges(vectors: dict[str, np.ndarray]) -> None:
    close(to_signed(torch.from_numpy(vectors["preprocess:x"])), vectors["preprocess:out"], absolute=TOLERANCE)
    close(to_unit(torch.from_numpy(vectors["deprocess:x"])), vectors["deprocess:out"], absolute=TOLERANCE)


def test_symmetric_padding(vectors: dict[str, np.ndarray]) -> None:
    x, expected = images(vectors["pad_symmetric:x"]), images(vectors["pad_symmetric:out"])
    bottom, right = (grown - size for grown, size in zip(expected.shape[-2:], x.shape[-2:], strict=True))
    assert torch.equal(pad_symmetric(x, bottom, right), expected)


@pytest.mark.parametrize(
    ("name", "layer", "axes"),
    [
        ("conv3x3_s1_same", Conv3x3, (3, 2, 0, 1)),
        ("conv4x4_s2_same", HalvingConv4x4, (3, 2, 0, 1)),
        ("convT3x3_s2_same", DoublingConv3x3, (3, 2, 0, 1)),
    ],
)
def test_convolution(vectors: dict[str, np.ndarray], name: str, layer: type, axes: tuple[int, ...]) -> None:
    x, kernel = images(vectors[f"{name}:x"]), vectors[f"{name}:w"]
    module = layer(x.shape[1], images(vectors[f"{name}:out"]).shape[1])
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(kernel.transpose(axes).copy()))
        close(pixels(module(x)), vectors[f"{name}:out"], absolute=TOLERANCE, relative=1e-6, what=name)


def test_leaky_relu(vectors: dict[str, np.ndarray]) -> None:
    close(F.leaky_relu(torch.from_numpy(vectors["lrelu:x"]), 0.2), vectors["lrelu:out"], absolute=TOLERANCE)


def test_images_are_truncated_to_bytes(vectors: dict[str, np.ndarray]) -> None:
    assert np.array_equal(quantize(torch.from_numpy(vectors["save_img:x"])).numpy(), vectors["save_img:out"])


def test_kernel_is_the_original_gaussian(vectors: dict[str, np.ndarray]) -> None:
    impulse = torch.zeros(1, 1, 17, 17)
    impulse[..., 8, 8] = 1
    # Every 4th pixel of the impulse's image is every 4th tap of the kernel.
    close(blur_down_crops(impulse)[0, 0], vectors["gauss:kernel2d"][::4, ::4], absolute=1e-7)


def test_reference_folder_is_there(request: pytest.FixtureRequest) -> None:
    folder: Path = request.config.getoption("--reference")
    assert any(folder.glob("*.npz")), f"{folder} holds no reference vectors"
