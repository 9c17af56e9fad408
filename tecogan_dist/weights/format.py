"""Our weights files: one safetensors file that says by itself which model it holds.

Tensors are named ``upscaler.<name>`` and, where it was trained with one, ``discriminator.<name>`` by state dict. It
also carries its own checksum (:mod:`tecogan_dist.weights.tensors`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import torch
from torch import Tensor

from tecogan_dist.base.documents import parse_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.state_dicts import not_finite
from tecogan_dist.config import load as settings
from tecogan_dist.config.degradations import LrOrigin
from tecogan_dist.config.schema import Config, DiscriminatorConfig, ModelConfig
from tecogan_dist.models.build import TRIPLET_CHANNELS, WIDEST, build_discriminator, build_upscaler
from tecogan_dist.models.probe import gives_pictures
from tecogan_dist.weights.tensors import CHECKSUM, open_tensors, short, write_tensors

SUFFIX = ".safetensors"
VGG_FORMAT = "tecogan_dist_vgg19"
LAST_STEP = (1 << 63) - 1
MOST_WARM_UP = 100
"""Frames; the memory fades within some 5."""
_FORMAT = "tecogan_dist"
_VERSION = "1"
_ENTRIES = {"format", "version", "model", "degradation", "step", "config", "warm_up", CHECKSUM}
_UPSCALER, _DISCRIMINATOR = "upscaler.", "discriminator."
_ANOTHER = "take another copy"

T = TypeVar("T")


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
    warm_up: int | None = None
    """Frames that are run in reverse before a scene's first; None: as many as the model's own arithmetic has."""


def save_weights(
    path: Path,
    *,
    upscaler_state: Mapping[str, Tensor],
    model: ModelConfig,
    run_config: Config | None,
    discriminator_state: Mapping[str, Tensor] | None = None,
    step: int = 0,
    half: bool = False,
    degradation: LrOrigin = "BD",
    warm_up: int | None = None,
) -> None:
    """Write a weights file, whole or not at all. State dicts may be on any device.

    They are stored in float32, or in float16 with ``half``, which rounds them to 11 bits.

    ``degradation``: what they were trained on where no ``run_config`` says it; the original's on BD. ``warm_up``: what
    :attr:`Weights.warm_up` is to be. Raises
    :class:`UserError` if it cannot be written, or if a weight is infinite or not a number.
    """
    tensors = {_UPSCALER + name: tensor for name, tensor in upscaler_state.items()}
    tensors |= {_DISCRIMINATOR + name: tensor for name, tensor in (discriminator_state or {}).items()}
    bad = not_finite(tensors)
    if bad is not None:
        raise UserError(f"{path} is not written: {bad}, which nothing can be made of.")
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "model": json.dumps(_model_tree(model)),
        "degradation": run_config.data.degradation if run_config else degradation,
        "step": str(step),
    }
    if warm_up is not None:
        metadata["warm_up"] = str(warm_up)
    if run_config is not None:
        metadata["config"] = json.dumps(settings.to_tree(run_config))
    write_tensors(path, tensors, metadata, half=half)


def read_weights_file(path: Path, *, name: object = None) -> Weights:
    """Read a local weights file; complete for the model that it names, all of it finite. ``name``: for messages.

    Whoever has a path from a user takes :func:`tecogan_dist.runs.find.read_weights`. Raises :class:`UserError` for a
    file that is damaged, incomplete or something else. No value is read before the header fits the model.
    """
    name = path if name is None else name
    with open_tensors(path, name=name) as file:
        _check_format(file.metadata, name)
        model = _model(file.metadata, name)
        degradation = file.metadata.get("degradation", "BD")
        if degradation not in get_args(LrOrigin):
            raise UserError(f"{name} names an unknown degradation, {degradation[:80]!r}: it is damaged, {_ANOTHER}.")
        step = _count(name, file.metadata.get("step", ""), "its training step", LAST_STEP)
        warm_up = None
        if "warm_up" in file.metadata:
            warm_up = _count(name, file.metadata["warm_up"], "its warm-up", MOST_WARM_UP)
        _check_complete(name, file.shapes, model)
        tensors = file.read()
    bad = not_finite(tensors)
    if bad is not None:
        raise UserError(f"the weights in {name} cannot be used: {bad}, {_ANOTHER}.")
    upscaler = _part(tensors, _UPSCALER)
    if not gives_pictures(upscaler, model):
        raise UserError(
            f"the weights in {name} cannot be used: some are so large that the upscaler gives no picture, {_ANOTHER} "
            "or those of an earlier step."
        )
    return Weights(
        upscaler=upscaler,
        discriminator=_part(tensors, _DISCRIMINATOR) or None,
        model=model,
        degradation=cast(LrOrigin, degradation),
        step=step,
        warm_up=warm_up,
    )


def shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """The shape of each tensor."""
    return {name: tensor.shape for name, tensor in state.items()}


def _check_format(metadata: Mapping[str, str], name: object) -> None:
    if metadata.get("format") != _FORMAT:
        held = "VGG19" if metadata.get("format") == VGG_FORMAT else "something else"
        raise UserError(
            f"{name} does not hold an upscaler of tecogan_dist but {held}: give weights of a run or of "
            "'tecogan convert'."
        )
    if metadata.get("version") != _VERSION:
        raise UserError(f"{name} was written by another version of tecogan_dist: use that one, or other weights.")
    unknown = sorted(metadata.keys() - _ENTRIES)
    if unknown:
        raise UserError(f"{name} has an unknown entry {unknown[0][:80]!r} in its metadata: it is damaged, {_ANOTHER}.")


def _model_tree(model: ModelConfig) -> dict[str, Any]:
    """The model's settings, without the arithmetic where it is the original's.

    Versions that know no other one read those files, and refuse the rest by the unknown setting.
    """
    tree = settings.to_tree(model)
    if model.arithmetic == ModelConfig.arithmetic:
        del tree["arithmetic"]
    return tree


def _model(metadata: Mapping[str, str], name: object) -> ModelConfig:
    try:
        tree = parse_json(metadata["model"], source=name)
    except (KeyError, UserError) as error:
        raise UserError(f"{name} does not say which model it holds: it is damaged, {_ANOTHER}.") from error
    return settings.model_from_tree(tree, source=str(name))


def _count(name: object, text: str, what: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= most):
        raise UserError(f"{name} does not say {what}: it is damaged, {_ANOTHER}.")
    return int(text)


def _check_complete(name: object, found: Mapping[str, torch.Size], model: ModelConfig) -> None:
    upscaler = _part(found, _UPSCALER)
    # First the three numbers, so that a damaged one cannot ask for a model larger than the file.
    blocks = sum(key.startswith("generator.blocks.") and key.endswith(".conv1.bias") for key in upscaler)
    channels = upscaler.get("generator.input.bias", torch.Size([0])).numel()
    flow_width = upscaler.get("flow.encoder.0.conv1.bias", torch.Size([0])).numel()
    sizes = (blocks, channels, flow_width)
    if sizes != (model.blocks, model.channels, model.flow_width) or min(sizes) < 1 or max(sizes) > WIDEST:
        raise UserError(f"the tensors in {name} are not those of the model it names: it is damaged, {_ANOTHER}.")
    with torch.device("meta"):
        expected = shapes(build_upscaler(model).state_dict())
    _check_equal(name, upscaler, expected)
    discriminator = _part(found, _DISCRIMINATOR)
    if discriminator:
        # Either kind: which one it is shows in the channels that it takes.
        first = discriminator.get("input.weight", torch.Size([0]))
        temporal_only = len(first) == 4 and first[1] == TRIPLET_CHANNELS
        with torch.device("meta"):
            network = build_discriminator(DiscriminatorConfig(temporal_only=temporal_only))
        expected = shapes(network.state_dict())
        _check_equal(name, _named(discriminator), _named(expected))
    strange = [key for key in found if not key.startswith((_UPSCALER, _DISCRIMINATOR))]
    if strange:
        raise _incomplete(name, strange[0])


def _check_equal(name: object, found: Mapping[str, torch.Size], expected: Mapping[str, torch.Size]) -> None:
    different = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
    if different:
        raise _incomplete(name, different[0])


def _named(discriminator: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    return {_DISCRIMINATOR + name: shape for name, shape in discriminator.items()}


def _incomplete(name: object, tensor: str) -> UserError:
    return UserError(
        f"{name} is incomplete or damaged ({short(tensor)} is missing, unknown or of a wrong shape): {_ANOTHER}."
    )


def _part(tensors: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
