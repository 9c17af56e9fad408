"""The streaming upscaler: one output for each input frame, in constant memory, on CPU or CUDA.

The frame order, the warm-up and the numbers are the original's inference (``main.py --mode inference`` of
thunil/TecoGAN; tests/parity), except that a sequence of fewer than 6 frames loses no output here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops.degrade import degrade_frames
from tecogan_dist.ops.images import quantize, to_unit

WARM_UP = 5
"""Frames that the original runs, in reverse, before the first one."""
SMALLEST_SIDE = 8
"""Low-resolution pixels that the flow network's three halvings need in a side."""

Precision = Literal["fp32", "bf16"]


class Upscaled(NamedTuple):
    """A frame before and after, on the device it was computed on."""

    lr_frame: Tensor
    """(3, h, w), around 0..1: what the model saw."""
    sr_frame: Tensor
    """(3, scale * h, scale * w), around 0..1, not clipped."""


def upscale_frames(
    model: RecurrentUpscaler,
    frames: Iterable[Tensor],
    *,
    device: torch.device,
    warm_up: int = WARM_UP,
    degrade: Degradation | None = None,
    precision: Precision = "fp32",
) -> Iterator[Tensor]:
    """:func:`upscale_float`, as images: yields (H, W, 3) uint8 in host memory, truncated as the original does."""
    upscaled = upscale_float(model, frames, device=device, warm_up=warm_up, degrade=degrade, precision=precision)
    return (image for (image,) in to_host((to_image(frame.sr_frame),) for frame in upscaled))


def upscale_float(
    model: RecurrentUpscaler,
    frames: Iterable[Tensor],
    *,
    device: torch.device,
    warm_up: int = WARM_UP,
    degrade: Degradation | None = None,
    precision: Precision = "fp32",
) -> Iterator[Upscaled]:
    """Upscale a sequence by the model's scale, each frame with the memory of the ones before it.

    ``frames``: (H, W, 3) RGB, uint8 or float 0..1, on any device, all of one size; they are drawn one at a time.
    ``model`` is on ``device``; it is fastest in channels_last. Yields one :class:`Upscaled` for each frame.

    ``warm_up``: the frames ``warm_up, ..., 2, 1`` are run before frame 0 and their outputs dropped, so that frame 0 has
    a past too. A sequence with fewer than ``warm_up + 1`` frames is warmed up with those it has; the original would
    drop real outputs there.

    ``degrade``: ``frames`` are of high resolution; the model sees their degradation
    (:func:`tecogan_dist.ops.degrade.degrade_frames`) and the output has scale * ceil(H / scale) rows and
    scale * ceil(W / scale) columns, to be cropped for a comparison.

    ``precision``: bf16 runs the convolutions under autocast. fp32 leaves torch's own switch for TF32 in force, which
    CUDA convolutions use by default: images then stay within a level of the original's and floats within 3e-3; with
    ``torch.backends.cudnn.allow_tf32 = False`` floats agree to 6e-6, at a third of the speed (H100, 960x540).

    Raises :class:`UserError` without any frame, for a low-resolution side below 8 and for frames of different sizes.
    """
    source = iter(frames)
    head = list(itertools.islice(source, warm_up + 1))
    if not head:
        raise UserError("there is no frame to upscale: choose an input with at least one.")
    stream = _Recurrence(model, size=head[0].shape[:2], device=device, degradation=degrade, precision=precision)
    for frame in reversed(head[1:]):
        stream.step(frame)
    while head:  # popped, so that the head does not stay in memory for the rest of a long video
        yield stream.step(head.pop(0))
    for frame in source:
        yield stream.step(frame)


def to_image(frame: Tensor) -> Tensor:
    """(3, H, W) around 0..1 to an image (H, W, 3) uint8 on the same device."""
    return quantize(frame).permute(1, 2, 0).contiguous()


def to_host(batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """Bring tuples of tensors to host memory, each while the next one is being computed.

    On CUDA the copies go to pinned memory on a stream of their own, and a tuple is handed on only after the next one's
    kernels have been queued. CPU tensors pass through, also one tuple late.
    """
    copies: torch.cuda.Stream | None = None
    waiting: tuple[tuple[Tensor, ...], torch.cuda.Event | None] | None = None
    for batch in batches:
        done = None
        if batch[0].is_cuda:
            copies = copies or torch.cuda.Stream(batch[0].device)
            copies.wait_stream(torch.cuda.current_stream(batch[0].device))
            with torch.cuda.stream(copies):
                batch = tuple(_download(tensor, copies) for tensor in batch)
                done = copies.record_event()
        if waiting:
            yield _finished(*waiting)
        waiting = (batch, done)
    if waiting:
        yield _finished(*waiting)


def _download(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    tensor.record_stream(stream)  # its memory may be reused only after the copy
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _finished(batch: tuple[Tensor, ...], done: torch.cuda.Event | None) -> tuple[Tensor, ...]:
    if done:
        done.synchronize()
    return batch


class _Recurrence:
    """The model with its state: the previous frame and the output it gave."""

    def __init__(
        self,
        model: RecurrentUpscaler,
        *,
        size: torch.Size,
        device: torch.device,
        degradation: Degradation | None,
        precision: Precision,
    ) -> None:
        lr_sides = [math.ceil(side / model.scale) for side in size] if degradation else size
        if min(lr_sides) < SMALLEST_SIDE:
            raise UserError(
                f"frames of {size[1]}x{size[0]} are too small: each side needs at least {SMALLEST_SIDE} low-resolution "
                "pixels."
            )
        self._model = model
        self._size = size
        self._device = device
        self._degradation = degradation
        self._autocast = precision == "bf16"
        self._uploads = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._previous: tuple[Tensor, Tensor] | None = None

    # As a decorator: a `with` in the generator would stay in force in the caller between two frames.
    @torch.inference_mode()
    def step(self, frame: Tensor) -> Upscaled:
        """Upscale the next frame, (H, W, 3). On CUDA this returns while the device still computes."""
        lr_frame = self._lr_frame(frame)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            if self._previous is None:
                signed = self._model.first_frame(lr_frame)
            else:
                signed = self._model.next_frame(lr_frame, *self._previous)
        self._previous = (lr_frame, signed)
        return Upscaled(lr_frame=lr_frame[0], sr_frame=to_unit(signed[0]))

    def _lr_frame(self, frame: Tensor) -> Tensor:
        """(H, W, 3) on any device to (1, 3, h, w), 0..1, on the model's."""
        if frame.shape[:2] != self._size:
            raise UserError(
                f"frames of {self._size[1]}x{self._size[0]} and of {frame.shape[1]}x{frame.shape[0]} are mixed: "
                "give frames of one size."
            )
        pixels = self._upload(frame).permute(2, 0, 1).unsqueeze(0)
        lr_frame = degrade_frames(pixels, self._degradation, self._model.scale)
        return lr_frame.contiguous(memory_format=torch.channels_last)

    def _upload(self, frame: Tensor) -> Tensor:
        """The frame on the model's device; its copy runs beside the kernels of the frame before it."""
        if self._uploads is None or frame.is_cuda:
            return frame.to(self._device)
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._uploads):
            uploaded = frame.pin_memory().to(self._device, non_blocking=True)
        compute.wait_stream(self._uploads)
        uploaded.record_stream(compute)  # its memory may be reused only after this frame's kernels
        return uploaded
