"""The streaming upscaler: one output for each input frame, in constant memory, on CPU or CUDA.

The frame order, the warm-up and the numbers are the original's inference (``main.py --mode inference`` of
thunil/TecoGAN; tests/parity), except that a sequence of fewer than 6 frames loses no output here.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.models.inference import for_inference
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.models.tiles import SMALLEST_TILE, TiledUpscaler
from tecogan_dist.ops.degrade import degrade_frames
from tecogan_dist.ops.images import quantize, to_unit
from tecogan_dist.upscaling.graph import FrameNetwork, GraphedUpscaler
from tecogan_dist.upscaling.tiles import is_out_of_memory, smaller_tile

SMALLEST_SIDE = 8
"""Low-resolution pixels that the flow network's three halvings need in a side."""

Precision = Literal["fp32", "tf32", "bf16"]


class Upscaled(NamedTuple):
    """A frame before and after, on the device it was computed on."""

    lr_frame: Tensor
    """(3, h, w), around 0..1: what the model saw."""
    sr_frame: Tensor
    """(3, scale * h, scale * w), around 0..1, not clipped."""


def default_precision(device: torch.device) -> tuple[Precision, str]:
    """What ``upscale`` runs in where nobody says, and a sentence about it for the user."""
    if device.type != "cuda":
        return "fp32", "the network runs in fp32"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "fp32", "the network runs in fp32: this GPU has no TF32"
    return "tf32", "the network runs in TF32, within a level of fp32 and up to 3 times as fast (--exact for fp32)"


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

    ``precision`` matters on CUDA (H100, 960x540): with fp32 floats agree with the original's to 6e-6; with tf32 images
    stay within a level and floats within 3e-3, at three times the speed; bf16 runs the convolutions under autocast.

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


def to_image(frame: Tensor, *, rounds: bool = False, deep: bool = False) -> Tensor:
    """(3, H, W) around 0..1 to an image (H, W, 3) uint8, or with ``deep`` uint16, on the same device.

    Values are truncated, as the original's writer does, or with ``rounds`` go to the nearest level.
    """
    if not (rounds or deep):
        return quantize(frame).permute(1, 2, 0).contiguous()
    most = 65535 if deep else 255
    levels = frame.permute(1, 2, 0) * most
    levels = (levels.round() if rounds else levels).clamp(0, most)
    return levels.to(torch.int32).to(torch.uint16) if deep else levels.to(torch.uint8)


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


class State(NamedTuple):
    """What the next frame needs of the one before it. float32; on the CPU where it was exported."""

    lr_frame: Tensor
    """(3, h, w), around 0..1: the last frame as the model saw it."""
    sr_frame: Tensor
    """(3, scale * h, scale * w), around -1..1 as the network gave it, not clipped."""


class Recurrence:
    """The model with its state: the previous frame and the output it gave.

    On a CPU it runs as :mod:`tecogan_dist.models.inference` has it, on CUDA as a captured graph
    (:mod:`tecogan_dist.upscaling.graph`). The memory that it takes does not grow with the number of frames.
    """

    def __init__(
        self,
        model: RecurrentUpscaler,
        *,
        size: Sequence[int],
        device: torch.device,
        degradation: Degradation | None = None,
        precision: Precision = "fp32",
        tile: int | None = None,
        graph: bool = True,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``model`` is on ``device``, its weights as they are now; ``size`` (height, width) is that of the frames.

        ``tile``: side of the squares of low-resolution pixels that the generator runs on
        (:class:`tecogan_dist.models.tiles.TiledUpscaler`), None for the whole frame;
        :func:`tecogan_dist.upscaling.tiles.automatic_tile` finds what fits. Where memory runs out nonetheless, tiles
        become smaller. ``graph``: on CUDA, whole frames run as a captured graph. ``note`` gets a sentence for the user
        where something is not as asked for. Raises :class:`UserError` for a low-resolution side below 8 and for a tile
        below SMALLEST_TILE.
        """
        height, width = size
        lr_sides = [math.ceil(side / model.scale) for side in size] if degradation else size
        if min(lr_sides) < SMALLEST_SIDE:
            raise UserError(
                f"frames of {width}x{height} are too small: each side needs at least {SMALLEST_SIDE} low-resolution "
                "pixels."
            )
        if tile is not None and tile < SMALLEST_TILE:
            raise UserError(f"tiles of {tile} pixels are too small: give at least {SMALLEST_TILE}.")
        self._model = model
        self._size = (height, width)
        self._lr_size = (lr_sides[0], lr_sides[1])
        self._device = device
        self._degradation = degradation
        self._precision = precision
        self._graph = graph and device.type == "cuda"
        self._note = note
        self._uploads = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._previous: tuple[Tensor, Tensor] | None = None
        self.tile = tile
        """Low-resolution pixels; smaller than was asked for after memory has run out."""
        self._network = self._make_network()

    # As a decorator: a `with` in a generator would stay in force in the caller between two frames.
    @torch.inference_mode()
    def step(self, frame: Tensor) -> Upscaled:
        """Upscale the next frame, (H, W, 3): uint8, uint16 or float 0..1, on any device.

        On CUDA this returns while the device still computes. Raises :class:`UserError` for a frame of another size, and
        where the smallest tiles do not fit into memory; the state is then that of the frame before.
        """
        lr_frame = self._lr_frame(frame)
        while True:
            try:
                signed = self._run(lr_frame)
                upscaled = Upscaled(lr_frame=lr_frame[0], sr_frame=to_unit(signed[0]))
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Here, where the error with all that it holds is gone.
            self._take_smaller_tiles()
        self._previous = (lr_frame, signed)
        return upscaled

    def _run(self, lr_frame: Tensor) -> Tensor:
        # Without its cache: a captured graph must not read weights in bf16 that end with this block.
        cast = torch.autocast(
            self._device.type, dtype=torch.bfloat16, enabled=self._precision == "bf16", cache_enabled=False
        )
        with _tf32(self._precision == "tf32"), cast:
            if self._previous is None:
                return _channels_last(self._network.first_frame(lr_frame))
            return _channels_last(self._network.next_frame(lr_frame, *self._previous))

    def _make_network(self) -> FrameNetwork:
        network = self._model if self._device.type == "cuda" else for_inference(self._model)
        if self.tile is not None:
            return TiledUpscaler(network, self.tile)
        return GraphedUpscaler(network, note=self._note) if self._graph else network

    def _take_smaller_tiles(self) -> None:
        tile = smaller_tile(self.tile, *self._lr_size)
        if tile is None:
            raise UserError(
                f"the memory {'of the GPU' if self._device.type == 'cuda' else 'here'} is not enough for frames of "
                f"{self._size[1]}x{self._size[0]}, even in tiles of {self.tile}: give smaller frames, or end other "
                "programs."
            )
        before = "whole frames" if self.tile is None else f"tiles of {self.tile}"
        self.tile = tile
        self._network = self._make_network()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._note(f"{before} do not fit into memory: going on with tiles of {tile} (--tile {tile} begins with them)")

    def export_state(self) -> State | None:
        """A copy of the state, on the CPU; None before the first frame.

        A recurrence of the same model, size, device and precision that :meth:`restore` gives it to goes on with the
        same numbers, bit for bit.
        """
        if self._previous is None:
            return None
        lr_frame, sr_frame = (tensor[0].to("cpu", torch.float32, copy=True).contiguous() for tensor in self._previous)
        return State(lr_frame=lr_frame, sr_frame=sr_frame)

    def restore(self, state: State) -> None:
        """Go on after the frame that ``state`` is of. Raises :class:`UserError` for a state of another size."""
        height, width = self._lr_size
        scale = self._model.scale
        sizes = (tuple(state.lr_frame.shape), tuple(state.sr_frame.shape))
        if sizes != ((3, height, width), (3, scale * height, scale * width)):
            raise UserError(
                f"the state of the frame before is of another size than frames of {self._size[1]}x{self._size[0]}: "
                "begin anew."
            )
        lr_frame, sr_frame = (
            _channels_last(tensor.unsqueeze(0).to(self._device, torch.float32, copy=True)) for tensor in state
        )
        self._previous = (lr_frame, sr_frame)

    def reset(self) -> None:
        """Forget the past: the next frame is a scene's first."""
        self._previous = None

    def _lr_frame(self, frame: Tensor) -> Tensor:
        """(H, W, 3) on any device to (1, 3, h, w), 0..1, on the model's."""
        if tuple(frame.shape[:2]) != self._size:
            raise UserError(
                f"frames of {self._size[1]}x{self._size[0]} and of {frame.shape[1]}x{frame.shape[0]} are mixed: "
                "give frames of one size."
            )
        pixels = self._upload(frame).permute(2, 0, 1).unsqueeze(0)
        if pixels.dtype == torch.uint16:
            pixels = pixels.float() / 65535
        lr_frame = degrade_frames(pixels, self._degradation, self._model.scale)
        return _channels_last(lr_frame)

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


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """cuDNN's own default would not be fp32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
