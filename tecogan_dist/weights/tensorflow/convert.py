"""TensorFlow checkpoints of the original, and TF-slim's VGG19, to our weights files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import check_name
from tecogan_dist.base.lock import output_lock
from tecogan_dist.models.probe import gives_pictures
from tecogan_dist.weights.format import SUFFIX, save_weights
from tecogan_dist.weights.tensorflow.checkpoint import Array, read_checkpoint
from tecogan_dist.weights.tensorflow.names import SCORE_BIAS, from_tensorflow, vgg_from_tensorflow
from tecogan_dist.weights.tensors import short
from tecogan_dist.weights.vgg import VggWeights, save_vgg

_GLOBAL_STEP = "get_learning_rate_and_global_step/global_step"


def convert(source: Path, output: Path, *, overwrite: bool = False) -> str:
    """Write ``output`` from the checkpoint ``source``: an upscaler, with its discriminator if it has one, or a VGG19.

    Returns a sentence on what was written. Raises :class:`UserError`; then ``output`` is as it was.
    """
    _check_output(source, output, overwrite=overwrite)
    with output_lock(output):
        _check_output(source, output, overwrite=overwrite)  # another one may have ended just now
        return _convert(source, output)


def _check_output(source: Path, output: Path, *, overwrite: bool) -> None:
    """Before anything is read: may the output be written?"""
    check_name(str(output))
    if output.suffix != SUFFIX:
        raise UserError(f"the output {output} must have a name that ends in {SUFFIX}.")
    if os.path.isdir(output):
        raise UserError(f"the output {output} is a folder: name a file.")
    if os.path.lexists(output) and not overwrite:
        raise UserError(f"{output} exists: name another output, or replace it with --overwrite.")
    if os.path.exists(output) and os.path.exists(source) and os.path.samefile(source, output):
        raise UserError(f"{output} is the checkpoint itself: name another output.")
    if os.path.exists(output.parent) and not os.path.isdir(output.parent):
        raise UserError(f"{output.parent} is not a folder: name another output.")
    if not os.path.isdir(output.parent):
        raise UserError(f"the folder {output.parent} does not exist: make it first.")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise UserError(f"no file can be made in the folder {output.parent}: check its permissions, or name another.")


def _convert(source: Path, output: Path) -> str:
    tensors = read_checkpoint(source)
    if any(name.startswith("generator/generator_unit/") for name in tensors):
        return _convert_upscaler(tensors, output)
    if any(name.startswith("vgg_19/conv") for name in tensors):
        state = vgg_from_tensorflow(tensors)
        save_vgg(output, VggWeights(state, "tf_slim"))
        return f"wrote {output}: VGG19, {_count(state)}."
    raise UserError(
        f"{source} holds neither an upscaler of TecoGAN or FRVSR (generator/...) nor a VGG19 (vgg_19/...), but "
        f"{', '.join(map(short, sorted(tensors)[:3])) or 'nothing'}: convert a checkpoint of those."
    )


def _convert_upscaler(tensors: Mapping[str, Array], output: Path) -> str:
    upscaler_state, discriminator_state, model = from_tensorflow(tensors)
    if not gives_pictures(upscaler_state, model):
        raise UserError(
            "the TensorFlow checkpoint cannot be used: some weights are so large that the upscaler gives no picture, "
            "convert another one."
        )
    step = _step(tensors)
    save_weights(
        output,
        upscaler_state=upscaler_state,
        discriminator_state=discriminator_state,
        model=model,
        run_config=None,
        step=step,
    )
    line = f"wrote {output}: upscaler with {model.blocks} residual blocks of {model.channels} channels"
    line += f", {_count(upscaler_state)}"
    if discriminator_state is not None:
        line += f"; discriminator, {_count(discriminator_state)}"
        if SCORE_BIAS not in tensors:
            line += " (its last bias is not in the checkpoint and set to 0, as the original does)"
    return f"{line}; step {step}."


def _step(tensors: Mapping[str, Array]) -> int:
    """The checkpoint's training step, 0 if it does not say it."""
    if _GLOBAL_STEP not in tensors:
        return 0
    value = tensors[_GLOBAL_STEP]
    if value.size != 1 or value.dtype.kind not in "iu" or value.item() < 0:
        raise UserError(
            f"the TensorFlow variable {_GLOBAL_STEP} is not a number of training steps: convert another checkpoint."
        )
    return int(value.item())


def _count(state: Mapping[str, Tensor]) -> str:
    return f"{len(state)} tensors, {sum(tensor.numel() for tensor in state.values()):,} numbers"
