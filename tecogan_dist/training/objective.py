"""The objective of training: networks and a batch in, named losses and the roots of both gradients out.

It knows nothing of Ray, DeepSpeed, checkpoints or logging. Everything is computed with the weights before the step; the
caller backpropagates both roots before it moves any weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tecogan_dist.base.invariants import present, require
from tecogan_dist.config.degradations import is_centred
from tecogan_dist.config.schema import Config, DiscriminatorConfig
from tecogan_dist.models.recurrent import Unrolled
from tecogan_dist.models.vgg import FEATURES, Vgg19
from tecogan_dist.ops.resampling import resize_bilinear, warp
from tecogan_dist.training import losses


@dataclass(frozen=True)
class ObjectiveResult:
    """The losses of a batch, still attached to their graph where that is said."""

    losses: dict[str, Tensor]
    """Raw losses by name, detached 0-dim tensors; ``total`` is the generator's weighted sum without ``warp``."""
    generator_loss: Tensor
    """Its backward pass trains flow network and generator; the warp loss reaches the flow network only."""
    discriminator_loss: Tensor | None
    """Its backward pass trains the discriminator; None where there is none."""
    unrolled: Unrolled
    """What the window became, for summaries."""


class Objective:
    """The losses that a config asks for. ``vgg`` is needed exactly when ``loss.perceptual`` is positive."""

    def __init__(self, config: Config, *, vgg: Vgg19 | None) -> None:
        require((vgg is not None) == (config.loss.perceptual > 0), "VGG19 is there exactly when it is needed")
        self.config = config
        self.vgg = vgg

    def __call__(
        self,
        *,
        upscaler: Callable[..., Unrolled],
        discriminator: Callable[..., tuple[Tensor, list[Tensor]]] | None,
        discriminator_module: nn.Module | None,
        lr_frames: Tensor,
        hr_frames: Tensor,
        fade_in: float | Tensor,
        update_statistics: bool = True,
    ) -> ObjectiveResult:
        """Forward everything once.

        ``lr_frames`` (N, T, 3, h, w), 0..1; ``hr_frames`` (N, T, 3, H, W), -1..1. ``discriminator`` is what real
        triplets go through (a DeepSpeed engine or the module itself), ``discriminator_module`` the bare module that
        generated ones go through: an engine must not see that the generator's gradient is taken, too. ``fade_in``
        scales the adversarial and feature-match losses. ``update_statistics`` is False for validation.
        """
        weights = self.config.loss
        values: dict[str, Tensor] = {}
        mirrored = weights.pingpong > 0
        inputs, targets = (mirror(lr_frames), mirror(hr_frames)) if mirrored else (lr_frames, hr_frames)
        unrolled = upscaler(inputs, with_return_flow=discriminator is not None and not mirrored)
        sr_frames = unrolled.sr_frames

        values["content"] = total = losses.content(sr_frames, targets)
        values["warp"] = losses.warping(inputs, unrolled.lr_flow)
        if self.vgg is not None:
            distance, layers = losses.perceptual(sr_frames, hr_frames, self.vgg, chunk=self.config.perceptual.chunk)
            values |= {f"perceptual_{name}": layer for name, layer in zip(FEATURES, layers, strict=True)}
            values["perceptual"] = distance
            total = total + weights.perceptual * distance
        if mirrored:
            values["pingpong"] = losses.ping_pong(sr_frames)
            total = total + weights.pingpong * values["pingpong"]

        discriminator_loss = None
        if discriminator is not None:
            flow = triplet_flow(unrolled)
            lr_triplets = None
            if not self.config.discriminator.temporal_only:
                centred = is_centred(self.config.data.degradation)
                lr_triplets = enlarged_triplets(inputs, self.config.model.scale, centred=centred)
            real = triplets(targets, flow, lr_triplets, self.config.discriminator)
            fake = triplets(sr_frames, flow, lr_triplets, self.config.discriminator)
            judge = present(discriminator_module, "a discriminator comes with its module")
            judgement = self._judgement(
                discriminator, judge, real, fake, fade_in=fade_in, update_statistics=update_statistics
            )
            values |= judgement.losses
            total = total + judgement.generator_loss
            discriminator_loss = judgement.discriminator_loss
        values["total"] = total
        return ObjectiveResult(
            losses={name: value.detach() for name, value in values.items()},
            generator_loss=total + weights.warp * values["warp"],
            discriminator_loss=discriminator_loss,
            unrolled=unrolled,
        )

    def _judgement(
        self,
        discriminator: Callable[..., tuple[Tensor, list[Tensor]]],
        module: nn.Module,
        real: Tensor,
        fake: Tensor,
        *,
        fade_in: float | Tensor,
        update_statistics: bool,
    ) -> Judgement:
        """What the discriminator makes of triplets: ``real`` ones through ``discriminator``, ``fake`` ones through its
        ``module``."""
        weights = self.config.loss
        values: dict[str, Tensor] = {}
        real_score, real_features = discriminator(real, update_statistics=update_statistics)
        # One pass for both networks' losses, as in the original's graph. It begins at a copy of the triplets, where the
        # generator's gradient is taken here and the discriminator's backward pass ends. (That computes the copy's
        # gradient once more, for nothing: a tenth of what the pass saves. With ZeRO 3 DeepSpeed counts two backward
        # passes over these modules, and the engines' tests show that it brings the weights in for both.)
        seen = fake.detach().requires_grad_(fake.requires_grad)
        fake_score, fake_features = module(seen, update_statistics=update_statistics)
        values["adversarial"] = losses.adversarial(fake_score)
        generator_loss = fade_in * weights.adversarial * values["adversarial"]
        if weights.feature_match > 0:
            distances = losses.feature_distances([f.detach() for f in real_features], fake_features)
            values |= {f"feature_match_{i}": distance for i, distance in enumerate(distances)}
            # Numbers of Python: a tensor of them would be copied to the GPU, which waits for it.
            terms = zip(distances, weights.feature_match_norms, strict=True)
            values["feature_match"] = torch.stack([weights.feature_match * d / norm for d, norm in terms]).sum()
            generator_loss = generator_loss + fade_in * values["feature_match"]
        if seen.requires_grad:
            (gradient,) = torch.autograd.grad(generator_loss, seen, retain_graph=True)
            generator_loss = losses.with_gradient(generator_loss, of=fake, gradient=gradient)
        values["discriminator"] = losses.discrimination(real_score, fake_score)
        values["real_score"], values["fake_score"] = real_score.mean(), fake_score.mean()
        values["accuracy"] = ((real_score > 0.5).float().mean() + (fake_score < 0.5).float().mean()) / 2
        # How far the discriminator is ahead: 0 when it cannot tell; the caller averages and compares it.
        values["balance"] = torch.log(real_score + losses.LOG_EPSILON).mean() + values["adversarial"]
        return Judgement(values, generator_loss, values["discriminator"])


@dataclass(frozen=True)
class Judgement:
    """Losses by name, the generator's part of them, which trains nothing else, and the discriminator's own."""

    losses: dict[str, Tensor]
    generator_loss: Tensor
    discriminator_loss: Tensor


def mirror(frames: Tensor) -> Tensor:
    """(N, n, ...) to (N, 2 n - 1, ...): there and back, the last frame once."""
    return torch.cat([frames, frames[:, :-1].flip(1)], dim=1)


def triplet_flow(unrolled: Unrolled) -> Tensor:
    """Flow that brings the first and the last frame of every triplet onto its middle one, without gradient.

    T frames make floor(T / 3) triplets side by side. Returns (N, floor(T / 3), 2, 2, H, W): axis 2 is first and last.
    The first comes from the unrolling; so does the last in a mirrored sequence, where the way back holds it.
    """
    hr_flow = unrolled.hr_flow.detach()
    steps = hr_flow.shape[1]
    count = (steps + 1) // 3
    to_middle = hr_flow[:, 0 : 3 * count : 3]
    if unrolled.return_flow is not None:
        return torch.stack([to_middle, unrolled.return_flow], dim=2)
    # Triplet k's frames 3 k + 2 -> 3 k + 1 are played by the way back from frame (steps - 2 - 3 k) on.
    last = steps - 2 - 3 * (count - 1)
    return torch.stack([to_middle, hr_flow[:, last : steps - 1 : 3].flip(1)], dim=2)


def enlarged_triplets(lr_frames: Tensor, scale: int, *, centred: bool) -> Tensor:
    """Bilinearly enlarged low-resolution triplets, (N * floor(T / 3), 9, H, W), 0..1."""
    count = lr_frames.shape[1] // 3
    enlarged = resize_bilinear(lr_frames[:, : 3 * count].flatten(0, 1), scale, centred=centred)
    return stack_colours(enlarged.unflatten(0, (-1, 3)))


def triplets(frames: Tensor, flow: Tensor, lr_triplets: Tensor | None, discriminator: DiscriminatorConfig) -> Tensor:
    """What the discriminator sees of ``frames`` (N, T, 3, H, W), -1..1.

    (N * floor(T / 3), 27, H, W): the triplets as they are, warped onto their middle frame with ``flow`` (only the
    central part, grey around it), and enlarged from low resolution. With ``temporal_only`` the warped central part
    alone, (N * floor(T / 3), 9, H', W').
    """
    count = flow.shape[1]
    unwarped = frames[:, : 3 * count].unflatten(1, (count, 3)).flatten(0, 1)
    outer = warp(unwarped[:, ::2].flatten(0, 1), flow.flatten(0, 2)).unflatten(0, (-1, 2))
    warped = stack_colours(torch.stack([outer[:, 0], unwarped[:, 1], outer[:, 1]], dim=1))
    margins = [(side - int(side * discriminator.temporal_crop)) // 2 for side in warped.shape[-2:]]
    y, x = margins
    centre = warped[..., y : warped.shape[-2] - y, x : warped.shape[-1] - x]
    if lr_triplets is None:
        return centre
    return torch.cat([stack_colours(unwarped), F.pad(centre, (x, x, y, y)), lr_triplets], dim=1)


def stack_colours(frame_triplets: Tensor) -> Tensor:
    """(M, 3, C, H, W) to (M, 3 C, H, W), colour by colour: R of the three frames, then G, then B."""
    return frame_triplets.transpose(1, 2).flatten(1, 2)
