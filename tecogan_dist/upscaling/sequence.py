"""A whole sequence of frames through the network, in the order of the original's inference.

That is ``main.py --mode inference`` of thunil/TecoGAN (tests/parity), except that a sequence of fewer than 6 frames
loses no output here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling.images import to_host, to_image
from tecogan_dist.upscaling.recurrence import Precision, Recurrence, Upscaled


def upscale_frames(
    model: RecurrentUpscaler,
    frames: Iterable[Tensor],
    *,
    device: torch.device,
    warm_up: int | None = None,
    degrade: Degradation | None = None,
    precision: Precision = "fp32",
) -> Iterator[Tensor]:
    """:func:`upscale_float`, as images: yields (H, W, 3) uint8 in host memory, truncated or rounded as the model is."""
    upscaled = upscale_float(model, frames, device=device, warm_up=warm_up, degrade=degrade, precision=precision)
    return (image for (image,) in to_host((to_image(frame.sr_frame, rounds=model.rounds),) for frame in upscaled))


def upscale_float(
    model: RecurrentUpscaler,
    frames: Iterable[Tensor],
    *,
    device: torch.device,
    warm_up: int | None = None,
    degrade: Degradation | None = None,
    precision: Precision = "fp32",
) -> Iterator[Upscaled]:
    """Upscale a sequence by the model's scale, each frame with the memory of the ones before it.

    ``frames``: (H, W, 3) RGB, uint8 or float 0..1, on any device, all of one size; they are drawn one at a time.
    ``model`` is on ``device``; it is fastest in channels_last. Yields one :class:`Upscaled` for each frame.

    ``warm_up``: the frames ``warm_up, ..., 2, 1`` are run before frame 0 and their outputs dropped, so that frame 0 has
    a past too; None for the model's own number, 5 in the original. A sequence with fewer than ``warm_up + 1`` frames is
    warmed up with those it has; the original would drop real outputs there.

    ``degrade``: ``frames`` are of high resolution; the model sees their degradation
    (:func:`tecogan_dist.ops.degrade.degrade_frames`) and the output has scale * ceil(H / scale) rows and
    scale * ceil(W / scale) columns, to be cropped for a comparison.

    ``precision`` on CUDA (H100, 960x540): with fp32 floats agree with the original's to 6e-6; with tf32 images
    stay within a level and floats within 3e-3, at three times the speed; bf16 runs the convolutions under autocast,
    also on a CPU.

    Raises :class:`UserError` without any frame, for a low-resolution side below 8 and for frames of different sizes.
    """
    warm_up = model.warm_up if warm_up is None else warm_up
    source = iter(frames)
    head = list(itertools.islice(source, warm_up + 1))
    if not head:
        raise UserError("there is no frame to upscale: choose an input with at least one.")
    stream = Recurrence(model, size=head[0].shape[:2], device=device, degradation=degrade, precision=precision)
    for frame in reversed(head[1:]):
        stream.step(frame)
    while head:  # popped, so that the head does not stay in memory for the rest of a long video
        yield stream.step(head.pop(0))
    for frame in source:
        yield stream.step(frame)
