"""What the network gives as images, and their way into host memory beside the network's next frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from tecogan_dist.ops.images import quantize


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
