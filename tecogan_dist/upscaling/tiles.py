"""How large the tiles are that fit into memory, and what running out of it looks like.

The bytes are those of the largest moment: all that is there for the whole frame, and what a tile adds. On a CPU they
are 1.2 to 1.7 times what was measured (270x480 to 1080x1920, whole and in tiles of 64 and 256); on CUDA they are a
count of tensors that nobody has measured.
"""

from __future__ import annotations

import torch

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.memory import available_memory, in_words
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.models.tiles import SMALLEST_TILE

SHARE = 0.75
"""Of the free memory that may be planned with: libraries take workspaces, and others use the machine too."""
LITTLE = 0.05
"""Of what is there for the whole frame: smaller tiles than that makes would save hardly anything, and compute most
pixels several times (in tiles of 64, seven times; of 224, 1.5 times)."""
FLOAT = 4
PICTURES = 14
"""Numbers a pixel of the result: the output, the one before, the same in 0..1, and images in queues."""
FLOW_FEATURES = 5
"""Maps of the flow network's width (that of its first level) that its last layers have at a time."""
CPU_MAPS, CUDA_MAPS = 5, 3
"""Maps of the generator's features at a time."""
WARPED = 24
"""Numbers a pixel of the result that warping takes."""
NO_MEMORY = (
    "DefaultCPUAllocator",
    "bad_alloc",
    "could not create a primitive",
    "could not create a memory",
    "unable to find an engine",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "error: out of memory",
)
"""Words of torch's errors that are of no class for it. Two are oneDNN's, which says nothing else of it on a CPU (met
with torch 2.14 under ``ulimit -v``). The other four are of CUDA: a convolution none of whose engines gets its workspace
(torch passes over the error of each), cuDNN's and cuBLAS's own (ALLOCATION_FAILED since cuDNN 9), and what the runtime
and the driver say beside torch's allocator, of a graph that is instantiated, say."""
ENCODER = 300
"""Bytes a pixel of the result that an encoder and the frames in it take: measured with 60 frames of 3840x2160, x264
240, x265 215, SVT-AV1 415, FFV1 74."""
MOST = 1 << 30
INDEXED = 1 << 31
"""Numbers of a tensor from which on CUDA's convolutions access memory that is not theirs (pytorch#117736, open)."""
STEP = 32
"""Pixels by which sides of tiles differ."""


def automatic_tile(
    model: RecurrentUpscaler,
    height: int,
    width: int,
    *,
    device: torch.device,
    precision: str = "fp32",
    is_encoded: bool = True,
    free: int | None = None,
) -> int | None:
    """The side of the largest tile that fits into what is free, for ``height`` x ``width`` low-resolution pixels.

    ``is_encoded``: results become a video, which on a CPU takes of the same memory. ``free``: bytes, where ``device``
    is another machine's. None where the whole frame fits; on CUDA also not above what convolutions can index, however
    much is free. Raises :class:`UserError` where even the smallest tile certainly does not fit.
    """
    free = free_memory(device) if free is None else free
    whole = frame_bytes(model, height, width)
    each = tile_bytes(model, device=device, precision=precision)
    planned = SHARE * free - whole
    if device.type == "cpu" and is_encoded:
        planned -= encoder_bytes(model, height, width)
    most = indexed_side(model) if device.type == "cuda" else MOST
    is_indexed = device.type != "cuda" or _largest_map(model, height, width) < INDEXED
    if each * height * width <= planned and is_indexed:
        return None
    needed = whole + each * SMALLEST_TILE**2
    if needed > free:
        raise UserError(
            f"frames of {width}x{height} need {in_words(needed)} of memory to be upscaled, even tile by tile, and "
            f"{'the GPU' if device.type == 'cuda' else 'this machine'} has {in_words(free)} free: give smaller frames, "
            "or end other programs."
        )
    planned = max(planned, min(LITTLE * whole, free - whole))
    side = int((max(0.0, planned) / each) ** 0.5) // STEP * STEP
    return max(SMALLEST_TILE, min(side, most))


def indexed_side(model: RecurrentUpscaler) -> int:
    """The largest side of a tile whose features convolutions on CUDA can index."""
    side = SMALLEST_TILE
    while _largest_map(model, side + STEP, side + STEP) < INDEXED:
        side += STEP
    return side


def _largest_map(model: RecurrentUpscaler, height: int, width: int) -> int:
    """Numbers of the generator's largest tensor: the last doubling's, with the row and column that are cut from it."""
    return model.generator.output.in_channels * (model.scale * height + 1) * (model.scale * width + 1)


def smaller_tile(tile: int | None, height: int, width: int) -> int | None:
    """The tile to try after one (None: the whole frame) that did not fit; None if there is none."""
    now = min(tile or MOST, max(height, width))
    return max(SMALLEST_TILE, now // 2 // STEP * STEP) if now > SMALLEST_TILE else None


def smallest(*sides: int | None) -> int | None:
    """Of tiles; None is the whole frame."""
    return min((side for side in sides if side is not None), default=None)


def frame_bytes(model: RecurrentUpscaler, height: int, width: int) -> int:
    """What is there for the whole frame: outputs, images that wait to be written, the flow network's features."""
    pictures = PICTURES * model.scale**2
    features = FLOW_FEATURES * model.flow.output.conv1.out_channels
    return (pictures + features) * FLOAT * height * width


def encoder_bytes(model: RecurrentUpscaler, height: int, width: int) -> int:
    """What a video's encoder takes."""
    return ENCODER * model.scale**2 * height * width


def tile_bytes(model: RecurrentUpscaler, *, device: torch.device, precision: str) -> int:
    """What each low-resolution pixel of a tile adds."""
    channels = model.generator.output.in_channels
    number = 2 if precision == "bf16" else FLOAT
    # On a CPU the last layers go by strips; on CUDA their features are there at once (models/inference.py).
    features = CUDA_MAPS * model.scale**2 if device.type == "cuda" else CPU_MAPS
    return features * channels * number + WARPED * model.scale**2 * FLOAT


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on the device."""
    if device.type != "cuda":
        return available_memory()
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could not get memory, on CUDA or on the CPU; not all of that has an exception of its own."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def reason_of(error: BaseException) -> str:
    """What torch says of it, in a line."""
    lines = str(error).strip().splitlines()
    return printable(lines[0].rstrip(".")) if lines else type(error).__name__
