"""Training checkpoints as the original's ``tf.train.Saver`` writes them, of a run of ours: names, layouts, types."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from tecogan_dist.runs.writing import MOMENTS, Snapshot, moment_name
from tecogan_dist.weights.tensorflow.names import tensorflow_name, to_tensorflow_layout

LOSS_OF_AVERAGE = {
    "generator_loss/content_loss/Mean": "content",
    "generator_loss/warp_loss/Mean": "warp",
    "generator_loss/vgg_layer_loss/sub": "perceptual_conv2_2",
    "generator_loss/vgg_layer_loss/sub_1": "perceptual_conv3_4",
    "generator_loss/vgg_layer_loss/sub_2": "perceptual_conv4_4",
    "generator_loss/vgg_layer_loss/sub_3": "perceptual_conv5_4",
    "generator_loss/vgg_layer_loss/add_3": "perceptual",
    "generator_loss/bidirection_loss/Mean": "pingpong",
    "layer_loss/Mean": "feature_match_0",
    "layer_loss/Mean_1": "feature_match_1",
    "layer_loss/Mean_2": "feature_match_2",
    "layer_loss/Mean_3": "feature_match_3",
    "layer_loss/add_3": "feature_match",
    "generator_loss/t_adversarial_loss/Mean": "adversarial",
    "t_discriminator_loss/Mean": "discriminator",
    "t_discriminator_loss/Mean_2": "real_score",
    "t_discriminator_loss/Mean_3": "fake_score",
    "t_discriminator_loss/add_3": "balance",
    "generator_loss/add_3": "total",
}
"""Averages of losses (decay 0.99, from 0) by the names that TensorFlow gives them, with our names of the losses."""
AVERAGE = "{}/ExponentialMovingAverage"
COUNTERS = {
    "generator_train/gen_train_with_D_counter": "discriminator_updates",
    "generator_train/gen_train_wo_D_counter": "discriminator_skips",
}
STEP = "get_learning_rate_and_global_step/global_step"


def original_checkpoint(snapshot: Snapshot, losses: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """All variables of a training checkpoint of the original but VGG19's. ``losses``: of all steps so far."""
    variables: dict[str, np.ndarray] = {STEP: np.array(snapshot.state.step, np.int64)}
    networks = {"upscaler": ("", snapshot.upscaler), "discriminator": ("discriminator.", snapshot.discriminator or {})}
    for network, (prefix, weights) in networks.items():
        for name, tensor in weights.items():
            variable = tensorflow_name(prefix + name)
            variables[variable] = to_tensorflow_layout(prefix + name, tensor).copy()
            if name.endswith(("moving_mean", "moving_variance")):
                continue
            for kind, slot in zip(MOMENTS, ("Adam", "Adam_1"), strict=True):
                moments: Tensor | None = snapshot.moments.get(moment_name(network, kind, name))
                # Before its first update a network's slots are 0.
                like = np.zeros_like(variables[variable])
                value = like if moments is None else to_tensorflow_layout(prefix + name, moments).copy()
                variables[f"generator_train/{variable}/{slot}"] = value
    variables |= powers(snapshot.updates)
    # Of FRVSR the whole loss is the content loss: one tensor, listed twice, averaged twice at every step, from the
    # same average before.
    twice = {} if snapshot.discriminator is not None else {"content": 2, "total": 0}
    for name, loss in LOSS_OF_AVERAGE.items():
        times = twice.get(loss, 1)
        if loss in losses[0] and times:
            average = 0.0
            for step in losses:
                average += 0.01 * times * (step[loss] - average)
            variables[AVERAGE.format(name)] = np.array(average, np.float32)
    if snapshot.discriminator is not None:
        state = snapshot.state
        variables |= {name: np.array(getattr(state, counter), np.int32) for name, counter in COUNTERS.items()}
        variables[AVERAGE.format("t_discriminator_loss/add_3")] = np.array(state.balance_average, np.float32)
    return variables


def powers(updates: dict[str, int]) -> dict[str, np.ndarray]:
    """Adam's powers after so many updates: with a discriminator its own first, then generator's and flow network's."""
    counts = [updates["upscaler"]] * 2
    scope = "generator_train"
    if "discriminator" in updates:
        counts = [updates["discriminator"], *counts]
        scope = "generator_train/cond"
    found = {}
    for number, beta in ((1, np.float32(0.9)), (2, np.float32(0.999))):
        for position, count in enumerate(counts):
            power = beta
            for _ in range(count):
                power = np.float32(power * beta)
            found[f"{scope}/beta{number}_power" + (f"_{position}" if position else "")] = np.array(power)
    return found
