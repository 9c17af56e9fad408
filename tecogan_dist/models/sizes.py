"""How much memory a training needs at the least, from its settings alone: sizes beyond a machine are said at once."""

from __future__ import annotations

from tecogan_dist.config.schema import Config, ModelConfig

COLOURS, FLOATS = 3, 4
"""Channels of a frame; bytes of a number."""
COPIES = 4
"""Of each weight: itself, its gradient, Adam's two moments."""


def parameter_count(model: ModelConfig) -> int:
    """Weights of flow network and generator, exactly. Whole numbers of any size."""
    features, width = model.channels, model.flow_width
    doublings = 2 if model.scale == 4 else 1
    generator = (
        _convolution(COLOURS + COLOURS * model.scale**2, features)
        + model.blocks * 2 * _convolution(features, features)
        + doublings * _convolution(features, features)
        + _convolution(features, COLOURS)
    )
    flow, before = 0, 2 * COLOURS
    for level in (width, 2 * width, 4 * width, 8 * width, 4 * width, 2 * width):
        flow += _convolution(before, level) + _convolution(level, level)
        before = level
    return generator + flow + _convolution(before, width) + _convolution(width, 2)


def training_memory(config: Config) -> int:
    """Bytes that a worker needs at the least: weights with what Adam keeps, and what a backward pass goes back to.

    Not counted are the discriminator, VGG19, the flow network's features, and what torch needs besides.
    """
    shards = config.cluster.workers if config.cluster.zero_stage == 3 else 1
    weights = parameter_count(config.model) * COPIES * FLOATS // shards
    model, data = config.model, config.data
    windows = max(1, config.batch_size // (config.cluster.workers * config.accumulation))
    frames = windows * (2 * data.sequence_length - 1 if config.loss.pingpong > 0 else data.sequence_length)
    pixels = data.crop_size**2
    enlarged = pixels * model.scale**2
    pictures = frames * enlarged * COLOURS * FLOATS
    features = model.channels * (pixels * (2 * model.blocks + 1) + enlarged)
    kept = windows if config.cluster.activation_checkpointing else frames
    return weights + pictures + kept * features * (2 if config.cluster.precision == "bf16" else FLOATS)


def _convolution(channels: int, features: int) -> int:
    return 9 * channels * features + features
