"""VGG19 up to conv5_4, for the perceptual loss."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tecogan_dist.models import layers
from tecogan_dist.ops.images import to_unit

LEVELS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and number of convolutions of each level."""
FEATURES = ("conv2_2", "conv3_4", "conv4_4", "conv5_4")
"""The layers that the perceptual loss compares, after their ReLU."""

Preprocessing = Literal["torchvision", "tf_slim"]


class Vgg19(nn.Module):
    """Frozen feature extractor. Parameters are named ``conv1_1.weight`` ... ``conv5_4.bias``.

    ``preprocessing`` must be that of the weights: ``torchvision`` takes 0..1 minus ImageNet's mean over its deviation,
    ``tf_slim`` takes 0..255 minus (123.68, 116.78, 103.94) as the original rounds them (lib/Teco.py), both RGB.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        in_channels = 3
        self.names: list[str] = []
        for level, (channels, count) in enumerate(LEVELS, start=1):
            for i in range(1, count + 1):
                self.names.append(f"conv{level}_{i}")
                self.add_module(self.names[-1], nn.Conv2d(in_channels, channels, 3, padding=1))
                in_channels = channels
        if preprocessing == "torchvision":
            self.levels = 1.0
            mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        else:
            self.levels = 255.0
            mean, deviation = torch.tensor([123.68, 116.78, 103.94]), torch.ones(3)
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", deviation.view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Features of ``frames`` (N, 3, H, W), -1..1, float32: one tensor for each name in FEATURES."""
        x = layers.channels_last((to_unit(frames) * self.levels - self.mean) / self.deviation)
        features = []
        for name in self.names:
            if name.endswith("_1") and name != "conv1_1":
                x = F.max_pool2d(x, 2)
            x = F.relu(self.get_submodule(name)(x), inplace=True)
            if name in FEATURES:
                features.append(x.float())
        return features


def unit(features: Tensor) -> Tensor:
    """Features (N, C, H, W) of which each pixel has the length 1."""
    return features * _per_length(features).unsqueeze(1)


def cosine(features: Tensor, units: Tensor) -> Tensor:
    """(N, H, W): cosine of each pixel's features with those that :func:`unit` gave. Both (N, C, H, W)."""
    return (features * units).sum(1) * _per_length(features)


def _per_length(features: Tensor) -> Tensor:
    """One over sqrt(sum over channels of the squares + 1e-12), the original's length."""
    return torch.rsqrt(features.square().sum(1) + 1e-12)
