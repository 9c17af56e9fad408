"""A training run of the original as one of its checkpoints holds it: weights, Adam's moments, counts and averages.

Names are those of lib/Teco.py and lib/frvsr.py as TensorFlow makes them. Each network has an Adam of its own: ``m`` is
the slot ``/Adam``, ``v`` is ``/Adam_1``, and TensorFlow keeps the powers of both betas instead of a count: they start
at beta, so that after ``t`` updates they are ``beta ** (t + 1)``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.schema import DiscriminatorConfig, ModelConfig, OptimizerConfig
from tecogan_dist.models.build import TRIPLET_CHANNELS, build_discriminator, build_upscaler
from tecogan_dist.weights.tensorflow.names import SCORE_BIAS, from_tensorflow, moments_from_tensorflow

Variables = Mapping[str, NDArray[np.generic]]

GLOBAL_STEP = "get_learning_rate_and_global_step/global_step"
_WITH_DISCRIMINATOR = "generator_train/gen_train_with_D_counter"
_WITHOUT_DISCRIMINATOR = "generator_train/gen_train_wo_D_counter"
_BALANCE = "t_discriminator_loss/add_3/ExponentialMovingAverage"
"""Of ``t_balance``: the fourth sum of its scope, whatever the flags."""
_SLOTS = ("generator_train/{}/Adam", "generator_train/{}/Adam_1")
_SLOT_NAME = re.compile(r"generator_train/.+/Adam")
_POWERS = {True: "generator_train/cond/beta{}_power", False: "generator_train/beta{}_power"}
"""Of the networks in the order in which their optimisers are built, ``_1``, ``_2`` added to all but the first. With a
discriminator (True) that is the first one, then generator and flow network; without, those two."""
_BETA1, _BETA2 = OptimizerConfig().beta1, OptimizerConfig().beta2
"""The original's as well: beta1 is its flag ``beta``, beta2 is TensorFlow's default and has no flag."""
_LEAST_POWER = 1e-37
"""Below it float32 loses digits, and TensorFlow's kernels may round to 0: powers say nothing any more."""
_SAME_POWER = 1e-4
"""Relative; powers of 0.999 are a tenth of a per cent apart, and products in float32 are the same on every device."""


@dataclass(frozen=True, kw_only=True)
class OriginalTraining:
    """Where a run of the original is. Tensors are float32 in our names and layouts."""

    model: ModelConfig
    step: int
    upscaler: dict[str, Tensor]
    discriminator: dict[str, Tensor] | None
    upscaler_moments: tuple[dict[str, Tensor], dict[str, Tensor]]
    """Adam's first and second ones, by the weights' names; of generator and flow network together."""
    discriminator_moments: tuple[dict[str, Tensor], dict[str, Tensor]] | None
    discriminator_updates: int
    discriminator_skips: int
    balance_average: float
    beta1: float | None
    """Of Adam, where the checkpoint still tells: for less than about 800 updates."""
    has_vgg: bool
    """Whether the checkpoint also holds the VGG19 of the perceptual loss."""
    counts_are_of_powers: bool
    """Whether the updates are those of Adam's powers, which the counters confirm. False: the powers of so many updates
    are 0 in float32, and the counters alone say how many there were."""

    @property
    def temporal_only(self) -> bool:
        """Whether the discriminator sees warped triplets only."""
        return self.discriminator is not None and _sees_triplets_only(self.discriminator)


def read_training(variables: Variables, *, source: object) -> OriginalTraining:
    """The run in a checkpoint of the original's training. ``source``: for messages.

    Raises :class:`UserError` for a checkpoint of weights alone and for variables that are missing, of a wrong shape or
    type, not finite, or contradict each other.
    """
    if not has_moments(variables):
        raise UserError(
            f"{source} holds weights without the optimisers' moments (generator_train/.../Adam), which training cannot "
            "go on without: convert it into a .safetensors file, and begin a new run with it: "
            "'tecogan train --initial-weights FILE'."
        )
    upscaler, discriminator, model = from_tensorflow(variables)
    step = whole_number(variables, GLOBAL_STEP)
    with torch.device("meta"):
        moments = _moments(variables, dict(build_upscaler(model).named_parameters()), prefix="")
    counts = {"generator": step, "fnet": step}
    skips, balance, discriminator_moments = 0, 0.0, None
    if discriminator is not None:
        _require(variables, SCORE_BIAS)
        counts = {"tdiscriminator": whole_number(variables, _WITH_DISCRIMINATOR), **counts}
        skips = whole_number(variables, _WITHOUT_DISCRIMINATOR)
        balance = _number(variables, _BALANCE)
        settings = DiscriminatorConfig(temporal_only=_sees_triplets_only(discriminator))
        with torch.device("meta"):
            trained = dict(build_discriminator(settings).named_parameters())
        discriminator_moments = _moments(variables, trained, prefix="discriminator.")
    confirmed = [
        _confirm_updates(variables, network, updates, second=_power_name(2, position, discriminator is not None))
        for position, (network, updates) in enumerate(counts.items())
    ]
    return OriginalTraining(
        model=model,
        step=step,
        upscaler=upscaler,
        discriminator=discriminator,
        upscaler_moments=moments,
        discriminator_moments=discriminator_moments,
        discriminator_updates=counts.get("tdiscriminator", 0),
        discriminator_skips=skips,
        balance_average=balance,
        beta1=_beta1(variables, step, first=_power_name(1, len(counts) - 1, discriminator is not None)),
        has_vgg=any(name.startswith("vgg_19/conv") for name in variables),
        counts_are_of_powers=all(confirmed),
    )


def has_moments(variables: Variables) -> bool:
    """Whether a checkpoint holds more than weights: what training goes on from."""
    return any(_SLOT_NAME.fullmatch(name) for name in variables)


def whole_number(variables: Variables, name: str) -> int:
    """A counter. Raises :class:`UserError` if it is missing or is none."""
    value = _require(variables, name)
    if value.size != 1 or value.dtype.kind not in "iu" or value.item() < 0:
        raise UserError(f"the TensorFlow variable {name} is not a count: convert another checkpoint.")
    return int(value.item())


def _number(variables: Variables, name: str) -> float:
    value = _require(variables, name)
    if value.size != 1 or value.dtype.kind != "f" or not math.isfinite(value.item()):
        raise UserError(f"the TensorFlow variable {name} is not a finite number: convert another checkpoint.")
    return float(value.item())


def _require(variables: Variables, name: str) -> NDArray[Any]:
    if name not in variables:
        raise UserError(f"the TensorFlow checkpoint has no variable {name}: convert a complete one.")
    return variables[name]


def _moments(
    variables: Variables, weights: Mapping[str, Tensor], *, prefix: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    first, second = (moments_from_tensorflow(variables, weights, prefix=prefix, slot=slot) for slot in _SLOTS)
    for name, tensor in second.items():
        if (tensor < 0).any():
            raise UserError(
                f"the TensorFlow checkpoint cannot be used: Adam's mean of the squared gradients of {name} has "
                "negative numbers, convert another one."
            )
    return first, second


def _sees_triplets_only(discriminator: Mapping[str, Tensor]) -> bool:
    return discriminator["input.weight"].shape[1] == TRIPLET_CHANNELS


def _power_name(beta: int, position: int, with_discriminator: bool) -> str:
    return _POWERS[with_discriminator].format(beta) + (f"_{position}" if position else "")


def _confirm_updates(variables: Variables, network: str, updates: int, *, second: str) -> bool:
    """Whether the power of beta2 says as the counter does; False where it has become too small to say anything.

    Raises :class:`UserError` if it says something else.
    """
    power = _number(variables, second)
    # TensorFlow multiplies in float32 at every update; so do we, up to where it says nothing.
    most = int(math.log(_LEAST_POWER) / math.log(_BETA2))
    powers = np.multiply.accumulate(np.full(most, _BETA2, np.float32))
    if updates >= most and abs(power) <= 2 * _LEAST_POWER:
        return False
    if updates >= most or abs(power / powers[updates].item() - 1) > _SAME_POWER:
        raise UserError(
            f"the TensorFlow checkpoint contradicts itself: after the {updates:,} updates of {network}/ that its "
            f"counter names, {second} is not {power:.6g} (Adam's beta2 is {_BETA2} in the original): convert another "
            "one, or only the weights, into a .safetensors file."
        )
    return True


def _beta1(variables: Variables, updates: int, *, first: str) -> float | None:
    """Adam's beta1, which is not saved but in its power; None where that has become too small."""
    power = _number(variables, first)
    if power < _LEAST_POWER:
        return None
    beta = power ** (1 / (updates + 1))
    if not beta < 1:
        raise UserError(f"the TensorFlow variable {first} is no power of Adam's beta1: convert another checkpoint.")
    # What rounding at every update leaves of it, at most 1e-6.
    return _BETA1 if abs(beta - _BETA1) < 2e-6 else round(beta, 6)
