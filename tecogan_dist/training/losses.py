"""The losses of TecoGAN (Chu et al. 2020, section 3; lib/Teco.py of thunil/TecoGAN), each a 0-dim tensor.

Image losses take (N, T, C, H, W) tensors. Means run over all axes but the channels, over which the original sums in all
losses except ping-pong.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from tecogan_dist.base.invariants import require
from tecogan_dist.models.vgg import FEATURES, LEVELS, Vgg19, cosine, unit
from tecogan_dist.ops.resampling import warp

LOG_EPSILON = 1e-12
"""Added inside the logarithms of the adversarial losses (the original's EPS)."""
CPU_CHUNK_BYTES = 2**24
"""Of a chunk's features in VGG19's first level, which are its largest: 4 frames of 128x128. With more a CPU fetches new
memory from the kernel for every layer (31 instead of 211 GFLOP/s in the first one), with fewer the last levels' weights
are read too often."""


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
    have it, and ``chunk`` frames at a time (on a CPU no more than CPU_CHUNK_BYTES) are sent through the network and
    back: what is kept for the backward pass is the gradient image, not VGG19's activations.
    """
    n, t, _, h, w = sr_frames.shape
    length = hr_frames.shape[1]
    require(t in (length, 2 * length - 1), f"{t} frames are {length}, or those mirrored")
    if not sr_frames.is_cuda:
        chunk = min(chunk, max(1, CPU_CHUNK_BYTES // (LEVELS[0][0] * h * w * sr_frames.element_size())))
    needs_gradient = torch.is_grad_enabled() and sr_frames.requires_grad
    ours, targets = sr_frames.detach().flatten(0, 1), hr_frames.flatten(0, 1)
    gradient = torch.zeros_like(ours) if needs_gradient else None
    cosines = ours.new_zeros(len(FEATURES))
    for rows, ways in _comparisons(n, length, t, chunk, ours.device):
        with torch.no_grad():
            target_features = [unit(layer) for layer in vgg(targets[rows])]
        for compared, kept in ways:
            frames = ours[compared].requires_grad_(needs_gradient)
            with torch.set_grad_enabled(needs_gradient):
                layers = torch.stack(
                    [
                        cosine(layer, target[kept]).mean((1, 2)).sum() / (n * t)
                        for layer, target in zip(vgg(frames), target_features, strict=True)
                    ]
                )
                cosines += layers.detach()
                if gradient is not None:
                    (gradient[compared],) = torch.autograd.grad(-layers.sum(), frames)
    distances = 1 - cosines
    total = distances.sum()
    if gradient is not None:
        total = with_gradient(total, of=sr_frames, gradient=gradient.view_as(sr_frames))
    return total, distances


@functools.cache
def _comparisons(
    n: int, length: int, t: int, chunk: int, device: torch.device
) -> list[tuple[Tensor, list[tuple[Tensor, Tensor]]]]:
    """For each chunk of the n * ``length`` targets: their rows, and for the way there and the way back the rows of the
    n * ``t`` frames and which of the chunk's targets those are compared with.

    Kept on the device, for each copy of a list to a GPU would wait for it; and for good, for captured steps read them.
    """
    found = []
    chunk = -(-n * length // -(-n * length // chunk))  # all as large as they can be alike
    with torch.inference_mode(False):  # a tensor of inference mode would be of no use for training later
        for first in range(0, n * length, chunk):
            places = [divmod(k, length) for k in range(first, min(first + chunk, n * length))]
            ways = [[(s * t + i, j) for j, (s, i) in enumerate(places)]]
            if t > length:  # frame i and its mirror image, 2 (length - 1) - i; the last one has none
                ways.append([(s * t + t - 1 - i, j) for j, (s, i) in enumerate(places) if i < length - 1])
            on_device = [torch.tensor(way, device=device).unbind(1) for way in ways if way]
            rows = torch.arange(first, first + len(places), device=device)
            found.append((rows, [(compared, kept) for compared, kept in on_device]))
    return found


def with_gradient(loss: Tensor, *, of: Tensor, gradient: Tensor) -> Tensor:
    """``loss``, a 0-dim tensor, with a gradient that is known already: its backward pass gives ``gradient`` to ``of``
    and nothing to anything else."""
    attached: Tensor = _WithGradient.apply(of, loss.detach(), gradient)
    return attached


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, of: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None
