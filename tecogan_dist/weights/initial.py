"""Weights put into networks that are to be trained anew."""

from __future__ import annotations

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.discriminator import Discriminator
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.weights.format import Weights, shapes


def load_initial(
    weights: Weights,
    path: object,
    upscaler: RecurrentUpscaler,
    model: ModelConfig,
    discriminator: Discriminator | None = None,
) -> str:
    """Put ``weights``, which are from ``path``, into networks; returns the beginning of a sentence for the log.

    ``model`` is the config that ``upscaler`` was built from. Weights of fewer residual blocks are accepted and the
    remaining blocks keep their values: so the original starts TecoGAN (16 blocks) from FRVSR (10). The discriminator's
    weights are taken when both sides have one of equal shapes. Raises :class:`UserError` naming any other difference.
    """
    theirs = weights.model
    check_arithmetic(theirs, path, model)
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
        return sentence
    if weights.discriminator is None:
        return f"{sentence}; the discriminator starts fresh: the file has none"
    if shapes(weights.discriminator) != shapes(discriminator.state_dict()):
        return f"{sentence}; the discriminator starts fresh: the file's has other shapes"
    discriminator.load_state_dict(weights.discriminator)
    return f"{sentence}, and the discriminator"


def check_arithmetic(theirs: ModelConfig, path: object, model: ModelConfig) -> None:
    """Raise :class:`UserError` if weights of the model ``theirs`` belong to another arithmetic than ``model``.

    Names and shapes are the same, so that nothing else would tell.
    """
    if theirs.arithmetic != model.arithmetic:
        raise UserError(
            f"the weights {path} are for model.arithmetic {theirs.arithmetic} and give wrong pictures in the config's, "
            f"{model.arithmetic}: change model.arithmetic or take other weights."
        )


def _different(path: object, what: str, setting: str, theirs: int, ours: int) -> UserError:
    return UserError(
        f"the weights {path} have {theirs} {what}, the config asks for {ours}: change {setting} or take other weights."
    )
