"""Values that follow from the number of a step."""

from __future__ import annotations

from tecogan_dist.config.schema import LossConfig, OptimizerConfig


def learning_rate_at(optimizer: OptimizerConfig, step: int) -> float:
    """Learning rate of the step with this 0-based number (tf.train.exponential_decay)."""
    exponent = step / optimizer.decay_steps
    if optimizer.decay_staircase:
        exponent = float(step // optimizer.decay_steps)
    return optimizer.learning_rate * optimizer.decay_rate**exponent


def fade_in_at(loss: LossConfig, step: int) -> float:
    """Factor on the adversarial and feature-match losses at the step with this 0-based number."""
    return min(loss.fade_in_maximum, loss.fade_in_start + loss.fade_in_increment * step)


def loss_weights_at(loss: LossConfig, step: int) -> dict[str, float]:
    """By name of a raw loss, its weight in the sums at the step with this 0-based number.

    The layers of ``feature_match`` are weighted in itself; ``total`` and ``discriminator`` are sums.
    """
    fade_in = fade_in_at(loss, step)
    return {
        "content": 1.0,
        "warp": loss.warp,
        "perceptual": loss.perceptual,
        "pingpong": loss.pingpong,
        "adversarial": fade_in * loss.adversarial,
        "feature_match": fade_in,
        "total": 1.0,
        "discriminator": 1.0,
    }
