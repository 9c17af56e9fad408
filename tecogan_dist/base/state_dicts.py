"""Files of others with torch's state dicts, read without executing what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tecogan_dist.base.errors import UserError


def read_state_dict(path: Path, *, how_to_get: str) -> dict[str, Any]:
    """The dictionary in a ``.pth`` file, on the CPU. ``how_to_get``: what to do about a bad file; no full stop.

    Raises :class:`UserError` for a file that is damaged or holds anything but plain tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # The restricted unpickler meets arbitrary bytes here, and can fail in as many ways; nothing in them is executed.
    except Exception as error:
        raise UserError(
            f"{path} is not a state dict of plain tensors, or is damaged or cut short ({type(error).__name__}): "
            f"{how_to_get}."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a state dict: {how_to_get}.")
    return content
