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
from tecogan_dist.upscaling.tiles import (
    automatic_tile,
    encoder_bytes,
    frame_bytes,
    is_out_of_memory,
    reason_of,
    smaller_tile,
    smallest,
    tile_bytes,
)

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
    whole += encoder_bytes(model, *FULL_HD)
    sides = []
    for gigabytes in (3.4, 4.3, 18, 20, 22, 64):
        with_memory(monkeypatch, gigabytes * 1e9)
        side = automatic_tile(model, *FULL_HD, device=CPU)
        sides.append(side or 1920)
        if side is not None and gigabytes >= 18:
            assert whole + each * side**2 <= 0.75 * gigabytes * 1e9 < whole + each * FULL_HD[0] * FULL_HD[1]
    assert sides == sorted(sides)
    assert sides[:2] == [224, 224]  # smaller ones would save less than 5% of what is there anyway
    assert sides[-1] == 1920  # the whole frame


def test_an_encoder_takes_of_the_same_memory_on_a_cpu(
    model: RecurrentUpscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, 14e9)
    assert automatic_tile(model, *FULL_HD, device=CPU) == 224  # of 4320p: x264 takes 8 GB
    assert automatic_tile(model, *FULL_HD, device=CPU, is_encoded=False) is None
    assert automatic_tile(model, *FULL_HD, device=torch.device("cuda")) is not None
    with_memory(monkeypatch, 20e9)
    cuda = torch.device("cuda")
    alike = [automatic_tile(model, *FULL_HD, device=cuda, is_encoded=encoded) for encoded in (True, False)]
    assert alike[0] == alike[1]


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


def test_on_cuda_no_tensor_is_larger_than_can_be_indexed(
    model: RecurrentUpscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 maps of 4 * side + 1: side 1447 has 2147074624 numbers, side 1448 has 2150039616, and 2**31 is 2147483648."""
    with_memory(monkeypatch, 1e15)
    cuda = torch.device("cuda")
    assert automatic_tile(model, 1447, 1447, device=cuda) is None
    assert automatic_tile(model, 1448, 1448, device=cuda) == 1440  # a multiple of 32
    assert automatic_tile(model, *FULL_HD, device=cuda) is None  # 64 * 4321 * 7681
    assert automatic_tile(model, 1440, 2560, device=cuda) == 1440
    assert automatic_tile(model, 1440, 2560, device=CPU) is None
    with_memory(monkeypatch, 8e9)
    assert automatic_tile(model, 1440, 2560, device=cuda) in range(64, 1440)


def test_tiles_shrink_to_the_smallest_and_no_further() -> None:
    sides = []
    side: int | None = None
    while (side := smaller_tile(side, *FULL_HD)) is not None:
        sides.append(side)
    assert sides == [960, 480, 224, 96, 64]
    assert smaller_tile(None, 64, 40) is None  # a frame that is a tile already
    assert smaller_tile(512, 100, 90) == 64
    assert (smallest(None, None), smallest(None, 96), smallest(224, 96)) == (None, 96, 96)


def test_errors_that_are_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError) as info:
        torch.empty(1 << 60)
    assert is_out_of_memory(info.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))  # oneDNN's only word of it
    for words in (
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ):
        assert is_out_of_memory(RuntimeError(words))
    assert is_out_of_memory(torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported"))
    for words in ("CUDA error: an illegal memory access was encountered", "CUDA error: uncorrectable ECC error"):
        assert not is_out_of_memory(torch.AcceleratorError(words))
    assert reason_of(MemoryError()) == "MemoryError"
    assert reason_of(RuntimeError("a line.\nand a trace")) == "a line"
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))


def test_free_memory_of_this_machine() -> None:
    assert 0 < tiles.free_memory(CPU) < 1 << 50
