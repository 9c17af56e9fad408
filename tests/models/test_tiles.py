"""Tiles cover a frame once, and what they give is what the whole frame gives."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.models.inference import for_inference
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.models.tiles import OVERLAP, SMALLEST_TILE, TiledUpscaler, tiles
from tecogan_dist.published.catalogue import find
from tecogan_dist.published.names import packaged
from tecogan_dist.runs.find import load_upscaler
from tests.parity.reference import fill_by_rule

HALF_A_LEVEL = 0.5 / 255 * 2
"""Outputs are around -1..1."""


@pytest.mark.parametrize("tile", [SMALLEST_TILE, 65, 96, 160, 512])
@pytest.mark.parametrize("size", [8, 63, 64, 65, 66, 100, 129, 333, 1080, 1920])
def test_tiles_cover_a_line_once_and_keep_their_distance(size: int, tile: int) -> None:
    line = tiles(size, tile)
    assert [pixel for _, kept in line for pixel in range(kept.start, kept.stop)] == list(range(size))
    for seen, kept in line:
        assert seen.stop - seen.start == min(tile, size)  # one size, for which libraries have chosen their kernels
        assert seen.start >= 0
        assert seen.stop <= size
        assert kept.start == 0 or kept.start - seen.start >= OVERLAP
        assert kept.stop == size or seen.stop - kept.stop >= OVERLAP
    assert len(line) == 1 or len(line) <= -(-size // (tile - 2 * OVERLAP))


def film(height: int, width: int, *, frames: int = 12) -> list[Tensor]:
    """Soft shapes that move by some pixels a frame, and an edge."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    shown = []
    for t in range(frames):
        channels = [0.5 + 0.25 * (np.sin((x - 3 * t) / p) + np.cos((y + 2 * t) / p)) for p in (3, 5, 9)]
        picture = np.stack(channels)
        picture[:, (x + y + 4 * t) % 40 < 20] *= 0.5
        shown.append(torch.from_numpy(picture[None]))
    return shown


@torch.inference_mode()
def run(network: RecurrentUpscaler | TiledUpscaler, frames: list[Tensor]) -> Tensor:
    outputs = [network.first_frame(frames[0])]
    for previous, frame in itertools.pairwise(frames):
        outputs.append(network.next_frame(frame, previous, outputs[-1]))
    return torch.cat(outputs)


@pytest.fixture(scope="module")
def published() -> RecurrentUpscaler:
    """The published size, with the reference's weights: flows of some pixels, and a memory that matters."""
    torch.set_num_threads(1)
    model = build_upscaler(ModelConfig())
    fill_by_rule(model, 3)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(96, 120), (67, 141)])
def test_seams_of_the_published_network_are_below_half_a_level(
    published: RecurrentUpscaler, height: int, width: int
) -> None:
    frames = film(height, width)
    network = for_inference(published)
    whole, tiled = run(network, frames), run(TiledUpscaler(network, SMALLEST_TILE), frames)
    assert 0 < (tiled - whole).abs().max() < HALF_A_LEVEL
    assert (whole[-1] - run(network, frames[-1:])).abs().max() > 0.05  # the past does matter


def test_seams_of_the_shipped_model_are_below_half_a_level() -> None:
    torch.set_num_threads(1)
    network = for_inference(load_upscaler(packaged(find("small")), torch.device("cpu")))
    frames = film(40, 112, frames=6)
    whole, tiled = run(network, frames), run(TiledUpscaler(network, SMALLEST_TILE), frames)
    assert 0 < (tiled - whole).abs().max() < HALF_A_LEVEL / 20


@pytest.mark.parametrize("kind", [{}, {"scale": 2}, {"arithmetic": "pytorch_port"}], ids=str)
@pytest.mark.parametrize(("height", "width"), [(72, 130), (65, 9), (8, 70), (40, 48)])
def test_small_networks_see_no_seam(kind: dict[str, Any], height: int, width: int) -> None:
    """They cannot look as far as the overlap: what is left is rounding."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build_upscaler(ModelConfig(blocks=2, channels=8, flow_width=4, output_init_scale=0.3, **kind)).eval()
    with torch.no_grad():
        model.flow.output.conv2.weight.mul_(6)  # flows of many pixels
    frames = film(height, width, frames=4)
    for network in (model, for_inference(model)):
        tiled = run(TiledUpscaler(network, SMALLEST_TILE), frames)
        torch.testing.assert_close(tiled, run(model, frames), atol=2e-4, rtol=0)
