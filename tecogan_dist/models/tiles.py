"""The upscaler, its generator tile by tile: frames of any size in the memory of a tile.

Flow network and warping see the whole frame: the flow network looks too far for tiles, and takes a fraction of the
memory; a tile's past is warped from whole frames as far as a flow can reach. The generator runs on squares that
overlap, and of each only the middle is kept, so that what a tile's edge does to it (zeros instead of the neighbour)
does not reach the result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tecogan_dist.models.flow import MAX_FLOW
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops.images import space_to_depth

OVERLAP = 20
"""Low-resolution pixels of a tile that are not kept, at each side that is not the frame's.

With 16 blocks zeros can change a result 35 pixels away; with the reference's weights (16 blocks) the largest seam of 12
frames is 16 levels at 8 pixels, 0.12 at 16 and 0.005 at 20, of real footage.
"""
REACH = math.ceil(MAX_FLOW) + 4
"""Low-resolution pixels around a tile that its past can come from, with what enlarging a flow adds to it."""
SMALLEST_TILE = 64


class Span(NamedTuple):
    """Low-resolution pixels along one direction."""

    start: int
    stop: int


class Tile(NamedTuple):
    """Along one direction: what the generator sees, and what is kept of that."""

    seen: Span
    kept: Span


def tiles(size: int, tile: int) -> list[Tile]:
    """Tiles of ``tile`` pixels, at least SMALLEST_TILE, spread evenly, of which 0 to ``size`` is kept once."""
    if size <= tile:
        return [Tile(Span(0, size), Span(0, size))]
    count = math.ceil((size - 2 * OVERLAP) / (tile - 2 * OVERLAP))
    starts = [i * (size - tile) // (count - 1) for i in range(count)]
    borders = [0, *((before + tile + after) // 2 for before, after in itertools.pairwise(starts)), size]
    return [
        Tile(Span(start, start + tile), Span(*kept))
        for start, kept in zip(starts, itertools.pairwise(borders), strict=True)
    ]


class TiledUpscaler:
    """``first_frame`` and ``next_frame`` of an upscaler for one frame (1, 3, h, w) at a time, without gradients."""

    def __init__(self, network: RecurrentUpscaler, tile: int) -> None:
        """``tile``: low-resolution pixels of a side that the generator sees at once, at least SMALLEST_TILE."""
        self._network = network
        self._tile = tile

    def first_frame(self, lr_frame: Tensor) -> Tensor:
        """:meth:`RecurrentUpscaler.first_frame`."""
        result = self._result(lr_frame)
        for rows, columns in self._tiles(lr_frame):
            self._keep(result, rows, columns, self._network.first_frame(_crop(lr_frame, rows.seen, columns.seen)))
        return result

    def next_frame(self, lr_frame: Tensor, previous_lr: Tensor, previous_sr: Tensor) -> Tensor:
        """:meth:`RecurrentUpscaler.next_frame`."""
        h, w = lr_frame.shape[-2:]
        network, scale = self._network, self._network.scale
        lr_flow = network.flow(previous_lr, lr_frame)
        lr_flow = network._pad_flow(lr_flow, h - lr_flow.shape[-2], w - lr_flow.shape[-1])
        result = self._result(lr_frame)
        for rows, columns in self._tiles(lr_frame):
            near_rows, near_columns = _widen(rows.seen, h), _widen(columns.seen, w)
            hr_flow = network._enlarge_flow(_crop(lr_flow, near_rows, near_columns))
            recalled = network._recall(_crop(previous_sr, near_rows, near_columns, scale), hr_flow)
            recalled = _crop(recalled, _inside(rows.seen, near_rows), _inside(columns.seen, near_columns), scale)
            tile = network.generator(_crop(lr_frame, rows.seen, columns.seen), space_to_depth(recalled, scale))
            self._keep(result, rows, columns, tile)
        return result

    def _tiles(self, lr_frame: Tensor) -> Iterator[tuple[Tile, Tile]]:
        h, w = lr_frame.shape[-2:]
        return itertools.product(tiles(h, self._tile), tiles(w, self._tile))

    def _result(self, lr_frame: Tensor) -> Tensor:
        n, c, h, w = lr_frame.shape
        size = (n, c, self._network.scale * h, self._network.scale * w)
        return lr_frame.new_empty(size).contiguous(memory_format=torch.channels_last)

    def _keep(self, result: Tensor, rows: Tile, columns: Tile, tile: Tensor) -> None:
        scale = self._network.scale
        kept = _crop(tile, _inside(rows.kept, rows.seen), _inside(columns.kept, columns.seen), scale)
        _crop(result, rows.kept, columns.kept, scale).copy_(kept)


def _crop(x: Tensor, rows: Span, columns: Span, scale: int = 1) -> Tensor:
    return x[..., scale * rows.start : scale * rows.stop, scale * columns.start : scale * columns.stop]


def _widen(span: Span, size: int) -> Span:
    return Span(max(0, span.start - REACH), min(size, span.stop + REACH))


def _inside(span: Span, whole: Span) -> Span:
    return Span(span.start - whole.start, span.stop - whole.start)
