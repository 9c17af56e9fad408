"""The network with its memory of the frame before, on CPU or CUDA: one output for each frame, in constant memory.

The numbers are those of the original's inference (``main.py --mode inference`` of thunil/TecoGAN; tests/parity).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.models.inference import for_inference
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.models.tiles import SMALLEST_TILE, TiledUpscaler
from tecogan_dist.ops.cudnn import cudnn_flags
from tecogan_dist.ops.degrade import degrade_frames
from tecogan_dist.ops.images import to_unit
from tecogan_dist.upscaling.graph import FrameNetwork, GraphedUpscaler
from tecogan_dist.upscaling.tiles import is_out_of_memory, reason_of, smaller_tile

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
    return "tf32", "the network runs in TF32, within a level of fp32 and 3 to 7 times as fast (--exact for fp32)"


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
        :func:`tecogan_dist.upscaling.tiles.automatic_tile` finds what fits. ``graph``: on CUDA, whole frames run as a
        captured graph. Where memory runs out nonetheless, the graph is given up, then tiles become smaller. ``note``
        gets a sentence for the user where something is not as asked for. Raises :class:`UserError` for a low-resolution
        side below 8 and for a tile below SMALLEST_TILE.
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
        # cuDNN's default would be TF32, and sums in any order: a segment made again would differ in its last bits.
        with cudnn_flags(allow_tf32=self._precision == "tf32", deterministic=True, benchmark=False):
            lr_frame = self._lr_frame(frame)
            while True:
                try:
                    signed = self._run(lr_frame)
                    upscaled = Upscaled(lr_frame=lr_frame[0], sr_frame=to_unit(signed[0]))
                    break
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    reason = reason_of(error)
                # Here, where the error with all that it holds is gone.
                self.shrink(reason)
            self._previous = (lr_frame, signed)
            return upscaled

    def _run(self, lr_frame: Tensor) -> Tensor:
        # Without its cache: a captured graph must not read weights in bf16 that end with this block.
        cast = torch.autocast(
            self._device.type, dtype=torch.bfloat16, enabled=self._precision == "bf16", cache_enabled=False
        )
        with cast:
            if self._previous is None:
                return _channels_last(self._network.first_frame(lr_frame))
            return _channels_last(self._network.next_frame(lr_frame, *self._previous))

    def _make_network(self) -> FrameNetwork:
        network = self._model
        if self._device.type != "cuda":
            network = for_inference(network, half=self._precision == "bf16")
        if self.tile is not None:
            return TiledUpscaler(network, self.tile)
        return GraphedUpscaler(network, note=self._note) if self._graph else network

    def shrink(self, reason: str) -> None:
        """Go on with less memory, as it has run out: without a graph, then in smaller tiles.

        Raises :class:`UserError`, for ``reason``, where tiles are as small as they can be.
        """
        if self._graph and self.tile is None:  # it has all features twice: its own, and those of a scene's first frame
            self._graph = False
            self._go_on(f"a CUDA graph does not fit into memory ({reason}): going on with whole frames, without it")
            return
        tile = smaller_tile(self.tile, *self._lr_size)
        if tile is None:
            raise UserError(
                f"the memory {'of the GPU' if self._device.type == 'cuda' else 'here'} is not enough for frames of "
                f"{self._size[1]}x{self._size[0]}, even in tiles of {self.tile or SMALLEST_TILE} ({reason}): give "
                "smaller frames, or end other programs."
            )
        before = "whole frames" if self.tile is None else f"tiles of {self.tile}"
        self.tile = tile
        self._go_on(f"{before} do not fit into memory: going on with tiles of {tile} (--tile {tile} begins with them)")

    def _go_on(self, sentence: str) -> None:
        """With another network; the memory of the one before is free."""
        self._network = self._make_network()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._note(sentence)

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
