"""TensorFlow checkpoints of the original, and TF-slim's VGG19, to our weights files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.weights.format import SUFFIX, save_weights
from tecogan_dist.weights.tensorflow.checkpoint import Array, read_checkpoint
from tecogan_dist.weights.tensorflow.names import SCORE_BIAS, from_tensorflow, vgg_from_tensorflow
from tecogan_dist.weights.vgg import VggWeights, save_vgg

_GLOBAL_STEP = "get_learning_rate_and_global_step/global_step"


def convert(source: Path, output: Path, *, overwrite: bool = False) -> str:
    """Write ``output`` from the checkpoint ``source``: an upscaler, with its discriminator if it has one, or a VGG19.

    Returns a sentence on what was written. Raises :class:`UserError`.
    """
    if output.suffix != SUFFIX:
        raise UserError(f"the output {output} must have a name that ends in {SUFFIX}.")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists: name another output, or replace it with --overwrite.")
    if not output.parent.is_dir():
        raise UserError(f"the folder {output.parent} does not exist: make it first.")
    tensors = read_checkpoint(source)
    if any(name.startswith("generator/generator_unit/") for name in tensors):
        return _convert_upscaler(tensors, output)
    if any(name.startswith("vgg_19/conv") for name in tensors):
        state = vgg_from_tensorflow(tensors)
        save_vgg(output, VggWeights(state, "tf_slim"))
        return f"wrote {output}: VGG19, {_count(state)}."
    raise UserError(
        f"{source} holds neither an upscaler of TecoGAN or FRVSR (generator/...) nor a VGG19 (vgg_19/...), but "
        f"{', '.join(sorted(tensors)[:3]) or 'nothing'}: convert a checkpoint of those."
    )


def _convert_upscaler(tensors: Mapping[str, Array], output: Path) -> str:
    upscaler_state, discriminator_state, model = from_tensorflow(tensors)
    step = int(tensors[_GLOBAL_STEP].item()) if _GLOBAL_STEP in tensors else 0
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


def _count(state: Mapping[str, Tensor]) -> str:
    return f"{len(state)} tensors, {sum(tensor.numel() for tensor in state.values()):,} numbers"
