"""What a device needs before and while a worker trains on it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import psutil
import torch
from torch import Tensor

from tecogan_dist.config.schema import Config
from tecogan_dist.runs.quantities import ALLOC_RETRIES, GPU_PEAK, GPU_RESERVED, HOST_MEMORY

GIB = 2**30
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""The names of glibc's malloc.h."""


def prepare_device(device: torch.device, config: Config) -> None:
    """Process-wide settings of torch. A CPU worker uses as many threads as CPUs are reserved for it."""
    if device.type == "cpu":
        torch.set_num_threads(config.cluster.cpus_per_worker)
        keep_freed_memory()
        return
    torch.cuda.set_device(device)
    # fp32 means fp32: cuDNN's default of TF32 has 10 bits of mantissa. For speed there is bf16.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def keep_freed_memory() -> None:
    """Have this process keep large pieces of memory for its next tensors, as torch does by itself on a GPU.

    glibc gives pieces above 32 MB, and the free end of its heap, back to the kernel, which then clears every page
    anew: 3% of a step's time with one window, 8% with four. Another C library stays as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Either ends glibc's own choice of the other. Older versions refuse more than 32 MB for the first.
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def out_of_memory(error: torch.cuda.OutOfMemoryError) -> str:
    """What to do about it, in one sentence."""
    return (
        f"the GPU's memory is too small ({str(error).split('. ')[0]}): lower batch_size, data.crop_size or "
        "data.sequence_length, raise accumulation, or use more workers, cluster.activation_checkpointing, "
        "cluster.precision bf16 or cluster.compile off."
    )


def memory_use(device: torch.device) -> dict[str, float]:
    """What this worker holds, in GiB; the GPU's peak is that since the last call. Does not wait for the device."""
    use = {HOST_MEMORY: psutil.Process().memory_info().rss / GIB}
    if device.type == "cuda":
        use[GPU_PEAK] = torch.cuda.max_memory_allocated(device) / GIB
        use[GPU_RESERVED] = torch.cuda.memory_reserved(device) / GIB
        use[ALLOC_RETRIES] = float(torch.cuda.memory_stats(device)["num_alloc_retries"])
        torch.cuda.reset_peak_memory_stats(device)
    return use


def to_device(windows: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The same windows on the device. On CUDA the copy runs beside the step that was launched before."""
    if device.type == "cpu":
        yield from windows
        return
    copying = torch.cuda.Stream(device)
    for batch in windows:
        with torch.cuda.stream(copying):
            moved = batch.pin_memory().to(device, non_blocking=True)
        torch.cuda.current_stream(device).wait_stream(copying)
        moved.record_stream(torch.cuda.current_stream(device))
        yield moved
