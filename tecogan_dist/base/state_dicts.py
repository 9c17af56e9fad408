"""Files of others with torch's state dicts, read without executing what is in them; and what weights have to be."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import check_regular
from tecogan_dist.base.pickles import Refused, check_state_dict

EXACT = (torch.float32, torch.float16, torch.bfloat16)
"""Types whose numbers float32 holds without rounding."""


def read_state_dict(path: Path, *, how_to_get: str) -> dict[str, Any]:
    """The dictionary in a ``.pth`` file, on the CPU. ``how_to_get``: what to do about a bad file; no full stop.

    Nothing in the file is executed, and what it takes is bounded by the file's size. Raises :class:`UserError` for a
    file that is damaged or holds anything but a dictionary of plain tensors.
    """
    check_regular(path, what="weights file")
    try:
        check_state_dict(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about other versions of pickle's format
            content = torch.load(path, map_location="cpu", weights_only=True)
        plain = dict(dict.items(content)) if isinstance(content, dict) else None
    except Refused as error:
        raise _not_plain(path, str(error), how_to_get) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check its permissions.") from error
    # The restricted unpickler meets arbitrary bytes here, and can fail in as many ways; nothing in them is executed.
    except Exception as error:
        raise _not_plain(path, type(error).__name__, how_to_get) from error
    if plain is None:
        raise UserError(f"{path} does not hold a state dict: {how_to_get}.")
    return plain


def select(state: Mapping[str, Any], shapes: Mapping[str, torch.Size], *, kind: str, advice: str) -> dict[str, Tensor]:
    """The tensors named in ``shapes``, in float32, if all are there, of these shapes, of plain finite numbers.

    ``kind`` begins the sentence of the :class:`UserError` ("x.pth is not a VGG19 file"), ``advice`` ends it.
    """
    found = {}
    for name, shape in shapes.items():
        tensor = state.get(name)
        if not isinstance(tensor, Tensor) or tensor.shape != shape:
            raise UserError(f"{kind}: {name} is missing or of a wrong shape; {advice}.")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in EXACT:
            what = str(tensor.dtype if tensor.dtype not in EXACT else tensor.layout).removeprefix("torch.")
            raise UserError(f"{kind}: {name} is not of plain float32 numbers but {what}; {advice}.")
        found[name] = tensor.detach().float().contiguous()
    bad = not_finite(found)
    if bad is not None:
        raise UserError(f"{kind} that can be used: {bad}; {advice}.")
    return found


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """Which tensor holds an infinity or NaN, and how many, half a sentence; None if all numbers are finite."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            count = int((~tensor.isfinite()).sum())
            return f"{count:,} of the {tensor.numel():,} numbers in {name} are infinite or not a number"
    return None


def _not_plain(path: Path, reason: str, how_to_get: str) -> UserError:
    return UserError(
        f"{path} is not a state dict of plain tensors, or is damaged or cut short ({reason}): {how_to_get}."
    )
