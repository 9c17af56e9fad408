"""The frame-recurrent upscaler: flow network and generator, one frame at a time or unrolled over a window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tecogan_dist.models.flow import FlowNetwork
from tecogan_dist.models.generator import Generator
from tecogan_dist.ops.images import pad_symmetric, space_to_depth, to_unit
from tecogan_dist.ops.resampling import resize_bilinear, warp


@dataclass(frozen=True)
class Unrolled:
    """What a window became. T frames; T - 1 steps between them."""

    sr_frames: Tensor
    """(N, T, 3, H, W), around -1..1; H and W are scale * h and scale * w."""
    lr_flow: Tensor
    """(N, T - 1, 2, h, w) from each frame to the next, in low-resolution pixels."""
    hr_flow: Tensor
    """(N, T - 1, 2, H, W), the same in high-resolution pixels."""
    warped: Tensor
    """(N, T - 1, 3, H, W): each output warped onto the next frame, what the generator was given."""
    return_flow: Tensor | None
    """(N, T // 3, 2, H, W): from each triplet's last frame back to its middle one; None if not asked for."""


class RecurrentUpscaler(nn.Module):
    """The network that is trained and shipped. Its sub-modules are ``flow`` and ``generator``.

    ``scale``: 4 or 2. ``centred``: where low-resolution pixels lie, by the degradation that it is trained on
    (:func:`tecogan_dist.config.degradations.is_centred`); it changes fixed resamplings only. ``checkpointing``: only an
    unrolled frame's output is kept for the backward pass, which computes the rest again; results are the same.
    """

    warm_up: int = 5
    """Frames that the original's inference runs, in reverse, before the first one (``main.py`` of thunil/TecoGAN)."""
    rounds: ClassVar[bool] = False
    """Whether outputs become images by rounding: the original truncates (``save_img``)."""
    FLOW: ClassVar[type[FlowNetwork]] = FlowNetwork
    GENERATOR: ClassVar[type[Generator]] = Generator

    def __init__(
        self,
        *,
        blocks: int = 16,
        channels: int = 64,
        flow_width: int = 32,
        output_init_scale: float = 1.0,
        scale: int = 4,
        centred: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.scale = scale
        self.centred = centred
        self.warp: Callable[[Tensor, Tensor], Tensor] = warp  # models/inference.py has an equal without gradients
        self.flow = self.FLOW(flow_width)
        self.generator = self.GENERATOR(
            blocks=blocks, channels=channels, output_init_scale=output_init_scale, scale=scale, centred=centred
        )

    def forward(self, lr_frames: Tensor, *, with_return_flow: bool = False) -> Unrolled:
        """Unroll over ``lr_frames`` (N, T, 3, h, w), 0..1, h and w divisible by 8, T at least 2.

        All flows are computed in one pass; the generator runs frame by frame, each on the warped output of the last.
        ``with_return_flow`` adds ``return_flow``, without a gradient: the discriminator needs it where the sequence
        does not play backwards itself.
        """
        n, t = lr_frames.shape[:2]
        lr_flow = self.flow(lr_frames[:, :-1].flatten(0, 1), lr_frames[:, 1:].flatten(0, 1))
        hr_flow = self._enlarge_flow(lr_flow).unflatten(0, (n, t - 1))
        sr_frames = [self.first_frame(lr_frames[:, 0])]
        warped = []
        for i in range(1, t):
            arguments = (lr_frames[:, i], sr_frames[-1], hr_flow[:, i - 1])
            if self.checkpointing and torch.is_grad_enabled():
                pair = checkpoint(self._after, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                pair = self._after(*arguments)
            warped.append(pair[0])
            sr_frames.append(pair[1])
        return Unrolled(
            sr_frames=torch.stack(sr_frames, dim=1),
            lr_flow=lr_flow.unflatten(0, (n, t - 1)),
            hr_flow=hr_flow,
            warped=torch.stack(warped, dim=1),
            return_flow=self._return_flow(lr_frames) if with_return_flow else None,
        )

    @torch.no_grad()
    def _return_flow(self, lr_frames: Tensor) -> Tensor:
        n, t = lr_frames.shape[:2]
        triplets = lr_frames[:, : t // 3 * 3].unflatten(1, (t // 3, 3))
        lr_flow = self.flow(triplets[:, :, 2].flatten(0, 1), triplets[:, :, 1].flatten(0, 1))
        return self._enlarge_flow(lr_flow).unflatten(0, (n, t // 3))

    def first_frame(self, lr_frame: Tensor) -> Tensor:
        """Upscale (N, 3, h, w), 0..1, without a past; returns (N, 3, H, W) around -1..1."""
        n, c, h, w = lr_frame.shape
        return self.generator(lr_frame, lr_frame.new_zeros(n, c * self.scale * self.scale, h, w))

    def next_frame(self, lr_frame: Tensor, previous_lr: Tensor, previous_sr: Tensor) -> Tensor:
        """Upscale a frame (N, 3, h, w), 0..1, after ``previous_lr`` and the output it gave, ``previous_sr``.

        Any h and w of at least 8: the flow of the part divisible by 8 is mirrored outwards at the bottom and right,
        as the original's inference does.
        """
        h, w = lr_frame.shape[-2:]
        lr_flow = self.flow(previous_lr, lr_frame)
        lr_flow = self._pad_flow(lr_flow, h - lr_flow.shape[-2], w - lr_flow.shape[-1])
        return self._after(lr_frame, previous_sr, self._enlarge_flow(lr_flow))[1]

    def _after(self, lr_frame: Tensor, previous_sr: Tensor, hr_flow: Tensor) -> tuple[Tensor, Tensor]:
        """The previous output warped onto this frame, and this frame's output."""
        warped = self.warp(previous_sr, hr_flow)
        return warped, self.generator(lr_frame, space_to_depth(to_unit(warped), self.scale))

    def _recall(self, previous_sr: Tensor, hr_flow: Tensor) -> Tensor:
        """The previous output warped onto this frame, (N, 3, H, W), 0..1."""
        return to_unit(self.warp(previous_sr, hr_flow))

    def _pad_flow(self, lr_flow: Tensor, bottom: int, right: int) -> Tensor:
        """Low-resolution flow continued at the bottom and right by less than 8 pixels."""
        return pad_symmetric(lr_flow, bottom, right)

    def _enlarge_flow(self, lr_flow: Tensor) -> Tensor:
        """Low-resolution flow (N, 2, h, w) to high resolution (N, 2, H, W), in high-resolution pixels."""
        return resize_bilinear(lr_flow * self.scale, self.scale, centred=self.centred)
