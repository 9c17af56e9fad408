"""What our own code promises to itself, checked in any case: an ``assert`` would be gone with ``python -O``.

Whatever a user or a file can bring about is a :class:`UserError` where it comes in, and never gets here.
"""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def require(condition: bool, promise: str) -> None:
    """Raise ``RuntimeError``, which commands report as a defect of ours, if ``promise`` is not kept."""
    if not condition:
        raise RuntimeError(f"a promise is not kept: {promise}")


def present(value: T | None, promise: str) -> T:
    """``value``, which is not None. Raises ``RuntimeError``, a defect of ours, if it is."""
    if value is None:
        raise RuntimeError(f"a promise is not kept: {promise}")
    return value
