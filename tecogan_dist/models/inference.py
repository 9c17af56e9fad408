"""The upscaler's numbers without gradients, as fast as a CPU gives them: what ``upscale`` runs there.

Differences to :class:`RecurrentUpscaler`, whose weights it reads and never changes, are of rounding: below 1e-5, but in
bf16.

- The last layers work on 16 times as many pixels as the residual blocks. They go over strips of rows, so that their
  activations stay in the cache and never need memory of that size.
- A transposed convolution of stride 2 is four small convolutions, one for each place (even or odd row and column) of
  its result; a library's own is 5 times slower on a CPU. The four results of the last one are not brought into their
  order: the output layer's kernel is split in the same way, and its 3 colours are put in order instead.
- The previous output is sampled pixel by pixel (three neighbours in memory) instead of value by value, with the same
  numbers, and what nobody needs again is overwritten.
- All features are in channels_last.
"""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tecogan_dist.base.invariants import present
from tecogan_dist.models.flow import FlowNetwork
from tecogan_dist.models.generator import Generator, ResidualBlock
from tecogan_dist.models.layers import Conv3x3
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops.images import to_signed
from tecogan_dist.ops.resampling import warp

STRIP_BYTES = 2**22
"""Of features of a strip: with 2 to 6 MB the last layers take the same time (Zen 4, 1 MB L2 and 32 MB L3), and with
less the rows that two strips share count."""
FEWEST_ROWS = 6
"""Low-resolution rows of a strip."""
PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Even or odd row and column of a pixel of the higher resolution."""
CHANNELS_LAST = torch.channels_last
Network = TypeVar("Network", bound=nn.Module)


def for_inference(model: RecurrentUpscaler, *, half: bool = False) -> RecurrentUpscaler:
    """``model`` for one frame (1, 3, h, w) at a time without gradients, in either arithmetic, fastest in channels_last.

    It shares the weights that it can; others are read here: make another one after they have changed. ``half``: for
    use under an autocast to bf16, with weights that are in bf16 already.
    """
    quick, flow, generator = _as_written(model), _as_written(model.flow), _as_written(model.generator)
    if half:
        flow, generator = _in_bf16(flow), _in_bf16(generator)
    quick._modules = {"flow": _PlanarFlow(flow), "generator": _InferenceGenerator(generator)}
    if model.warp is warp:
        quick.warp = _sample
    return quick


def _as_written(network: Network) -> Network:
    """A copy that shares all but methods which the original alone has got, as of ``cluster.compile``: they are bound to
    it."""
    twin = copy.copy(network)
    for name in [name for name in vars(twin) if callable(getattr(type(twin), name, None))]:
        delattr(twin, name)
    return twin


def _in_bf16(network: Network) -> Network:
    """A copy with such weights, in the order in which convolutions read them."""
    return copy.deepcopy(network).to(torch.bfloat16).to(memory_format=CHANNELS_LAST)


class _PlanarFlow(nn.Module):
    """The flow network, whose two planes are enlarged faster one after the other than pixel by pixel."""

    def __init__(self, flow: FlowNetwork) -> None:
        super().__init__()
        self.network = flow

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        """:meth:`FlowNetwork.forward`."""
        return self.network(previous, current).contiguous()


class _InferenceGenerator(nn.Module):
    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        self._up1 = _Doubling(generator.up1)
        self._up2 = None if generator.up2 is None else _Doubling(generator.up2)
        self._output = _split_output(generator.output)
        self._output_bias = _bias(generator.output).repeat_interleave(4).view(1, 12, 1, 1)

    def forward(self, lr_frame: Tensor, previous: Tensor) -> Tensor:
        """:meth:`Generator.forward` of one frame; returns it in channels_last."""
        generator = self.generator
        both = torch.cat([lr_frame, previous], dim=1).contiguous(memory_format=CHANNELS_LAST)
        x = F.relu_(generator.input(both))
        for block in generator.blocks:
            x = _add_residual(x, cast(ResidualBlock, block))
        h, w = x.shape[-2:]
        scale = generator.scale
        result = torch.empty(
            (1, 3, scale * h, scale * w), dtype=torch.float32, device=x.device, memory_format=CHANNELS_LAST
        )
        row_bytes = scale * w * x.shape[1] * x.element_size()
        rows = max(FEWEST_ROWS, STRIP_BYTES // (scale // 2 * row_bytes))
        padded = F.pad(x, (1, 1, 2, 2))
        for top in range(0, h, rows):
            bottom = min(top + rows, h)
            result[..., scale * top : scale * bottom, :] = self._tail(padded[..., top : bottom + 4, :], top, h)
        return to_signed(result.add_(generator.enlarged(lr_frame)))

    def _tail(self, strip: Tensor, top: int, height: int) -> Tensor:
        """The output layer's result (1, 3, scale * n, scale * w) for n of ``height`` rows of features, from ``top`` on.

        ``strip`` has two more rows above and below, and a column of zeros at each side.
        """
        up = self._up1
        if self._up2 is not None:
            strip = _interleave([self._up1(strip, *place) for place in PLACES])
            top, height = 2 * top, 2 * height
            # Two more rows on each side again, which are zeros outside the frame as in any convolution with padding.
            strip = F.pad(_blank_outside(strip, top - 2, height), (1, 1))
            up = self._up2
        parts = []
        for row, column in PLACES:
            features = _blank_outside(F.relu_(up(strip, row, column)), top - 1, height)
            # The output's rows lie between this row and the next one, or between the one before and this one.
            features = features[..., 1:, :] if row == 0 else features[..., :-1, :]
            features = F.pad(features, (0, 1) if column == 0 else (1, 0))
            parts.append(F.conv2d(features, self._output[row, column]))
        total = parts[0].float()
        for part in parts[1:]:
            total += part
        return F.pixel_shuffle(total.add_(self._output_bias), 2)


class _Doubling:
    """A transposed 3x3 convolution of stride 2, one place of its result at a time, without the ReLU after it."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        """``layer`` cuts the last row and column of the full result, or with ``padding`` 1 the first ones."""
        cut = int(layer.padding[0])
        # Input pixel i + offset reaches place p of output pixel i, 2 i + p + cut of the full result, through this tap.
        taps = [{offset: place + cut - 2 * offset for offset in (-1, 0, 1)} for place in (0, 1)]
        taps = [{offset: tap for offset, tap in of_place.items() if 0 <= tap <= 2} for of_place in taps]
        weight = layer.weight.detach().transpose(0, 1)
        self._starts = [1 + min(of_place) for of_place in taps]
        self._kernels = {
            (row, column): weight[:, :, list(taps[row].values())][..., list(taps[column].values())].contiguous(
                memory_format=CHANNELS_LAST
            )
            for row, column in PLACES
        }
        self._bias = _bias(layer)

    def __call__(self, x: Tensor, row: int, column: int) -> Tensor:
        """(1, C, h + 2, w + 2) to the (1, C, h, w) pixels of an even (0) or odd (1) row and column."""
        kernel = self._kernels[row, column]
        top, left = self._starts[row], self._starts[column]
        height, width = x.shape[-2] - 3 + kernel.shape[-2], x.shape[-1] - 3 + kernel.shape[-1]
        return F.conv2d(x[..., top : top + height, left : left + width], kernel, self._bias)


def _interleave(places: list[Tensor]) -> Tensor:
    """The four places' (1, C, h, w), rectified, as one (1, C, 2 * h, 2 * w)."""
    n, c, h, w = places[0].shape
    whole = places[0].new_empty((n, c, 2 * h, 2 * w)).contiguous(memory_format=CHANNELS_LAST)
    for (row, column), features in zip(PLACES, places, strict=True):
        torch.clamp_min(features, 0, out=whole[..., row::2, column::2])
    return whole


def _split_output(layer: Conv3x3) -> dict[tuple[int, int], Tensor]:
    """Kernels (12, C, 2, 2) from features of each place to the 3 colours of all four, in pixel_shuffle's order."""
    weight = layer.weight.detach()
    kernels = {}
    for row, column in PLACES:
        kernel = weight.new_zeros(3, 2, 2, weight.shape[1], 2, 2)
        for to_row, to_column in PLACES:
            for i, j in PLACES:
                # Pixels of an even place are needed by their own pair and the one before, odd ones by the next, too.
                y, x = (2 * k - place - to for k, place, to in ((i, row, to_row), (j, column, to_column)))
                if abs(y) <= 1 and abs(x) <= 1:
                    kernel[:, to_row, to_column, :, i, j] = weight[:, :, y + 1, x + 1]
        kernels[row, column] = kernel.view(12, -1, 2, 2).contiguous(memory_format=CHANNELS_LAST)
    return kernels


def _bias(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    return present(layer.bias, "the generator's layers have biases").detach()


def _add_residual(x: Tensor, block: ResidualBlock) -> Tensor:
    return block.conv2(F.relu_(block.conv1(x))).add_(x)


def _blank_outside(x: Tensor, top: int, height: int) -> Tensor:
    """Zeros where rows of ``x``, which begin at ``top``, are outside a frame of ``height`` rows."""
    if top < 0:
        x[..., :-top, :] = 0
    if top + x.shape[-2] > height:
        x[..., height - top :, :] = 0
    return x


def _sample(frames: Tensor, flow: Tensor) -> Tensor:
    """:func:`tecogan_dist.ops.resampling.warp` of one frame: the same numbers in a third of the time, no gradient."""
    n, c, h, w = frames.shape
    top, fraction_y = _split(torch.arange(h, device=flow.device).view(h, 1) - flow[0, 0], h)
    left, fraction_x = _split(torch.arange(w, device=flow.device) - flow[0, 1], w)
    corner = top.mul_(w).add_(left).view(-1)
    pixels = frames[0].permute(1, 2, 0).reshape(h * w, c)
    top_left, top_right, bottom_left, bottom_right = (
        pixels.index_select(0, corner + offset) for offset in (0, 1, w, w + 1)
    )
    fraction_y, fraction_x = fraction_y.view(-1, 1), fraction_x.view(-1, 1)
    upper = top_right.sub_(top_left).mul_(fraction_x).add_(top_left)
    lower = bottom_right.sub_(bottom_left).mul_(fraction_x).add_(bottom_left)
    return lower.sub_(upper).mul_(fraction_y).add_(upper).view(n, h, w, c).permute(0, 3, 1, 2)


def _split(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Index of the pixel before a position and the fraction beyond it, both clamped to the image."""
    before = position.floor().nan_to_num_(0).clamp_(0, size - 2)
    return before.int(), position.sub_(before).clamp_(0, 1)
