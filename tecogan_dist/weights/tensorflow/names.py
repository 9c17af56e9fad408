"""Names and layouts of the original TensorFlow variables, and the way from them to our networks' states.

Our names here are those of the networks' state dicts, made unique by a first part: ``flow.*`` and ``generator.*`` (as
RecurrentUpscaler has them), ``discriminator.*`` and ``vgg.*``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.state_dicts import not_finite
from tecogan_dist.config.schema import DiscriminatorConfig, ModelConfig
from tecogan_dist.models.build import TRIPLET_CHANNELS, WIDEST, build_discriminator, build_upscaler
from tecogan_dist.models.vgg import Vgg19

_SCOPES = (
    (r"generator\.input", "generator/generator_unit/input_stage/conv/Conv"),
    (r"generator\.blocks\.(\d+)\.conv([12])", "generator/generator_unit/resblock_{}/conv_{}/Conv"),
    (r"generator\.up([12])", "generator/generator_unit/conv_tran2highres/conv_tran{}/Conv2d_transpose"),
    (r"generator\.output", "generator/generator_unit/output_stage/conv/Conv"),
    (r"flow\.(encoder|decoder)\.(\d+)\.conv([12])", "fnet/autoencode_unit/{}_{}/conv_{}/Conv"),
    (r"flow\.output\.conv([12])", "fnet/autoencode_unit/output_stage/conv{}/Conv"),
    (r"discriminator\.input", "tdiscriminator/discriminator_unit/input_stage/conv/Conv"),
    (r"discriminator\.blocks\.(\d+)\.conv", "tdiscriminator/discriminator_unit/disblock_{}/conv1/Conv"),
    (r"discriminator\.blocks\.(\d+)\.norm", "tdiscriminator/discriminator_unit/disblock_{}/BatchNorm"),
    (r"discriminator\.score", "tdiscriminator/discriminator_unit/dense_layer_2/dense"),
    (r"vgg\.conv(\d)_(\d)", "vgg_19/conv{0}/conv{0}_{1}"),
)
_BLOCK = re.compile(r"(?:^|/)generator/generator_unit/resblock_(\d{1,6})/")
_VARIABLES = {"weight": "weights", "bias": "biases"}
_FLOATS = (np.dtype(np.float32), np.dtype(np.float16))
"""Those that float32 holds without rounding."""
_DENSE_VARIABLES = {"weight": "kernel", "bias": "bias"}

SCORE_BIAS = "tdiscriminator/discriminator_unit/dense_layer_2/dense/bias"
"""Not among TensorFlow's MODEL_VARIABLES: files made of those lack it, and the original then starts it at 0."""


def tensorflow_name(our_name: str) -> str:
    """``generator.blocks.0.conv1.weight`` -> ``generator/generator_unit/resblock_1/conv_1/Conv/weights``, and so on.

    Raises ``KeyError`` for a name that none of the networks has.
    """
    module, _, variable = our_name.rpartition(".")
    for pattern, scope in _SCOPES:
        match = re.fullmatch(pattern, module)
        if match is None:
            continue
        parts = list(match.groups())
        if module.startswith("discriminator.blocks."):
            parts[0] = str(2 * int(parts[0]) + 1)  # disblock_1, _3, _5, _7
        elif ".blocks." in module:
            parts[0] = str(int(parts[0]) + 1)
        elif "coder." in module:
            parts[1] = str(int(parts[1]) + 1)
        variables = _DENSE_VARIABLES if module == "discriminator.score" else _VARIABLES
        return f"{scope.format(*parts)}/{variables.get(variable, variable)}"
    raise KeyError(our_name)


def to_tensorflow_layout(our_name: str, tensor: Tensor) -> NDArray[np.float32]:
    """A weight, or its gradient or moment, as TensorFlow lays it out.

    Convolution (out, in, kh, kw) -> (kh, kw, in, out), transposed convolution (in, out, kh, kw) -> (kh, kw, out, in),
    dense (out, in) -> (in, out), everything else unchanged.
    """
    tensor = tensor.detach().cpu().float()
    if our_name.endswith(".weight"):
        tensor = tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
    return np.ascontiguousarray(tensor.numpy())


def from_tensorflow_layout(our_name: str, array: NDArray[np.generic]) -> Tensor:
    """The inverse of :func:`to_tensorflow_layout`; float32, contiguous, a copy."""
    if our_name.endswith(".weight"):
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def from_tensorflow(
    tensors: Mapping[str, NDArray[np.generic]],
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None, ModelConfig]:
    """State dicts of the upscaler and, where it is there, the discriminator, from TensorFlow variables by name.

    The numbers of blocks and channels are read off the shapes. Adam's moments, averages, counters and VGG are ignored.
    A missing SCORE_BIAS becomes 0. Raises :class:`UserError` when a variable is missing or has an unexpected shape.
    """
    model = ModelConfig(
        blocks=_blocks(tensors),
        channels=_kernel_shape(tensors, "generator.input.weight")[3],
        flow_width=_kernel_shape(tensors, "flow.encoder.0.conv1.weight")[3],
    )
    with torch.device("meta"):
        upscaler = build_upscaler(model)
    upscaler_state = _read_state(tensors, upscaler.state_dict(), prefix="")
    if not any(name.startswith("tdiscriminator/") for name in tensors):
        return upscaler_state, None, model
    in_channels = _kernel_shape(tensors, "discriminator.input.weight")[2]
    with torch.device("meta"):
        discriminator = build_discriminator(DiscriminatorConfig(temporal_only=in_channels == TRIPLET_CHANNELS))
    with_bias = {SCORE_BIAS: np.zeros(1, np.float32), **tensors}
    return upscaler_state, _read_state(with_bias, discriminator.state_dict(), prefix="discriminator."), model


def moments_from_tensorflow(
    tensors: Mapping[str, NDArray[np.generic]], weights: Mapping[str, Tensor], *, prefix: str, slot: str
) -> dict[str, Tensor]:
    """Adam's moments of a network by its weights' names, in our layout.

    ``weights``: those that are trained; ``prefix`` makes their names unique (``discriminator.``). ``slot``: what
    TensorFlow calls a variable's moments, with the variable's own name in place of ``{}``. Raises :class:`UserError`
    when one is missing, has another shape than its weight or is not finite.
    """
    return _read_state(tensors, weights, prefix=prefix, slot=slot)


def vgg_from_tensorflow(tensors: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """The state dict of :class:`Vgg19` from the variables of TF-slim's vgg_19; its classifier is ignored."""
    with torch.device("meta"):
        vgg = Vgg19("tf_slim")
    return _read_state(tensors, vgg.state_dict(), prefix="vgg.")


def _read_state(
    tensors: Mapping[str, NDArray[np.generic]], expected: Mapping[str, Tensor], *, prefix: str, slot: str = "{}"
) -> dict[str, Tensor]:
    state = {}
    for name, like in expected.items():
        variable = slot.format(tensorflow_name(prefix + name))
        array = _find(tensors, variable)
        tensor = from_tensorflow_layout(name, array)
        if tensor.shape != like.shape:
            raise _wrong_shape(variable, array)
        if array.dtype not in _FLOATS:
            raise UserError(
                f"the TensorFlow variable {variable} is of type {array.dtype}, where weights are float32: convert a "
                "checkpoint of TecoGAN, FRVSR or VGG19."
            )
        bad = not_finite({variable: tensor})
        if bad is not None:
            raise UserError(f"the TensorFlow checkpoint cannot be used: {bad}, convert another one.")
        state[name] = tensor
    return state


def _blocks(tensors: Mapping[str, NDArray[np.generic]]) -> int:
    """Residual blocks that any variable is of, moments and averages too: of a block that is named, none may lack."""
    found = sorted({int(match[1]) for match in map(_BLOCK.search, tensors) if match})
    missing = next((number for number, there in enumerate(found, 1) if number != there), None)
    if missing is not None:
        first = tensorflow_name("generator.blocks.0.conv1.weight")
        _find(tensors, first.replace("resblock_1/", f"resblock_{missing}/"))
    return max(1, len(found))


def _kernel_shape(tensors: Mapping[str, NDArray[np.generic]], our_name: str) -> tuple[int, ...]:
    variable = tensorflow_name(our_name)
    array = _find(tensors, variable)
    if array.ndim != 4 or array.size == 0 or array.shape[3] > WIDEST:
        raise _wrong_shape(variable, array)
    return array.shape


def _find(tensors: Mapping[str, NDArray[np.generic]], variable: str) -> NDArray[np.generic]:
    if variable not in tensors:
        raise UserError(f"the TensorFlow checkpoint has no variable {variable}: convert a complete one.")
    return tensors[variable]


def _wrong_shape(variable: str, array: NDArray[np.generic]) -> UserError:
    return UserError(
        f"the TensorFlow variable {variable} has shape {array.shape}, which does not fit a TecoGAN, FRVSR or VGG19 "
        "network: convert a checkpoint of those."
    )
