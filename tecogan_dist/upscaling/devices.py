"""The device of this process: a GPU that really works, or the CPU."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from tecogan_dist.base.console import say
from tecogan_dist.base.errors import UserError

LEAST_FOR_BF16 = (8, 0)
"""Ampere; on a GPU before it cuDNN has no bf16 convolution, or one that is slower than fp32."""


def device_here(name: Literal["auto", "cpu", "cuda"], *, precision: str) -> torch.device:
    """``auto``: CUDA where there is a GPU and a convolution runs on it, else the CPU, which is said if there is one.

    A driver or a torch that do not fit to the GPU, as torch without kernels for it, are found by that convolution and
    by nothing before it. Raises :class:`UserError` for ``cuda`` without such a GPU, and for a ``precision`` that the
    GPU does not have.
    """
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
    if precision == "bf16" and torch.cuda.get_device_capability() < LEAST_FOR_BF16:
        raise UserError(f"{torch.cuda.get_device_name()} has no bf16: leave --precision out.")
    return torch.device("cuda")


def _reason_against() -> str:
    """Why a small convolution does not run on the GPU; nothing if it does."""
    try:
        F.conv2d(torch.zeros(1, 8, 8, 8, device="cuda"), torch.zeros(8, 8, 3, 3, device="cuda"))
        torch.cuda.synchronize()
    except RuntimeError as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
    return ""
