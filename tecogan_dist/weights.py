"""Our weights files: one safetensors file that says by itself which model it holds, and the ways to find and load one.

Tensors are named ``upscaler.<name>`` and, where it was trained with one, ``discriminator.<name>`` by state dict.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import safetensors.torch
import torch
from torch import Tensor

from tecogan_dist import config as settings
from tecogan_dist.config import Config, ModelConfig
from tecogan_dist.degradation import LrOrigin, is_centred
from tecogan_dist.errors import UserError
from tecogan_dist.models.discriminator import Discriminator
from tecogan_dist.models.recurrent import RecurrentUpscaler

WEIGHTS_FILE = "weights.safetensors"
"""Name of the weights inside a checkpoint folder; a run's checkpoint folders are named CHECKPOINT_PATTERN."""
CHECKPOINT_PATTERN = "checkpoint_*"

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


def resolve_weights(path: str | Path) -> Path:
    """The weights file meant by ``path``: itself, or a checkpoint folder's, or that of a run's highest step.

    Raises :class:`UserError` where there is none.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix == ".safetensors":
            return path
        raise UserError(f"{path} is no .safetensors file: make one of a TensorFlow checkpoint with 'tecogan convert'.")
    if (path / WEIGHTS_FILE).is_file():
        return path / WEIGHTS_FILE
    candidates = sorted(path.glob(f"{CHECKPOINT_PATTERN}/{WEIGHTS_FILE}"))
    if candidates:
        return max(candidates, key=lambda candidate: _step(candidate, _read_metadata(candidate)))
    raise UserError(
        f"no weights are at {path}: give a .safetensors file, a checkpoint folder (with {WEIGHTS_FILE} in it) "
        f"or a run's folder (with folders {CHECKPOINT_PATTERN} in it)."
    )


def read_weights(path: str | Path) -> Weights:
    """Read the weights that :func:`resolve_weights` finds; complete for the model that they name.

    Raises :class:`UserError` for a file that is damaged, incomplete or something else.
    """
    path = resolve_weights(path)
    metadata = _read_metadata(path)
    tensors, _ = read_tensors(path)
    try:
        model_tree = json.loads(metadata["model"])
    except (KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path} does not say which model it holds: it is damaged, take another copy.") from error
    model = settings.model_from_tree(model_tree, source=str(path))
    degradation = metadata.get("degradation", "BD")
    if degradation not in get_args(LrOrigin):
        raise UserError(f"{path} names an unknown degradation, {degradation!r}: it is damaged, take another copy.")
    upscaler = _part(tensors, "upscaler.")
    _check_complete(path, upscaler, model)
    return Weights(
        upscaler=upscaler,
        discriminator=_part(tensors, "discriminator.") or None,
        model=model,
        degradation=cast(LrOrigin, degradation),
        step=_step(path, metadata),
    )


def read_run_config(path: str | Path) -> Config | None:
    """The config of the run that made the weights, or None if they were made otherwise (``tecogan convert``)."""
    path = resolve_weights(path)
    text = _read_metadata(path).get("config")
    if text is None:
        return None
    try:
        return settings.from_tree(json.loads(text), source=str(path))
    except json.JSONDecodeError as error:
        raise UserError(f"the run's config in {path} is damaged: take another copy.") from error


def load_upscaler(path: str | Path, device: torch.device | str) -> tuple[RecurrentUpscaler, ModelConfig]:
    """The upscaler of a file, checkpoint or run: on ``device``, in eval mode and channels_last (the faster layout)."""
    weights = read_weights(path)
    upscaler = _empty_upscaler(weights.model, centred=is_centred(weights.degradation))
    upscaler.load_state_dict(weights.upscaler, assign=True)
    return upscaler.eval().to(device).to(memory_format=torch.channels_last), weights.model


def load_initial(
    path: str | Path, upscaler: RecurrentUpscaler, model: ModelConfig, discriminator: Discriminator | None = None
) -> str:
    """Put weights into networks that are to be trained anew; returns a sentence for the log.

    ``model`` is the config that ``upscaler`` was built from. Weights of fewer residual blocks are accepted and the
    remaining blocks keep their values: so the original starts TecoGAN (16 blocks) from FRVSR (10). The discriminator's
    weights are taken when both sides have one of equal shapes. Raises :class:`UserError` naming any other difference.
    """
    weights = read_weights(path)
    theirs = weights.model
    if theirs.scale != model.scale:
        raise UserError(
            f"the weights {path} upscale {theirs.scale} times, the config asks for {model.scale}: change model.scale "
            "or take other weights (the published ones are for 4)."
        )
    if theirs.blocks > model.blocks:
        raise _different(path, "residual blocks", "model.blocks", theirs.blocks, model.blocks)
    if theirs.channels != model.channels:
        raise _different(path, "channels", "model.channels", theirs.channels, model.channels)
    if theirs.flow_width != model.flow_width:
        raise _different(path, "flow channels", "model.flow_width", theirs.flow_width, model.flow_width)
    upscaler.load_state_dict(upscaler.state_dict() | weights.upscaler)
    sentence = f"loaded the upscaler from {path} (step {weights.step})"
    if theirs.blocks < model.blocks:
        sentence += f", which has {theirs.blocks} of the {model.blocks} residual blocks: the others start fresh"
    if discriminator is None:
        return f"{sentence}."
    if weights.discriminator is None:
        return f"{sentence}; the discriminator starts fresh: the file has none."
    if _shapes(weights.discriminator) != _shapes(discriminator.state_dict()):
        return f"{sentence}; the discriminator starts fresh: the file's has other shapes."
    discriminator.load_state_dict(weights.discriminator)
    return f"{sentence}, and the discriminator."


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file under a temporary name next to ``path``, flush it to disk and rename it."""
    # A clone: state dicts may be views into one large buffer (DeepSpeed) or in channels_last order.
    stored = {
        name: tensor.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(safetensors.torch.save(stored, metadata))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}).") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors (float32, on the CPU) and the metadata of a safetensors file. Raises :class:`UserError`."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_metadata(path: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    if metadata.get("format") != _FORMAT:
        raise UserError(f"{path} holds no upscaler of tecogan_dist: give weights of a run or of 'tecogan convert'.")
    if metadata.get("version") != _VERSION:
        raise UserError(f"{path} was written by another version of tecogan_dist: use that one, or other weights.")
    return metadata


def _step(path: Path, metadata: Mapping[str, str]) -> int:
    text = metadata.get("step", "")
    if not (text.isdecimal() and len(text) < 20):
        raise UserError(f"{path} does not say its training step: it is damaged, take another copy.")
    return int(text)


def _check_complete(path: Path, state: Mapping[str, Tensor], model: ModelConfig) -> None:
    # First the three numbers, so that a damaged one cannot ask for a model larger than the file.
    blocks = sum(name.startswith("generator.blocks.") and name.endswith(".conv1.bias") for name in state)
    channels = _size(state, "generator.input.bias")
    flow_width = _size(state, "flow.encoder.0.conv1.bias")
    sizes = (blocks, channels, flow_width)
    if sizes != (model.blocks, model.channels, model.flow_width) or min(sizes) < 1:
        raise UserError(f"the tensors in {path} are not those of the model it names: it is damaged, take another copy.")
    expected, found = _shapes(_empty_upscaler(model, centred=False).state_dict()), _shapes(state)
    different = [name for name in expected | found if expected.get(name) != found.get(name)]
    if different:
        raise UserError(
            f"{path} is incomplete or damaged ({different[0]} is missing, unknown or of a wrong shape): "
            "take another copy."
        )


def _empty_upscaler(model: ModelConfig, *, centred: bool) -> RecurrentUpscaler:
    with torch.device("meta"):
        return RecurrentUpscaler(
            blocks=model.blocks,
            channels=model.channels,
            flow_width=model.flow_width,
            scale=model.scale,
            centred=centred,
        )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _size(state: Mapping[str, Tensor], name: str) -> int:
    return state[name].numel() if name in state else 0


def _different(path: str | Path, what: str, setting: str, theirs: int, ours: int) -> UserError:
    return UserError(
        f"the weights {path} have {theirs} {what}, the config asks for {ours}: change {setting} or take other weights."
    )


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is no safetensors file, or damaged or cut short ({error}): take another copy.")
