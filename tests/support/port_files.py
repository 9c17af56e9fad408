"""State dicts as TecoGAN-PyTorch saves them: names and shapes written down from its code, and weights by a rule."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

KERNELS = ("upsample_func.kernels", "srnet.upsample_func.kernels")


def port_shapes(
    *, blocks: int, scale: int = 4, degradation: str = "BD", channels: int = 64, width: int = 32
) -> dict[str, tuple[int, ...]]:
    """Of the state dict of its FRNet: in the published ones, of 10 blocks, width and channels are the defaults."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"{name}.bias"] = (outputs,)

    before = 6
    for level, factor in zip(
        ("encoder1", "encoder2", "encoder3", "decoder1", "decoder2", "decoder3"), (1, 2, 4, 8, 4, 2), strict=True
    ):
        convolution(f"fnet.{level}.0", before, factor * width)
        convolution(f"fnet.{level}.2", factor * width, factor * width)
        before = factor * width
    convolution("fnet.flow.0", before, width)
    convolution("fnet.flow.2", width, 2)
    convolution("srnet.conv_in.0", 3 + 3 * scale**2, channels)
    for block in range(blocks):
        convolution(f"srnet.resblocks.{block}.conv.0", channels, channels)
        convolution(f"srnet.resblocks.{block}.conv.2", channels, channels)
    for layer in (0, 2)[: scale // 2]:
        convolution(f"srnet.conv_up.{layer}", channels, channels)
    convolution("srnet.conv_out", channels, 3)
    return shapes | (dict.fromkeys(KERNELS, (scale, 4)) if degradation == "BD" else {})


def port_state(shapes: Mapping[str, tuple[int, ...]], *, seed: int) -> OrderedDict[str, Tensor]:
    """Weights by the rule of shared/reference-pytorch-port/README.md, with the metadata that torch's modules save."""
    state = OrderedDict((name, torch.from_numpy(_by_rule(name, shape, seed))) for name, shape in shapes.items())
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]  # as torch sets it
    return state


def _by_rule(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    if name in KERNELS:
        return cubic_kernels(shape[0])
    values = np.random.RandomState(zlib.crc32(f"{seed}:port:{name}".encode())).standard_normal(shape)
    values = values.astype(np.float32)
    if name.endswith(".bias"):
        return values * np.float32(0.01)
    fan_in = shape[0] * 9 / 4 if ".conv_up." in name else shape[1] * 9
    values = values * np.float32(np.sqrt(2 / fan_in))
    return values * np.float32(0.1) if name.endswith(("flow.2.weight", "conv_out.weight")) else values


def cubic_kernels(scale: int) -> np.ndarray:
    """(scale, 4): cubic convolution with a = -0.75 (Keys 1981, equation 4) at 4 pixels, for each phase."""
    a = -0.75

    def weight(distance: float) -> float:
        if distance <= 1:
            return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a

    phases = [phase / scale for phase in range(scale)]
    return np.array([[weight(abs(tap - phase)) for tap in (-1, 0, 1, 2)] for phase in phases], np.float32)
