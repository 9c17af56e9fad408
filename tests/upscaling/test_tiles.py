"""The side of a tile that fits into what memory there is."""

from __future__ import annotations

import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.models.tiles import SMALLEST_TILE
from tecogan_dist.upscaling import tiles
from tecogan_dist.upscaling.tiles import automatic_tile, frame_bytes, is_out_of_memory, smaller_tile, tile_bytes

CPU = torch.device("cpu")
FULL_HD = (1080, 1920)


@pytest.fixture(scope="module")
def model() -> RecurrentUpscaler:
    with torch.device("meta"):
        return build_upscaler(ModelConfig())


def with_memory(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(tiles, "free_memory", lambda _: int(free))


def test_the_larger_the_memory_the_larger_the_tile(model: RecurrentUpscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, each = frame_bytes(model, *FULL_HD), tile_bytes(model, device=CPU, precision="fp32")
    sides = []
    for gigabytes in (4.3, 4.5, 5, 6, 8, 10, 64):
        with_memory(monkeypatch, gigabytes * 1e9)
        side = automatic_tile(model, *FULL_HD, device=CPU)
        sides.append(side or 1920)
        if side is not None and side > SMALLEST_TILE:
            assert whole + each * side**2 <= 0.75 * gigabytes * 1e9 < whole + each * FULL_HD[0] * FULL_HD[1]
    assert sides == sorted(sides)
    assert sides[0] < 500
    assert sides[-1] == 1920  # the whole frame


def test_a_frame_that_fits_in_no_way_is_refused(model: RecurrentUpscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, 1e9)
    with pytest.raises(UserError, match=r"frames of 1920x1080 need .* even tile by tile, and this machine has 1\.0 GB"):
        automatic_tile(model, *FULL_HD, device=CPU)
    assert automatic_tile(model, 144, 180, device=CPU) is None
    needed = frame_bytes(model, *FULL_HD) + SMALLEST_TILE**2 * tile_bytes(model, device=CPU, precision="fp32")
    with_memory(monkeypatch, needed + 1)  # tight: tried
    assert automatic_tile(model, *FULL_HD, device=CPU) == SMALLEST_TILE


def test_bf16_takes_less(model: RecurrentUpscaler) -> None:
    cuda = torch.device("cuda")
    assert tile_bytes(model, device=cuda, precision="bf16") < tile_bytes(model, device=cuda, precision="fp32")


def test_tiles_shrink_to_the_smallest_and_no_further() -> None:
    sides = []
    side: int | None = None
    while (side := smaller_tile(side, *FULL_HD)) is not None:
        sides.append(side)
    assert sides == [960, 480, 224, 96, 64]
    assert smaller_tile(None, 64, 40) is None  # a frame that is a tile already
    assert smaller_tile(512, 100, 90) == 64


def test_errors_that_are_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError) as info:
        torch.empty(1 << 60)
    assert is_out_of_memory(info.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))


def test_free_memory_of_this_machine() -> None:
    assert 0 < tiles.free_memory(CPU) < 1 << 50
