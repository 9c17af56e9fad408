"""The one place where settings become networks."""

from __future__ import annotations

from tecogan_dist.config.degradations import LrOrigin, is_centred
from tecogan_dist.config.schema import DiscriminatorConfig, ModelConfig
from tecogan_dist.models.discriminator import Discriminator
from tecogan_dist.models.port import PortUpscaler
from tecogan_dist.models.recurrent import RecurrentUpscaler

TRIPLET_CHANNELS = 9
"""Three frames of three colours."""
WIDEST = 1 << 16
"""Channels that a file may ask for: a thousand times the published ones, and no size computed from it overflows."""


def build_upscaler(
    model: ModelConfig, *, degradation: LrOrigin = "BD", activation_checkpointing: bool = False
) -> RecurrentUpscaler:
    """An untrained upscaler. ``degradation`` decides its fixed resamplings; it has no weights of its own.

    ``model.arithmetic`` chooses between the original's and TecoGAN-PyTorch's (:mod:`tecogan_dist.models.port`).

    On the device that ``torch.device`` says (``with torch.device("meta")`` for shapes alone), initialised by torch's
    random state.
    """
    kind = {"original": RecurrentUpscaler, "pytorch_port": PortUpscaler}[model.arithmetic]
    return kind(
        blocks=model.blocks,
        channels=model.channels,
        flow_width=model.flow_width,
        output_init_scale=model.output_init_scale,
        scale=model.scale,
        centred=is_centred(degradation),
        checkpointing=activation_checkpointing,
    )


def settings_of(upscaler: RecurrentUpscaler) -> ModelConfig:
    """The settings that make a network of the same layers, as :func:`build_upscaler` takes them."""
    return ModelConfig(
        arithmetic="pytorch_port" if isinstance(upscaler, PortUpscaler) else "original",
        blocks=len(upscaler.generator.blocks),
        channels=upscaler.generator.output.in_channels,
        flow_width=upscaler.flow.output.conv2.in_channels,
        scale=4 if upscaler.scale == 4 else 2,
    )


def build_discriminator(settings: DiscriminatorConfig) -> Discriminator:
    """An untrained discriminator of warped triplets alone, or of warped, unwarped and low-resolution ones."""
    return Discriminator(
        in_channels=TRIPLET_CHANNELS if settings.temporal_only else 3 * TRIPLET_CHANNELS,
        global_batch_norm=settings.global_batch_norm,
    )
