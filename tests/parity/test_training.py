"""Training against the original's: raw losses, gradients, the discriminator's balance, weights after every step.

``clean`` traces took all gradients at the weights before the step, as we do, and are compared tightly; ``asis`` traces
are the original's own racy step and are compared loosely. Tolerances: shared/reference/README.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tecogan_dist.ops.degrade import windows_to_frames
from tecogan_dist.training.schedules import fade_in_at
from tests.parity.reference import TrainingTrace, close, load_trace, relative_distance, rule, sampled
from tests.parity.replaying import (
    DISCRIMINATOR,
    OFF,
    OUR_LOSS,
    SCOPES,
    STEP_TOLERANCE,
    Replay,
    check_raw_losses,
    check_weights,
    is_clean,
)


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


def test_batches(run: tuple[TrainingTrace, Replay]) -> None:
    """Sums of what a step sees, the signed one too: its terms cancel, so it is held to the rounding of their sizes."""
    trace, _ = run
    for i in range(trace.steps):
        lr_frames, hr_frames = windows_to_frames(torch.from_numpy(trace.windows[i]))
        for tensor, key in ((lr_frames, "r_inputs_checksum"), (hr_frames, "r_targets_checksum")):
            values = tensor.numpy().astype(np.float64)
            total, size = trace.batches[key][i][:2]
            close(np.abs(values).sum(), size, relative=1e-5, what=f"{key}: sum of sizes")
            close(values.sum(), total, absolute=1e-5 * size, what=f"{key}: signed sum")


def test_raw_losses(run: tuple[TrainingTrace, Replay]) -> None:
    trace, replay = run
    names = [name for name in trace.batches["update_list_name"].tolist() if name in OUR_LOSS]
    assert set(trace.batches["update_list_name"][: trace.trace["raw"].shape[1]]) == set(names)
    for i in range(trace.steps):
        check_raw_losses(trace, i, replay.losses[i])


def test_averages_of_losses(run: tuple[TrainingTrace, Replay]) -> None:
    """The original's, which it keeps of all losses: from 0, without correction."""
    trace, replay = run
    if not is_clean(trace):
        pytest.skip("its updates raced: FRVSR's first averages are 2% of two losses and 1% of the third")
    names = [name for name in trace.batches["update_list_name"].tolist() if name in OUR_LOSS]
    for i in range(trace.steps):
        for name, theirs in zip(names, trace.trace["ema_after"][i], strict=False):
            ours = replay.averages[i][OUR_LOSS[name]]
            close(ours, theirs, relative=STEP_TOLERANCE[min(i, 3)], absolute=1e-8, what=f"{name} at step {i}")


def test_balance_and_decisions(run: tuple[TrainingTrace, Replay]) -> None:
    trace, replay = run
    if "balance" not in replay.losses[0]:
        pytest.skip("no discriminator in this run")
    for i in range(trace.steps):
        loose = 1e-6 if i == 0 else 3e-3
        close(replay.losses[i]["balance"], trace.trace["t_balance"][i], absolute=loose, what=f"balance at step {i}")
        close(replay.averages[i]["balance"], trace.trace["tb_after"][i], absolute=loose * 0.01 * (i + 1), relative=1e-5)
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
    for i in range(trace.steps):
        check_weights(trace, i, replay.weights[i])


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
    """Every weight at the end, by the way it went: as far, in the same direction, and most to a tenth of a step.

    How many of the discriminator's are off by more is decided by rounding (see ``OFF``).
    """
    trace, replay = run
    learning_rate = trace.config.optimizer.learning_rate
    finals = {k.removeprefix("final:"): v for k, v in trace.trace.items() if k.startswith("final:")}
    if not finals:
        pytest.skip("this trace did not record them")
    for scope in SCOPES:
        names = [name for name in finals if name.startswith(scope) and "/moving_" not in name]
        if not names:
            continue
        start = {name: rule(name, finals[name].shape, trace.seed) for name in names}
        moved = np.concatenate([(replay.weights[-1][name] - start[name]).ravel() for name in names]).astype(np.float64)
        they = np.concatenate([(finals[name] - start[name]).ravel() for name in names]).astype(np.float64)
        if not they.any():
            assert not moved.any(), f"{scope} moved, the original did not"
            continue
        off, allowed = np.mean(np.abs(moved - they) > 0.1 * learning_rate), OFF[scope]
        cosine = moved @ they / (np.linalg.norm(moved) * np.linalg.norm(they))
        assert np.abs(moved - they).max() <= 2 * trace.steps * learning_rate, scope
        assert off <= allowed, f"{scope}: {off:.2%} of the weights are off by more than a tenth of a step"
        assert cosine > (0.999 if is_clean(trace) and scope != DISCRIMINATOR else 0.995), f"{scope}: cosine {cosine}"
        assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(they), rel=5e-3), scope


def test_moving_statistics_after_the_first_step(run: tuple[TrainingTrace, Replay]) -> None:
    trace, replay = run
    expected = {k.removeprefix("step1_moving:"): v for k, v in trace.trace.items() if k.startswith("step1_moving:")}
    if not expected:
        pytest.skip("this trace did not record them")
    for name, theirs in expected.items():
        # The original folds the real and the fake batch in either order; that moves a value by at most this.
        close(replay.moving[name], theirs, absolute=5e-4, relative=1e-5, what=name)
