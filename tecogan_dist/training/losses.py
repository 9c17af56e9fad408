"""The losses of TecoGAN (Chu et al. 2020, section 3; lib/Teco.py of thunil/TecoGAN), each a 0-dim tensor.

Image losses take (N, T, C, H, W) tensors. Means run over all axes but the channels, over which the original sums in all
losses except ping-pong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tecogan_dist.base.invariants import require
from tecogan_dist.models.vgg import FEATURES, Vgg19
from tecogan_dist.ops.resampling import warp

LOG_EPSILON = 1e-12
"""Added inside the logarithms of the adversarial losses (the original's EPS)."""


def content(sr_frames: Tensor, hr_frames: Tensor) -> Tensor:
    """Squared distance of generated and target frames, both in -1..1, summed over channels."""
    return (sr_frames - hr_frames).square().sum(dim=2).mean()


def warping(lr_frames: Tensor, lr_flow: Tensor) -> Tensor:
    """Squared distance of each low-resolution frame and its predecessor warped onto it; trains the flow network.

    ``lr_frames`` (N, T, 3, h, w), 0..1; ``lr_flow`` (N, T - 1, 2, h, w).
    """
    warped = warp(lr_frames[:, :-1].flatten(0, 1), lr_flow.flatten(0, 1))
    return (warped - lr_frames[:, 1:].flatten(0, 1)).square().sum(dim=1).mean()


def ping_pong(sr_frames: Tensor) -> Tensor:
    """Mean absolute difference of each frame on the way there and on the way back (equation 3).

    ``sr_frames`` (N, 2 n - 1, 3, H, W) of a mirrored sequence; its middle frame has no twin.
    """
    n = (sr_frames.shape[1] + 1) // 2
    return (sr_frames[:, : n - 1] - sr_frames[:, n:].flip(1)).abs().mean()


def adversarial(fake_score: Tensor) -> Tensor:
    """Non-saturating generator loss, from probabilities."""
    return -torch.log(fake_score + LOG_EPSILON).mean()


def discrimination(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """The discriminator's own loss, from probabilities."""
    return -(torch.log(1 - fake_score + LOG_EPSILON) + torch.log(real_score + LOG_EPSILON)).mean()


def feature_distances(real_features: list[Tensor], fake_features: list[Tensor]) -> list[Tensor]:
    """Absolute distance of the discriminator's features at each layer, (N, C, H, W) each, summed over channels."""
    return [
        (real.float() - fake.float()).abs().sum(dim=1).mean()
        for real, fake in zip(real_features, fake_features, strict=True)
    ]


def perceptual(sr_frames: Tensor, hr_frames: Tensor, vgg: Vgg19, *, chunk: int) -> tuple[Tensor, Tensor]:
    """Cosine distance of VGG19 features, 1 - mean cosine, summed over the four layers.

    ``sr_frames`` (N, T, 3, H, W) and ``hr_frames`` (N, n, 3, H, W), -1..1, with T = n or T = 2 n - 1 for a mirrored
    sequence, whose way back has the targets of the way there. Returns the sum and the (4,) distances of the layers;
    only the sum carries a gradient, and only to ``sr_frames``.

    VGG19 is most of a training step's time and memory, so a target's features are computed once for both frames that
    have it, and ``chunk`` frames at a time are sent through the network and back: what is kept for the backward pass
    is the gradient image, not VGG19's activations.
    """
    total, layers = _Perceptual.apply(sr_frames, hr_frames, vgg, chunk)
    return total, layers


class _Perceptual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sr_frames: Tensor, hr_frames: Tensor, vgg: Vgg19, chunk: int) -> tuple[Tensor, Tensor]:
        n, t = sr_frames.shape[:2]
        length = hr_frames.shape[1]
        require(t in (length, 2 * length - 1), f"{t} frames are {length}, or those mirrored")
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(sr_frames) if needs_gradient else None
        cosines = sr_frames.new_zeros(len(FEATURES))
        # Frame i and its mirror image 2 (length - 1) - i are compared with the same target features.
        ways = [range(length)] if t == length else [range(length), range(t - 1, length - 2, -1)]
        for first in range(0, n * length, chunk):
            places = [divmod(k, length) for k in range(first, min(first + chunk, n * length))]
            sample = torch.tensor([s for s, _ in places], device=sr_frames.device)
            target_index = torch.tensor([i for _, i in places], device=sr_frames.device)
            target_features = vgg(hr_frames[sample, target_index])
            for way in ways:
                kept = [j for j, (_, i) in enumerate(places) if way is ways[0] or i < length - 1]
                if not kept:
                    continue
                index = torch.tensor([way[places[j][1]] for j in kept], device=sr_frames.device)
                frames = sr_frames[sample[kept], index].detach().requires_grad_(needs_gradient)
                with torch.set_grad_enabled(needs_gradient):
                    layers = torch.stack(
                        [
                            (ours * target[kept]).sum(1).mean((1, 2)).sum() / (n * t)
                            for ours, target in zip(vgg(frames), target_features, strict=True)
                        ]
                    )
                    cosines += layers.detach()
                    if gradient is not None:
                        (gradient[sample[kept], index],) = torch.autograd.grad(-layers.sum(), frames)
        distances = 1 - cosines
        ctx.mark_non_differentiable(distances)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return distances.sum(), distances

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _grad_layers: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_total, None, None, None
