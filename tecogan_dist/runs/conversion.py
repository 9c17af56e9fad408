"""A run of the original becomes a checkpoint of ours, which ``tecogan train --resume`` goes on from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tecogan_dist.base.atomic import replacing, reported_local, write_text
from tecogan_dist.base.errors import UserError
from tecogan_dist.config.load import load
from tecogan_dist.models.probe import gives_pictures
from tecogan_dist.runs.checkpoints import STATE_FILE, TrainingState
from tecogan_dist.runs.writing import MOMENTS, NETWORKS, Snapshot, moment_name, write_files
from tecogan_dist.weights.outputs import new_folder
from tecogan_dist.weights.tensorflow.checkpoint import read_checkpoint
from tecogan_dist.weights.tensorflow.training import OriginalTraining, read_training

MORE_STEPS = 100_000
"""Where a run has done all steps of its preset, in the command that goes on."""


def convert_training(source: Path, output: Path) -> list[str]:
    """Make the folder ``output`` a checkpoint of the TensorFlow training checkpoint ``source``, whole or not at all.

    Returns lines about what was written and how to go on. Raises :class:`UserError`; then ``output`` is as it was.
    """
    with new_folder(output):
        training = read_training(read_checkpoint(source), source=source)
        if not gives_pictures(training.upscaler, training.model):
            raise UserError(
                "the TensorFlow checkpoint cannot be used: some weights are so large that the upscaler gives no "
                "picture, convert another one."
            )
        snapshot = _snapshot(training)
        with replacing(output) as partial, reported_local(output):
            partial.mkdir()
            content = write_files(partial, snapshot, model=training.model, run_config=None)
            write_text(partial / STATE_FILE, content.to_json().decode())
    lines = [*_lines(output, training), f"  {_command(output, training)}"]
    if training.has_vgg:
        lines.append(f"Its VGG19: tecogan convert {shlex.quote(str(source))} vgg19.safetensors --to vgg19")
    return lines


def _snapshot(training: OriginalTraining) -> Snapshot:
    """What training would have written in this place."""
    moments = _named(NETWORKS[0], training.upscaler_moments) if training.step else {}
    updates = {NETWORKS[0]: training.step}
    if training.discriminator_moments is not None:
        updates[NETWORKS[1]] = training.discriminator_updates
        if training.discriminator_updates:
            moments |= _named(NETWORKS[1], training.discriminator_moments)
    return Snapshot(
        state=TrainingState(
            step=training.step,
            balance_average=training.balance_average,
            discriminator_updates=training.discriminator_updates,
            discriminator_skips=training.discriminator_skips,
        ),
        upscaler=training.upscaler,
        discriminator=training.discriminator,
        moments=moments,
        updates=updates,
    )


def _named(network: str, moments: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        moment_name(network, kind, weight): tensor
        for kind, tensors in zip(MOMENTS, moments, strict=True)
        for weight, tensor in tensors.items()
    }


def _lines(output: Path, training: OriginalTraining) -> list[str]:
    model = training.model
    line = f"wrote {output}: a checkpoint after step {training.step}, with Adam's moments: upscaler with "
    line += f"{model.blocks} residual blocks of {model.channels} channels, {training.step} updates"
    if training.discriminator is not None:
        line += f"; discriminator, {training.discriminator_updates} updates, {training.discriminator_skips} steps "
        line += f"without one, balance {training.balance_average:.4g}"
    counted = "of Adam's powers of beta2, which the counters confirm"
    if not training.counts_are_of_powers:
        counted = "of global_step" + (" and gen_train_with_D_counter" if training.discriminator is not None else "")
        counted += ": after so many, Adam's powers of beta2 are 0 in float32"
    return [
        f"{line}.",
        f"The counts of updates are those {counted}.",
        "To go on exactly, with the original's form of Adam (the moments mean the same in torch's, the default), and "
        "with a setting for each flag in which the run differed from runGan.py:",
    ]


def _command(output: Path, training: OriginalTraining) -> str:
    """The command that goes on, with all settings of the checkpoint that its preset has otherwise."""
    preset = "frvsr" if training.discriminator is None else "tecogan"
    if training.temporal_only:
        preset = "tecogan_temporal_only"
    usual = load(preset)
    settings: dict[str, object] = {
        f"model.{name}": getattr(training.model, name)
        for name in ("blocks", "channels", "flow_width")
        if getattr(training.model, name) != getattr(usual.model, name)
    }
    if training.beta1 not in (None, usual.optimizer.beta1):
        settings["optimizer.beta1"] = training.beta1
    if usual.loss.perceptual:
        settings["perceptual.weights"] = "vgg19.safetensors"
    if training.step >= usual.steps:
        settings["steps"] = training.step + MORE_STEPS
    words = "".join(f" --{name.replace('_', '-')} {value}" for name, value in settings.items())
    return (
        f"tecogan train --config {preset} --data STORE --output runs/new --resume {shlex.quote(str(output))} "
        f"--optimizer.kind adam_tf1{words}"
    )
