"""Training against the original's: raw losses, gradients, the discriminator's balance, weights after every step.

``clean`` traces took all gradients at the weights before the step, as we do, and are compared tightly; ``asis`` traces
are the original's own racy step and are compared loosely. Tolerances: shared/reference/README.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tecogan_dist.models.discriminator import Discriminator
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.models.vgg import Vgg19
from tecogan_dist.ops.degrade import windows_to_frames
from tecogan_dist.training.engines.plain import PlainPair
from tecogan_dist.training.ledger import Ledger
from tecogan_dist.training.objective import StepResult, TrainingStep
from tecogan_dist.training.schedules import fade_in_at, learning_rate_at
from tecogan_dist.weights.tensorflow.names import tensorflow_name, to_tensorflow_layout
from tests.parity.reference import (
    TrainingTrace,
    close,
    fill_by_rule,
    load_trace,
    relative_distance,
    sampled,
)

OUR_LOSS = {
    "l2_content_loss": "content",
    "l2_warp_loss": "warp",
    "vgg_loss_2": "perceptual_conv2_2",
    "vgg_loss_3": "perceptual_conv3_4",
    "vgg_loss_4": "perceptual_conv4_4",
    "vgg_loss_5": "perceptual_conv5_4",
    "vgg_all": "perceptual",
    "PingPang": "pingpong",
    "D_layer_0_loss": "feature_match_0",
    "D_layer_1_loss": "feature_match_1",
    "D_layer_2_loss": "feature_match_2",
    "D_layer_3_loss": "feature_match_3",
    "D_layer_loss_sum": "feature_match",
    "t_adversarial_loss": "adversarial",
    "t_discrim_loss": "discriminator",
    "t_discrim_real_output": "real_score",
    "t_discrim_fake_output": "fake_score",
    "All_loss_Gen": "total",
}
STEP_TOLERANCE = (1e-5, 5e-4, 1e-3, 3e-3)
"""Relative tolerance of raw losses at each step: rounding grows through the kinks of floor, leaky ReLU and max pool."""


class Replay:
    """Our training over a trace's batches, in one process: what it computed at each step, by the original's names."""

    def __init__(self, trace: TrainingTrace, fade_in: list[float]) -> None:
        config = trace.config
        upscaler = RecurrentUpscaler(blocks=config.model.blocks)
        fill_by_rule(upscaler, trace.seed)
        discriminator = vgg = None
        if config.loss.adversarial > 0:
            discriminator = Discriminator()
            fill_by_rule(discriminator, trace.seed, prefix="discriminator.")
        if config.loss.perceptual > 0:
            vgg = Vgg19("tf_slim").to(memory_format=torch.channels_last)
            fill_by_rule(vgg, trace.seed, prefix="vgg.")
        pair = PlainPair(upscaler, discriminator, config)
        objective = TrainingStep(config, vgg=vgg)
        ledger = Ledger(balance_average=0.0)
        self.parameters: dict[str, Tensor] = dict(upscaler.named_parameters())
        self.buffers: dict[str, Tensor] = {}
        if discriminator is not None:
            self.parameters |= {f"discriminator.{n}": p for n, p in discriminator.named_parameters()}
            self.buffers = {f"discriminator.{n}": b for n, b in discriminator.named_buffers()}
        self.losses: list[dict[str, float]] = []
        self.decisions: list[bool] = []
        self.averages: list[float] = []
        self.weights: list[dict[str, np.ndarray]] = []
        for i in range(trace.steps):
            lr_frames, hr_frames = windows_to_frames(torch.from_numpy(trace.windows[i]))
            result = objective(
                upscaler=pair.upscaler,
                discriminator=pair.discriminator,
                critic=pair.critic,
                lr_frames=lr_frames,
                hr_frames=hr_frames,
                fade_in=fade_in[i],
            )
            if i == 0:
                self.gradients = by_their_names(self._gradients(result))
                self.moving = by_their_names(self.buffers)
            update = ledger.balance_average < config.discriminator.balance_threshold and discriminator is not None
            learning_rate = learning_rate_at(config.optimizer, i)
            pair.backward(result, update_discriminator=update, last=True)
            assert pair.update(learning_rate=learning_rate, update_discriminator=update)
            ledger.record(i, result.losses, stop=False)
            ledger.settle()
            self.losses.append({name: value.item() for name, value in result.losses.items()})
            self.decisions.append(update)
            self.averages.append(ledger.balance_average)
            self.weights.append(by_their_names(self.parameters))

    def _gradients(self, result: StepResult) -> dict[str, Tensor]:
        """Of both losses, each for the networks that it trains."""
        gradients: dict[str, Tensor] = {}
        for of_discriminator, loss in ((False, result.generator_loss), (True, result.discriminator_loss)):
            names = [n for n in self.parameters if n.startswith("discriminator.") == of_discriminator]
            if loss is not None and names:
                tensors = torch.autograd.grad(loss, [self.parameters[n] for n in names], retain_graph=True)
                gradients |= dict(zip(names, tensors, strict=True))
        return gradients


def by_their_names(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {tensorflow_name(name): to_tensorflow_layout(name, tensor).copy() for name, tensor in tensors.items()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One run for each trace of the folder, train_<variant>_<clean or asis>.npz; some are marked slow."""
    if "run" in metafunc.fixturenames:
        folder: Path = metafunc.config.getoption("--reference")
        stems = sorted(path.stem for path in folder.glob("train_*.npz") if path.stem.endswith(("_clean", "_asis")))
        names = [stem.removeprefix("train_") for stem in stems]
        runs = [
            pytest.param(name, marks=[] if name.startswith(("main", "nopp", "frvsr")) else [pytest.mark.slow])
            for name in names
        ]
        metafunc.parametrize("run", runs, indirect=True, scope="module")


@pytest.fixture(scope="module")
def replays() -> dict[tuple[str, tuple[float, ...]], Replay]:
    """Runs of ours by settings: a variant's two traces share one unless their fade-in differs."""
    return {}


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, replays: dict) -> tuple[TrainingTrace, Replay]:
    folder: Path = request.config.getoption("--reference")
    trace = load_trace(folder, request.param)
    fade_in = [fade_in_at(trace.config.loss, i) for i in range(trace.steps)]
    if not is_clean(trace) and "dt_ratio_used" in trace.trace:
        # The racy step saw the step number before or after its increment; the trace says which.
        fade_in = [float(value) for value in trace.trace["dt_ratio_used"]]
    key = (trace.name.rsplit("_", 1)[0], tuple(fade_in))
    if key not in replays:
        replays[key] = Replay(trace, fade_in)
    return trace, replays[key]


def is_clean(trace: TrainingTrace) -> bool:
    return trace.name.endswith("clean")


def test_batches(run: tuple[TrainingTrace, Replay]) -> None:
    trace, _ = run
    for i in range(trace.steps):
        lr_frames, hr_frames = windows_to_frames(torch.from_numpy(trace.windows[i]))
        for tensor, key in ((lr_frames, "r_inputs_checksum"), (hr_frames, "r_targets_checksum")):
            values = tensor.numpy().astype(np.float64)
            sums = [values.sum(), np.abs(values).sum()]
            close(sums[1], trace.batches[key][i][1], relative=1e-5, what=key)


def test_raw_losses(run: tuple[TrainingTrace, Replay]) -> None:
    trace, replay = run
    names = [name for name in trace.batches["update_list_name"].tolist() if name in OUR_LOSS]
    assert set(trace.batches["update_list_name"][: trace.trace["raw"].shape[1]]) == set(names)
    for i in range(trace.steps):
        relative = STEP_TOLERANCE[min(i, len(STEP_TOLERANCE) - 1)]
        for name in names:
            ours = replay.losses[i][OUR_LOSS[name]]
            close(ours, trace.raw(name)[i], relative=relative, absolute=1e-7, what=f"{name} at step {i}")


def test_balance_and_decisions(run: tuple[TrainingTrace, Replay]) -> None:
    trace, replay = run
    if "balance" not in replay.losses[0]:
        pytest.skip("no discriminator in this run")
    for i in range(trace.steps):
        loose = 1e-6 if i == 0 else 3e-3
        close(replay.losses[i]["balance"], trace.trace["t_balance"][i], absolute=loose, what=f"balance at step {i}")
        close(replay.averages[i], trace.trace["tb_after"][i], absolute=loose * 0.01 * (i + 1), relative=1e-5)
    assert replay.decisions == trace.trace["pred_with_D"].tolist()


def test_gradients_of_the_first_step(run: tuple[TrainingTrace, Replay]) -> None:
    trace, replay = run
    kind = "clean" if is_clean(trace) else "applied"
    lengths = trace.trace[f"step1_{kind}_grad_l2"]
    samples = trace.split_samples(trace.trace[f"step1_{kind}_grad_samples"])
    for name, length in zip(trace.batches["trainable"].tolist(), lengths, strict=True):
        if name.startswith("tdiscriminator") and not replay.decisions[0] and not is_clean(trace):
            assert length == 0  # what a skipped update applied
            continue
        tolerance = 1e-3 if is_clean(trace) and not name.startswith("fnet") else 3e-3
        ours = replay.gradients[name]
        assert np.linalg.norm(ours.astype(np.float64)) == pytest.approx(length, rel=tolerance), name
        # Direction too. A leaky ReLU or max pool that rounding tips over moves a layer's gradient by up to 2e-3:
        # noise of 1e-6 on the inputs does (biases of the discriminator's first layers).
        assert relative_distance(sampled(ours), samples[name]) <= 5e-3, name


def test_weights_after_each_step(run: tuple[TrainingTrace, Replay]) -> None:
    trace, replay = run
    start = trace.split_samples(trace.batches["samples_init"])
    learning_rate = trace.config.optimizer.learning_rate
    for i in range(trace.steps):
        expected = trace.split_samples(trace.trace["samples"][i])
        for scope in ("generator/", "fnet/", "tdiscriminator/"):
            names = [name for name in expected if name.startswith(scope)]
            if not names:
                continue
            ours = np.concatenate([sampled(replay.weights[i][name]) for name in names])
            theirs = np.concatenate([expected[name] for name in names])
            before = np.concatenate([start[name] for name in names])
            off = np.mean(np.abs(ours - theirs) > 0.1 * learning_rate)
            moved, they_moved = (ours - before).astype(np.float64), (theirs - before).astype(np.float64)
            if not they_moved.any():
                assert not moved.any(), f"{scope} moved at step {i}, the original did not"
                continue
            cosine = moved @ they_moved / (np.linalg.norm(moved) * np.linalg.norm(they_moved))
            allowed = 0.01 if is_clean(trace) else 0.08 if scope == "tdiscriminator/" else 0.05
            assert off <= allowed, f"{scope} step {i}: {off:.2%} of the samples are off by more than a tenth of a step"
            assert cosine > (0.999 if is_clean(trace) else 0.995), f"{scope} step {i}: cosine {cosine}"


def test_whole_variables_after_each_step(run: tuple[TrainingTrace, Replay]) -> None:
    trace, replay = run
    if not is_clean(trace):
        pytest.skip("the racy step's weights are compared by samples")
    for i in range(trace.steps):
        for name, (total, absolute_sum, length) in zip(
            trace.batches["trainable"].tolist(), trace.trace["checks"][i], strict=True
        ):
            ours = replay.weights[i][name].astype(np.float64)
            # 3e-5 of the variable, or for small ones a fiftieth of a step an element.
            rounding = 0.02 * trace.config.optimizer.learning_rate * ours.size
            close(np.abs(ours).sum(), absolute_sum, relative=3e-5, absolute=rounding, what=f"{name} step {i}")
            close(np.linalg.norm(ours), length, relative=3e-5, absolute=rounding, what=f"{name} step {i}")
            close(ours.sum(), total, absolute=5e-3, what=f"{name} step {i}")


def test_final_weights(run: tuple[TrainingTrace, Replay]) -> None:
    trace, replay = run
    learning_rate = trace.config.optimizer.learning_rate
    finals = {k.removeprefix("final:"): v for k, v in trace.trace.items() if k.startswith("final:")}
    if not finals:
        pytest.skip("this trace did not record them")
    for scope in ("generator/", "fnet/", "tdiscriminator/"):
        names = [name for name in finals if name.startswith(scope) and "/moving_" not in name]
        if names:
            off = np.concatenate([np.abs(replay.weights[-1][name] - finals[name]).ravel() for name in names])
            assert off.max() <= 2 * trace.steps * learning_rate, scope
            allowed = 0.03 if is_clean(trace) else 0.08
            assert np.mean(off > 0.1 * learning_rate) <= allowed, scope


def test_moving_statistics_after_the_first_step(run: tuple[TrainingTrace, Replay]) -> None:
    trace, replay = run
    expected = {k.removeprefix("step1_moving:"): v for k, v in trace.trace.items() if k.startswith("step1_moving:")}
    if not expected:
        pytest.skip("this trace did not record them")
    for name, theirs in expected.items():
        # The original folds the real and the fake batch in either order; that moves a value by at most this.
        close(replay.moving[name], theirs, absolute=5e-4, relative=1e-5, what=name)
