"""What a job was asked for, so that work is gone on with only by the same request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tecogan_dist.base.documents import quoted

INPUT, WEIGHTS = "the input", "the weights"
SAID = {INPUT: "the input was another one, or has changed since", WEIGHTS: "the weights were others"}


def weights_digest(model: nn.Module) -> str:
    """Of everything in a network that its outputs depend on, wherever its weights came from."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name in ("scale", "centred", "warm_up", "rounds"):
        digest.update(f"{name}={getattr(model, name, None)}\0".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In words, what another request asked for; nothing if it was the same. Keys are options, or INPUT and WEIGHTS."""
    found = [
        SAID.get(name) or f"{name} was {_shown(there.get(name))}, not {_shown(value)}"
        for name, value in wanted.items()
        if there.get(name) != value
    ]
    return ", ".join(found)


def _shown(value: Any) -> str:
    return "not given" if value is None or value is False else "given" if value is True else quoted(value)
