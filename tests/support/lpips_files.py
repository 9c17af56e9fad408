"""Weights of an LPIPS trunk without a download: by the reference's rule, in torchvision's names."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
import torchvision

MODELS = {
    "alex": torchvision.models.alexnet,
    "squeeze": torchvision.models.squeezenet1_1,
    "vgg": torchvision.models.vgg16,
}
RULE_NAMES = {"alex": "alexnet", "squeeze": "squeezenet", "vgg": "vgg16"}


def write_trunk(path: Path, *, net: str = "alex", seed: int = 101) -> Path:
    """The state dict of the whole classifier's features, as torchvision saves it, with values of the rule."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in MODELS[net]().state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        if name.startswith("features."):
            random = np.random.RandomState(zlib.crc32(f"{seed}:{RULE_NAMES[net]}:{name}".encode()))
            values = random.standard_normal(shape).astype(np.float32)
            scale = 0.01 if name.endswith("bias") else np.sqrt(2 / np.prod(shape[1:]))
            state[name] = torch.from_numpy(values * np.float32(scale))
    torch.save(state, path)
    return path
