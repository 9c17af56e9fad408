"""How cuDNN computes while a block runs. Its defaults are neither fp32 nor the same numbers every time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def cudnn_flags(**flags: bool) -> Iterator[None]:
    """``flags`` of ``torch.backends.cudnn`` (allow_tf32, deterministic, benchmark) for this block; then as before.

    They are those of the whole process: whatever convolves on CUDA at a time has to be in one thread.
    ``torch.backends.cudnn.flags`` is another thing: it turns cuDNN off unless it is told not to.
    """
    before = {name: getattr(torch.backends.cudnn, name) for name in flags}
    try:
        _set(flags)
        yield
    finally:
        _set(before)


def _set(flags: dict[str, bool]) -> None:
    for name, value in flags.items():
        setattr(torch.backends.cudnn, name, value)
