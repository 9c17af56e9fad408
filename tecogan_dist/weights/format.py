"""Our weights files: one safetensors file that says by itself which model it holds.

Tensors are named ``upscaler.<name>`` and, where it was trained with one, ``discriminator.<name>`` by state dict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import safetensors.torch
import torch
from torch import Tensor

from tecogan_dist.base.atomic import replacing
from tecogan_dist.base.errors import UserError
from tecogan_dist.config import load as settings
from tecogan_dist.config.degradations import LrOrigin
from tecogan_dist.config.schema import Config, ModelConfig
from tecogan_dist.models.build import build_upscaler

SUFFIX = ".safetensors"
_FORMAT = "tecogan_dist"
_VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The content of a weights file, on the CPU in float32."""

    upscaler: dict[str, Tensor]
    discriminator: dict[str, Tensor] | None
    model: ModelConfig
    degradation: LrOrigin
    """What the upscaler was trained on; the original's, BD, where the file is older than the choice."""
    step: int
    """Training steps behind these weights; 0 where unknown."""


def save_weights(
    path: Path,
    *,
    upscaler_state: Mapping[str, Tensor],
    model: ModelConfig,
    run_config: Config | None,
    discriminator_state: Mapping[str, Tensor] | None = None,
    step: int = 0,
) -> None:
    """Write a weights file, whole or not at all. State dicts may be on any device; they are stored in float32.

    Without ``run_config`` they count as trained on BD, as the original's are.
    """
    tensors = {f"upscaler.{name}": tensor for name, tensor in upscaler_state.items()}
    tensors |= {f"discriminator.{name}": tensor for name, tensor in (discriminator_state or {}).items()}
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "model": json.dumps(settings.to_tree(model)),
        "degradation": run_config.data.degradation if run_config else "BD",
        "step": str(step),
    }
    if run_config is not None:
        metadata["config"] = json.dumps(settings.to_tree(run_config))
    write_tensors(path, tensors, metadata)


def read_weights_file(path: Path, *, name: object = None) -> Weights:
    """Read a local weights file; complete for the model that it names. ``name``: what messages call it.

    Whoever has a path from a user takes :func:`tecogan_dist.runs.find.read_weights`. Raises :class:`UserError` for a
    file that is damaged, incomplete or something else.
    """
    name = name or path
    tensors, metadata = read_tensors(path, name=name)
    _check_format(metadata, name)
    try:
        model_tree = json.loads(metadata["model"])
    except (KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{name} does not say which model it holds: it is damaged, take another copy.") from error
    model = settings.model_from_tree(model_tree, source=str(name))
    degradation = metadata.get("degradation", "BD")
    if degradation not in get_args(LrOrigin):
        raise UserError(f"{name} names an unknown degradation, {degradation!r}: it is damaged, take another copy.")
    upscaler = _network(tensors, "upscaler.")
    _check_complete(name, upscaler, model)
    return Weights(
        upscaler=upscaler,
        discriminator=_network(tensors, "discriminator.") or None,
        model=model,
        degradation=cast(LrOrigin, degradation),
        step=_step(name, metadata),
    )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all. Raises :class:`UserError` if it cannot be written."""
    # A clone: state dicts may be views into one large buffer (DeepSpeed) or in channels_last order.
    stored = {
        name: tensor.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    try:
        with replacing(path) as partial:
            partial.write_bytes(safetensors.torch.save(stored, metadata))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}).") from error


def read_tensors(path: Path, *, name: object = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors (float32, on the CPU) and the metadata of a safetensors file. Raises :class:`UserError`."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{name or path} is not a safetensors file, or is damaged or cut short ({error}): take another copy."
        ) from error


def shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """The shape of each tensor."""
    return {name: tensor.shape for name, tensor in state.items()}


def _check_format(metadata: Mapping[str, str], name: object) -> None:
    if metadata.get("format") != _FORMAT:
        raise UserError(
            f"{name} does not hold an upscaler of tecogan_dist: give weights of a run or of 'tecogan convert'."
        )
    if metadata.get("version") != _VERSION:
        raise UserError(f"{name} was written by another version of tecogan_dist: use that one, or other weights.")


def _step(name: object, metadata: Mapping[str, str]) -> int:
    text = metadata.get("step", "")
    if not (text.isdecimal() and len(text) < 20):
        raise UserError(f"{name} does not say its training step: it is damaged, take another copy.")
    return int(text)


def _check_complete(name: object, state: Mapping[str, Tensor], model: ModelConfig) -> None:
    # First the three numbers, so that a damaged one cannot ask for a model larger than the file.
    blocks = sum(key.startswith("generator.blocks.") and key.endswith(".conv1.bias") for key in state)
    channels = _size(state, "generator.input.bias")
    flow_width = _size(state, "flow.encoder.0.conv1.bias")
    sizes = (blocks, channels, flow_width)
    if sizes != (model.blocks, model.channels, model.flow_width) or min(sizes) < 1:
        raise UserError(f"the tensors in {name} are not those of the model it names: it is damaged, take another copy.")
    with torch.device("meta"):
        expected = shapes(build_upscaler(model).state_dict())
    found = shapes(state)
    different = [key for key in expected | found if expected.get(key) != found.get(key)]
    if different:
        raise UserError(
            f"{name} is incomplete or damaged ({different[0]} is missing, unknown or of a wrong shape): "
            "take another copy."
        )


def _network(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _size(state: Mapping[str, Tensor], name: str) -> int:
    return state[name].numel() if name in state else 0
