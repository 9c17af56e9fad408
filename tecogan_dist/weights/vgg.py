"""Where the VGG19 of the perceptual loss gets its weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import check_regular
from tecogan_dist.base.state_dicts import not_finite, read_state_dict, select
from tecogan_dist.config.schema import RANDOM
from tecogan_dist.models import layers
from tecogan_dist.models.vgg import LEVELS, Preprocessing, Vgg19
from tecogan_dist.weights.format import SUFFIX, VGG_FORMAT, shapes
from tecogan_dist.weights.tensors import CHECKSUM, read_tensors, write_tensors

_VERSION = "1"
CPU = torch.device("cpu")
_HOW_TO_GET = (
    "take torchvision's vgg19-dcbb9e9d.pth, or what 'tecogan convert' makes of TF-slim's vgg_19.ckpt, and give "
    "--perceptual.weights FILE, or vgg19, which fetches it; or train without with --loss.perceptual 0"
)


@dataclass(frozen=True)
class VggWeights:
    """Weights by :class:`Vgg19`'s names (``conv1_1.weight``), and the input normalisation they were trained with.

    A plain value: read where the file is, and sent to where it is used.
    """

    state: dict[str, Tensor]
    preprocessing: Preprocessing


def read_vgg(source: str | None, *, seed: int, how_to_get: str = _HOW_TO_GET) -> VggWeights:
    """Read ``source``: torchvision's VGG19 state dict (.pth or .safetensors), a file of ``tecogan convert``, or RANDOM.

    RANDOM initialises by He from ``seed``. Raises :class:`UserError` for None, a missing, damaged or other file, which
    ends with ``how_to_get``.
    """
    if source is None:
        raise UserError(f"the perceptual loss needs VGG19's weights: {how_to_get}.")
    if source == RANDOM:
        return VggWeights(_random_state(seed), "tf_slim")
    path = Path(source)
    if not os.path.lexists(path):
        raise UserError(f"no file with VGG19's weights is at {source}: {how_to_get}.")
    check_regular(path, what="weights file")
    if path.suffix == SUFFIX:
        tensors, metadata = read_tensors(path)
        if metadata.get("format") == VGG_FORMAT:
            preprocessing = _preprocessing(path, metadata)
            return VggWeights(
                _select(path, tensors, {name: f"vgg.{name}" for name in _empty_state()}, how_to_get), preprocessing
            )
    else:
        tensors = read_state_dict(path, how_to_get=how_to_get)
    return VggWeights(_select(path, tensors, _torchvision_names(), how_to_get), "torchvision")


def _preprocessing(path: Path, metadata: dict[str, str]) -> Preprocessing:
    """What one of our files says. Raises :class:`UserError` for anything but what :func:`save_vgg` writes."""
    for known in get_args(Preprocessing):
        expected = {"format": VGG_FORMAT, "version": _VERSION, "preprocessing": known}
        if {name: text for name, text in metadata.items() if name != CHECKSUM} == expected:
            return cast(Preprocessing, known)
    raise UserError(f"{path} was written by another version of tecogan_dist: convert it again.")


def build_vgg(weights: VggWeights, device: torch.device = CPU, *, bf16: bool = False) -> Vgg19:
    """A frozen VGG19 with these weights on the device, in the memory order in which it is fastest there; ``bf16``:
    under an autocast to that."""
    with torch.random.fork_rng(devices=[]):  # its own initial values, soon replaced, must not move the run's seed
        vgg = Vgg19(weights.preprocessing)
    vgg.load_state_dict(weights.state)
    return vgg.eval().to(device).to(memory_format=layers.memory_format(device, bf16=bf16))


def save_vgg(path: Path, weights: VggWeights) -> None:
    """Write what :func:`read_vgg` reads back, whole or not at all. Raises :class:`UserError` if it cannot be written.

    So it does for weights that are infinite or not a number.
    """
    bad = not_finite(weights.state)
    if bad is not None:
        raise UserError(f"{path} is not written: {bad}, which nothing can be made of.")
    metadata = {"format": VGG_FORMAT, "version": _VERSION, "preprocessing": weights.preprocessing}
    write_tensors(path, {f"vgg.{name}": tensor for name, tensor in weights.state.items()}, metadata)


def _select(path: Path, tensors: dict[str, Any], names: dict[str, str], how_to_get: str) -> dict[str, Tensor]:
    """The tensors called ``names`` (ours: theirs), if all are there in VGG19's shapes."""
    wanted = {names[name]: shape for name, shape in shapes(_empty_state()).items()}
    found = select(tensors, wanted, kind=f"{path} is not a VGG19 file", advice=how_to_get)
    return {name: found[names[name]] for name in names}


def _torchvision_names() -> dict[str, str]:
    """Ours -> torchvision's, which numbers all layers: a ReLU after each convolution, a pool after each level."""
    names = {}
    number = 0
    for level, (_, count) in enumerate(LEVELS, start=1):
        for i in range(1, count + 1):
            for variable in ("weight", "bias"):
                names[f"conv{level}_{i}.{variable}"] = f"features.{number}.{variable}"
            number += 2
        number += 1
    return names


def _random_state(seed: int) -> dict[str, Tensor]:
    """He's initialisation: normal with variance 2 / fan_in (He et al. 2015, equation 10), biases 0."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, like in _empty_state().items():
        state[name] = torch.zeros(like.shape)
        if name.endswith(".weight"):
            state[name].normal_(std=(2 / like[0].numel()) ** 0.5, generator=generator)
    return state


def _empty_state() -> dict[str, Tensor]:
    with torch.device("meta"):
        return Vgg19("tf_slim").state_dict()
