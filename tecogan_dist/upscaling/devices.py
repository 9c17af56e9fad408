"""The device of this process: a GPU that really works, or the CPU."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from tecogan_dist.base.console import say
from tecogan_dist.base.errors import UserError

LEAST_FOR_BF16 = (8, 0)
"""Ampere; on a GPU before it cuDNN has no bf16 convolution, or one that is slower than fp32."""
BF16_OF_A_CPU = ("avx512_bf16", "amx_bf16")
"""Of torch's names of instructions, those that make bf16 faster than fp32 on a CPU: with others it is emulated."""


def device_here(name: Literal["auto", "cpu", "cuda"], *, precision: str) -> torch.device:
    """``auto``: CUDA where there is a GPU and a convolution runs on it, else the CPU, which is said if there is one.

    A driver or a torch that do not fit to the GPU, as torch without kernels for it, are found by that convolution and
    by nothing before it. Raises :class:`UserError` for ``cuda`` without such a GPU, and as :func:`check_precision` for
    a ``precision`` that the device does not have.
    """
    device = _device(name)
    check_precision(device, precision)
    return device


def check_precision(device: torch.device, precision: str) -> None:
    """Raise :class:`UserError` where this machine's ``device`` gains nothing by ``precision``."""
    if precision not in ("tf32", "bf16"):
        return
    if device.type == "cuda":
        if precision == "bf16" and torch.cuda.get_device_capability(device) < LEAST_FOR_BF16:
            raise UserError(f"{torch.cuda.get_device_name(device)} has no bf16: leave --precision out.")
        return
    if precision == "tf32":
        raise UserError("TF32 is for GPUs, and the network runs on the CPU: leave --precision out.")
    if not hasattr(torch.cpu, "get_capabilities"):
        raise UserError("this version of torch does not tell whether the CPU computes in bf16: leave --precision out.")
    if not any(torch.cpu.get_capabilities().get(name) for name in BF16_OF_A_CPU):
        raise UserError(
            "this CPU has neither AVX512-BF16 nor AMX, without which bf16 is slower than fp32: leave --precision out."
        )


def _device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("there is no CUDA device here: use --device cpu.")
    reason = _reason_against()
    if reason and name == "cuda":
        raise UserError(f"the GPU cannot be used ({reason}): use a torch and a driver that serve it, or --device cpu.")
    if reason:
        say(f"the GPU cannot be used ({reason}): the network runs on the CPU")
        return torch.device("cpu")
    return torch.device("cuda")


def _reason_against() -> str:
    """Why a small convolution does not run on the GPU; nothing if it does."""
    try:
        F.conv2d(torch.zeros(1, 8, 8, 8, device="cuda"), torch.zeros(8, 8, 3, 3, device="cuda"))
        torch.cuda.synchronize()
    except RuntimeError as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
    return ""
