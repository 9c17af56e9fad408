"""TensorFlow checkpoints of the original, and TF-slim's VGG19, to our weights files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.models.probe import gives_pictures
from tecogan_dist.weights.format import save_weights
from tecogan_dist.weights.outputs import new_weights_file
from tecogan_dist.weights.tensorflow.checkpoint import Array, read_checkpoint
from tecogan_dist.weights.tensorflow.names import SCORE_BIAS, from_tensorflow, vgg_from_tensorflow
from tecogan_dist.weights.tensorflow.training import GLOBAL_STEP, has_moments
from tecogan_dist.weights.tensors import short
from tecogan_dist.weights.vgg import VggWeights, save_vgg


def convert(source: Path, output: Path, *, overwrite: bool = False, vgg: bool = False) -> list[str]:
    """Write ``output`` from the checkpoint ``source``: an upscaler, with its discriminator if it has one, or a VGG19.

    ``vgg``: the VGG19, also from a checkpoint of the original's training, which holds both. Returns lines about what
    was written. Raises :class:`UserError`; then ``output`` is as it was.
    """
    with new_weights_file(source, output, overwrite=overwrite):
        return _convert(source, output, vgg=vgg)


def _convert(source: Path, output: Path, *, vgg: bool) -> list[str]:
    tensors = read_checkpoint(source)
    if not vgg and any(name.startswith("generator/generator_unit/") for name in tensors):
        return _convert_upscaler(tensors, output)
    if any(name.startswith("vgg_19/conv") for name in tensors):
        state = vgg_from_tensorflow(tensors)
        save_vgg(output, VggWeights(state, "tf_slim"))
        return [f"wrote {output}: VGG19, {_count(state)}."]
    if vgg:
        raise UserError(f"{source} holds no VGG19 (vgg_19/...): convert TF-slim's vgg_19.ckpt.")
    raise UserError(
        f"{source} holds neither an upscaler of TecoGAN or FRVSR (generator/...) nor a VGG19 (vgg_19/...), but "
        f"{', '.join(map(short, sorted(tensors)[:3])) or 'nothing'}: convert a checkpoint of those."
    )


def _convert_upscaler(tensors: Mapping[str, Array], output: Path) -> list[str]:
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
    lines = [f"{line}; step {step}."]
    if has_moments(tensors):
        lines.append("It also holds the optimisers' moments: --to checkpoint makes what training can go on from.")
    return lines


def _step(tensors: Mapping[str, Array]) -> int:
    """The checkpoint's training step, 0 if it does not say it."""
    if GLOBAL_STEP not in tensors:
        return 0
    value = tensors[GLOBAL_STEP]
    if value.size != 1 or value.dtype.kind not in "iu" or value.item() < 0:
        raise UserError(
            f"the TensorFlow variable {GLOBAL_STEP} is not a number of training steps: convert another checkpoint."
        )
    return int(value.item())


def _count(state: Mapping[str, Tensor]) -> str:
    return f"{len(state)} tensors, {sum(tensor.numel() for tensor in state.values()):,} numbers"
