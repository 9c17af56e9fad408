"""Our training over the reference's batches, what it computed at each step, and how that is held to the original's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tecogan_dist.models.build import build_discriminator, build_upscaler
from tecogan_dist.models.vgg import Vgg19
from tecogan_dist.runs.quantities import ORIGINAL_NAMES
from tecogan_dist.runs.writing import Snapshot
from tecogan_dist.training import step as step_module
from tecogan_dist.training.engines.plain import PlainPair
from tecogan_dist.training.objective import ObjectiveResult
from tecogan_dist.training.saving import take_snapshot
from tecogan_dist.training.step import TrainingStep
from tecogan_dist.weights.tensorflow.names import tensorflow_name, to_tensorflow_layout
from tecogan_dist.weights.vgg import VggWeights
from tests.parity.reference import TrainingTrace, close, fill_by_rule, sampled

OUR_LOSS = {theirs: ours for ours, theirs in ORIGINAL_NAMES.items() if ours != "balance"}
DISCRIMINATOR = "tdiscriminator/"
SCOPES = ("generator/", "fnet/", DISCRIMINATOR)
OFF = {"generator/": 0.03, "fnet/": 0.03, DISCRIMINATOR: 0.15}
"""The share of the weights that may be off by more than a tenth of a step after 4 steps.

The discriminator's is not decided by the race of the original's graph: taking both gradients in its order (the
generator's goes through a discriminator that has been updated already) moves 0.01% to 1.2% of these weights of ours in
eight runs. It is rounding. Noise of 1e-6 on the generator's first weights moves 2%, noise of 1e-5 4% to 7%, and three
draws of 1e-6 have 2.3%, 5.0% and 7.0% off the trace ``main_asis``, and 0.3%, 1.8% and 9.2% off ``main_clean``: the
gradient of the first layer sums over all pixels what nearly cancels, leaky ReLUs tip over, and Adam makes full steps of
the signs. The two traces themselves differ by 7.0%.
"""
OFF_AFTER_STEP = (0.01, 0.03, 0.08, OFF[DISCRIMINATOR])
"""The discriminator's after each step: what rounding began grows."""
STEP_TOLERANCE = (1e-5, 5e-4, 1e-3, 3e-3)
"""Relative tolerance of raw losses at each step: rounding grows through the kinks of floor, leaky ReLU and max pool."""


class RecordingStep(TrainingStep):
    """A step that keeps both losses' gradients at the weights before the first one."""

    gradients: dict[str, np.ndarray]
    moving: dict[str, np.ndarray]

    def forward(self, lr_frames: Tensor, hr_frames: Tensor) -> ObjectiveResult:
        result = super().forward(lr_frames, hr_frames)
        if not hasattr(self, "gradients"):
            gradients: dict[str, Tensor] = {}
            for prefix, module, loss in (
                ("", self.pair.upscaler_module, result.generator_loss),
                ("discriminator.", self.pair.discriminator_module, result.discriminator_loss),
            ):
                if module is not None and loss is not None:
                    names = [prefix + name for name, _ in module.named_parameters()]
                    tensors = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
                    gradients |= dict(zip(names, tensors, strict=True))
            self.gradients = by_their_names(gradients)
            buffers = named(self.pair.discriminator_module, "named_buffers")
            self.moving = by_their_names({f"discriminator.{name}": buffer for name, buffer in buffers.items()})
        return result


class Replay:
    """Our training over a trace's batches, in one process: what it computed at each step, by the original's names."""

    def __init__(self, trace: TrainingTrace, fade_in: list[float]) -> None:
        config = trace.config
        upscaler = build_upscaler(config.model)
        fill_by_rule(upscaler, trace.seed)
        discriminator = None
        if config.loss.adversarial > 0:
            discriminator = build_discriminator(config.discriminator)
            fill_by_rule(discriminator, trace.seed, prefix="discriminator.")
        pair = PlainPair(upscaler, discriminator, config)
        step = RecordingStep(config, pair, device=torch.device("cpu"), vgg=vgg_of(trace))
        self.step = step
        self.losses: list[dict[str, float]] = []
        self.decisions: list[bool] = []
        self.averages: list[dict[str, float]] = []
        self.weights: list[dict[str, np.ndarray]] = []
        self.snapshots: list[Snapshot] = []
        """Of the run after each step, as a checkpoint of it would be made."""
        with pytest.MonkeyPatch.context() as patch:
            # A racy step saw the number of the step before or after its increment: the trace says which.
            patch.setattr(step_module, "fade_in_at", lambda _, number: fade_in[number])
            for windows in trace.windows:
                outcome = step(torch.from_numpy(windows))
                assert not outcome.problem
                step.settle()
                self.losses.append({name: value.item() for name, value in outcome.losses.items()})
                self.decisions.append(outcome.updates_discriminator)
                self.averages.append(step.state.records.averages)
                self.weights.append(weights_of(step))
                self.snapshots.append(take_snapshot(step.state, pair, None))
        self.gradients = step.gradients
        self.moving = step.moving


def named(module: torch.nn.Module | None, kind: str) -> dict[str, Tensor]:
    """A network's parameters or buffers by name; none of none."""
    return {} if module is None else dict(getattr(module, kind)())


def by_their_names(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {tensorflow_name(name): to_tensorflow_layout(name, tensor).copy() for name, tensor in tensors.items()}


def weights_of(step: TrainingStep) -> dict[str, np.ndarray]:
    """What is trained, by the original's names and in its layouts."""
    parameters = named(step.pair.upscaler_module, "named_parameters")
    others = named(step.pair.discriminator_module, "named_parameters")
    return by_their_names(parameters | {f"discriminator.{name}": p for name, p in others.items()})


def vgg_of(trace: TrainingTrace) -> VggWeights | None:
    """The VGG19 of a trace, if it has one."""
    if trace.config.loss.perceptual <= 0:
        return None
    network = Vgg19("tf_slim")
    fill_by_rule(network, trace.seed, prefix="vgg.")
    return VggWeights(network.state_dict(), "tf_slim")


def is_clean(trace: TrainingTrace) -> bool:
    return trace.name.endswith("clean")


def check_raw_losses(trace: TrainingTrace, i: int, losses: dict[str, float]) -> None:
    """Of step ``i``."""
    relative = STEP_TOLERANCE[min(i, len(STEP_TOLERANCE) - 1)]
    for name in trace.batches["update_list_name"].tolist():
        if name in OUR_LOSS:
            ours = losses[OUR_LOSS[name]]
            close(ours, trace.raw(name)[i], relative=relative, absolute=1e-7, what=f"{name} at step {i}")


def check_weights(trace: TrainingTrace, i: int, weights: dict[str, np.ndarray]) -> None:
    """After step ``i``, by the samples that were recorded."""
    start = trace.split_samples(trace.batches["samples_init"])
    learning_rate = trace.config.optimizer.learning_rate
    expected = trace.split_samples(trace.trace["samples"][i])
    for scope in SCOPES:
        names = [name for name in expected if name.startswith(scope)]
        if not names:
            continue
        ours = np.concatenate([sampled(weights[name]) for name in names])
        theirs = np.concatenate([expected[name] for name in names])
        before = np.concatenate([start[name] for name in names])
        off = np.mean(np.abs(ours - theirs) > 0.1 * learning_rate)
        moved, they_moved = (ours - before).astype(np.float64), (theirs - before).astype(np.float64)
        if not they_moved.any():
            assert not moved.any(), f"{scope} moved at step {i}, the original did not"
            continue
        cosine = moved @ they_moved / (np.linalg.norm(moved) * np.linalg.norm(they_moved))
        allowed = 0.01 if is_clean(trace) else 0.05
        if scope == DISCRIMINATOR:
            allowed = OFF_AFTER_STEP[min(i, len(OFF_AFTER_STEP) - 1)]
        assert off <= allowed, f"{scope} step {i}: {off:.2%} of the samples are off by more than a tenth of a step"
        is_tight = is_clean(trace) and (scope != DISCRIMINATOR or i < 2)
        assert cosine > (0.999 if is_tight else 0.995), f"{scope} step {i}: cosine {cosine}"
