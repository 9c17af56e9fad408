"""How steps are applied: TensorFlow's Adam, and DeepSpeed pairs against plain torch optimisers."""

from __future__ import annotations

import math
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tecogan_dist.config import load as settings
from tecogan_dist.config.overrides import override
from tecogan_dist.config.schema import Config
from tecogan_dist.models.build import build_discriminator, build_upscaler
from tecogan_dist.models.discriminator import Discriminator
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.runs.checkpoints import TrainingState
from tecogan_dist.runs.quantities import group_of
from tecogan_dist.training.clock import Clock
from tecogan_dist.training.device import prepare_device
from tecogan_dist.training.engines.deepspeed import DeepSpeedPair
from tecogan_dist.training.engines.optimizers import AdamTF1
from tecogan_dist.training.engines.pair import EnginePair
from tecogan_dist.training.engines.plain import PlainPair
from tecogan_dist.training.ledger import average_over_workers
from tecogan_dist.training.objective import ObjectiveResult
from tecogan_dist.training.step import TrainingStep
from tests.support.paths import REFERENCE, REPOSITORY

STEPS, SKIPPED = 12, (1, 6, 7)
HALF = 6
WINDOWS = 4
LEARNING_RATE = 1e-4
CPU = torch.device("cpu")
CASES = {
    "zero0": ["--cluster.zero_stage", "0"],
    "zero1": ["--cluster.zero_stage", "1"],
    "zero2": ["--cluster.zero_stage", "2"],
    "zero3": ["--cluster.zero_stage", "3"],
    "tf1": ["--cluster.zero_stage", "1", "--optimizer.kind", "adam_tf1"],
    "clipped": ["--cluster.zero_stage", "2", "--optimizer.gradient_clipping", "0.05"],
    "zero0_clipped": ["--cluster.zero_stage", "0", "--optimizer.gradient_clipping", "0.05"],
    "checkpointed": ["--cluster.zero_stage", "1", "--cluster.activation_checkpointing", "True"],
    "zero0_bf16": ["--cluster.zero_stage", "0", "--cluster.precision", "bf16"],
}
"""The first four on every number of workers, the others where they are quick: on 1 and 2."""
MICRO_BATCHES = {
    "micro0": ["--cluster.zero_stage", "0", "--accumulation", "2"],
    "micro1": ["--cluster.zero_stage", "1", "--accumulation", "2"],
    "micro2": ["--cluster.zero_stage", "2", "--accumulation", "2"],
    "micro3": ["--cluster.zero_stage", "3", "--accumulation", "2"],
}
"""Where a worker has two windows or more."""


def cases_on(processes: int) -> dict[str, list[str]]:
    """Cases that are run on so many workers: a worker needs two windows to take them in two parts."""
    return CASES | MICRO_BATCHES if processes * 2 <= WINDOWS else {name: CASES[name] for name in list(CASES)[:4]}


MEASURED = {"grad_norm/flow", "grad_norm/generator", "grad_norm/discriminator", "weights/update_ratio"}
BOUND, BOUND_BF16 = 5e-2, 0.25
"""Largest distance of the weights of N workers from those of one, as a part of the way that they went. (In one process
bf16 is 0.19 away from fp32.)"""


WITHOUT_COMPILER = """
import os, sys
import torch.distributed as dist
from tests.training import test_engines as tests

os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{sys.argv[2]}", rank=0, world_size=1)
config = tests.make_config(["--optimizer.kind", sys.argv[1]])
pair = tests.make_pair(config, distributed=True)
tests.train(pair, config, range(2))
tests.go_on(tests.keep(pair), config, distributed=True)
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As in the other processes: the number of threads decides the order of sums."""
    torch.set_num_threads(1)


def test_adam_tf1_is_tensorflows_adam_at_every_step() -> None:
    vectors = np.load(REFERENCE / "ops.npz")
    learning_rate, beta1, beta2, epsilon = vectors["adam:lr_beta1_beta2_eps"].tolist()
    weight = nn.Parameter(torch.from_numpy(vectors["adam:w0"]))
    optimizer = AdamTF1([weight], lr=learning_rate, betas=(beta1, beta2), eps=epsilon)
    for gradient, expected in zip(vectors["adam:grads"], vectors["adam:w_after"], strict=True):
        weight.grad = torch.from_numpy(gradient)
        optimizer.step()
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=0, atol=6e-8)


def test_discriminator_is_untouched_when_it_is_not_updated() -> None:
    config = make_config([])
    pair = make_pair(config, distributed=False)
    before = weights_of(pair)
    train(pair, config, [0], skipped=[0])
    after = weights_of(pair)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("upscaler.generator") for name in moved)
    assert any(name.startswith("upscaler.flow") for name in moved)
    # Statistics of the batch are folded in all the same, as in the original.
    assert {name.split(".")[-1] for name in moved if name.startswith("discriminator")} == {
        "moving_mean",
        "moving_variance",
    }


def test_learning_rate_of_the_discriminator_is_scaled() -> None:
    """Adam's first step is learning_rate * sign(gradient), whatever the gradient's size."""
    config = make_config(["--discriminator.learning_rate_scale", "0.25", "--optimizer.epsilon", "1e-30"])
    pair = make_pair(config, distributed=False)
    before = weights_of(pair)
    train(pair, config, [0])
    after = weights_of(pair)
    moved = (after["discriminator.score.weight"] - before["discriminator.score.weight"]).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.25 * LEARNING_RATE), rtol=1e-2)


def test_plain_pair_goes_on_exactly_after_loading() -> None:
    config = make_config(["--optimizer.kind", "adam_tf1"])
    straight = make_pair(config, distributed=False)
    train(straight, config, range(2))
    kept = keep(straight)
    train(straight, config, range(2, 4))
    resumed = go_on(kept, config, distributed=False)
    train(resumed, config, range(2, 4))
    expected, found = weights_of(straight), weights_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_gradients_that_are_not_finite_update_nothing() -> None:
    config = make_config([])
    pair = make_pair(config, distributed=False)
    train(pair, config, [0])
    before, moments = weights_of(pair), pair.moments()
    spoil(pair, config)
    assert unmoved(before, weights_of(pair))
    after = pair.moments()
    assert after[1] == moments[1] == {"upscaler": 1, "discriminator": 1}
    assert all(torch.equal(moments[0][name], after[0][name]) for name in moments[0])
    train(pair, config, [1])
    assert pair.moments()[1] == {"upscaler": 2, "discriminator": 2}


def test_clipping_bounds_the_norm_of_a_network_s_gradients() -> None:
    """Plain SGD's view of it: with betas 0 the first moment is the gradient that was applied."""
    config = make_config(["--optimizer.gradient_clipping", "0.01", "--optimizer.beta1", "0"])
    pair = make_pair(config, distributed=False)
    train(pair, config, [0])
    for part in ("upscaler", "discriminator"):
        gradients = [t for name, t in pair.moments()[0].items() if name.startswith(f"{part}.exp_avg.")]
        assert torch.stack([g.square().sum() for g in gradients]).sum().sqrt() == pytest.approx(0.01, rel=1e-3)


@pytest.fixture(scope="module", params=[1, 2, 4])
def deepspeed_results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """Number of processes, and the folder with what rank 0 had in every case."""
    processes: int = request.param
    folder = tmp_path_factory.mktemp(f"deepspeed{processes}")
    config = make_config([])
    plain = make_pair(config, distributed=False)
    torch.set_num_threads(1)
    train(plain, config, range(HALF), skipped=SKIPPED)
    torch.save(keep(plain), folder / "plain_half.pt")
    port = free_port()
    spawn = multiprocessing.get_context("spawn")
    group = [spawn.Process(target=run_cases, args=(rank, processes, port, folder)) for rank in range(processes)]
    for process in group:
        process.start()
    try:
        for process in group:
            process.join(timeout=800)
        assert [process.exitcode for process in group] == [0] * processes
    finally:
        for process in group:
            process.kill()
            process.join()
    return processes, folder


@pytest.fixture(scope="module")
def twins() -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor], list[float], dict[str, float]]]:
    """Of each case the first weights, the last ones, the losses of one process on plain optimisers, and its record."""
    torch.set_num_threads(1)
    results = {}
    for name, settings_of_case in (CASES | MICRO_BATCHES).items():
        config = make_config(settings_of_case)
        pair = make_pair(config, distributed=False)
        start = weights_of(pair)
        measured: dict[str, float] = {}
        losses = train(pair, config, range(STEPS), skipped=SKIPPED, measured=measured)
        assert measured.keys() == MEASURED
        results[name] = (start, weights_of(pair), losses, measured)
    return results


def far(found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """The larger part of the way (of both networks) by which ``found`` is off."""
    shares = []
    for network in ("upscaler", "discriminator"):
        names = [name for name in expected if name.startswith(network) and "moving" not in name]
        error, moved = (
            torch.stack([(a[name] - b[name]).square().sum() for name in names]).sum().sqrt()
            for a, b in ((found, expected), (expected, start))
        )
        assert moved > 1e-3
        shares.append(float(error / moved))
    return max(shares)


@pytest.mark.parametrize("kind", ["adam", "adam_tf1"])
def test_a_worker_does_not_import_torchs_compiler(kind: str) -> None:
    """It takes a second of every start, and torch imports it at every opportunity."""
    words = [sys.executable, "-c", WITHOUT_COMPILER, kind, str(free_port())]
    ran = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "[]\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", [*CASES, *MICRO_BATCHES])
def test_any_number_of_workers_trains_as_one_process(
    deepspeed_results: tuple[int, Path], twins: dict[str, Any], case: str
) -> None:
    """12 steps, 3 of them without the discriminator's update: losses and weights of one plain process.

    What is left is the order of sums, magnified at the kinks of the networks.
    """
    processes, folder = deepspeed_results
    if case not in cases_on(processes):
        pytest.skip(
            f"not on {processes} workers: too few windows for micro-batches, and the other cases add no more there"
        )
    start, expected, losses, measured = twins[case]
    found = torch.load(folder / f"{case}.pt", weights_only=True)
    distance = far(found["weights"], expected, start)
    print(f"{case} on {processes}: {distance:.1e} of the way, losses {found['losses'][-1] - losses[-1]:.1e}")
    # One process is exact, but for DeepSpeed's clipping, which adds 1e-6 to the norm.
    is_exact = processes == 1 and "clipped" not in case
    assert distance <= (0 if is_exact else BOUND_BF16 if "bf16" in case else BOUND)
    assert found["losses"] == pytest.approx(losses, rel=1e-4)
    # Of the last step: gradients before clipping, whole whatever is sharded, and how far the weights went.
    assert found["measured"] == pytest.approx(measured, rel=1e-5 if is_exact else 3e-2)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", [*CASES, *MICRO_BATCHES])
def test_deepspeed_pair_goes_on_exactly_after_loading(deepspeed_results: tuple[int, Path], case: str) -> None:
    processes, folder = deepspeed_results
    if case not in cases_on(processes):
        pytest.skip(
            f"not on {processes} workers: too few windows for micro-batches, and the other cases add no more there"
        )
    found = torch.load(folder / f"{case}.pt", weights_only=True)
    assert all(torch.equal(found["weights"][name], found["resumed"][name]) for name in found["weights"])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", ["zero0", "zero1", "zero2", "zero3"])
def test_checkpoints_fit_any_stage_and_number_of_workers(
    deepspeed_results: tuple[int, Path], twins: dict[str, Any], case: str
) -> None:
    """One plain process's half is finished by every stage and number of workers, and theirs by one plain process."""
    _, folder = deepspeed_results
    start, expected, *_ = twins["zero0"]
    found = torch.load(folder / f"{case}.pt", weights_only=True)
    assert far(found["from_plain"], expected, start) < BOUND
    config = make_config([])
    pair = go_on(found["half"], config, distributed=False)
    train(pair, config, range(HALF, STEPS), skipped=SKIPPED)
    assert far(weights_of(pair), expected, start) < BOUND


@pytest.mark.gpu
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_deepspeed_pair_on_cuda_equals_plain_optimizers(zero_stage: int) -> None:
    process = multiprocessing.get_context("spawn").Process(target=compare_on_cuda, args=(zero_stage, free_port()))
    process.start()
    process.join(timeout=300)
    process.kill()
    assert process.exitcode == 0


def compare_on_cuda(zero_stage: int, port: int) -> None:
    """Bit for bit as the plain pair of the same precision; NCCL, fused Adam, frames and weights on the GPU.

    Kernels are deterministic here, which training's are not: cuDNN's fastest, and sums of the warp's gradients in any
    order, bring two runs of the same pair 3% of the way apart (H200).
    """
    device = torch.device("cuda:0")
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    prepare_device(device, Config())
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    dist.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    for precision in ("fp32", "bf16"):
        config = make_config(["--cluster.zero_stage", str(zero_stage), "--cluster.precision", precision])
        states = []
        for distributed in (False, True):
            pair = make_pair(config, distributed=distributed, device=device)
            start = weights_of(pair)
            losses = train(pair, config, range(STEPS), skipped=SKIPPED, device=device)
            states.append((losses, weights_of(pair)))
            assert not unmoved(start, states[-1][1])
        assert states[1][1]["upscaler.flow.output.conv1.weight"].dtype == torch.float32
        assert states[0][0] == states[1][0]
        assert unmoved(states[0][1], states[1][1])
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def run_cases(rank: int, processes: int, port: int, folder: Path) -> None:
    """One process of the group: all cases, straight, interrupted after half the steps, and begun elsewhere."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    for name, settings_of_case in cases_on(processes).items():
        config = make_config([*settings_of_case, "--cluster.workers", str(processes)])
        pair = make_pair(config, distributed=True)
        losses = train(pair, config, range(HALF), skipped=SKIPPED)
        half = keep(pair)
        measured: dict[str, float] = {}
        losses += train(pair, config, range(HALF, STEPS), skipped=SKIPPED, measured=measured)
        result = {"losses": losses, "half": half, "weights": weights_of(pair), "measured": measured}
        before = weights_of(pair)
        spoil(pair, config)
        assert unmoved(before, weights_of(pair)), f"{name} took gradients that are not finite"
        resumed = go_on(half, config, distributed=True)
        train(resumed, config, range(HALF, STEPS), skipped=SKIPPED)
        result["resumed"] = weights_of(resumed)
        if name.startswith("zero") and "clipped" not in name:
            plain_half = torch.load(folder / "plain_half.pt", weights_only=True)
            other = go_on(plain_half, config, distributed=True)
            train(other, config, range(HALF, STEPS), skipped=SKIPPED)
            result["from_plain"] = weights_of(other)
        if rank == 0:
            torch.save(result, folder / f"{name}.pt")
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may outlive the other rank and complain


def make_config(changes: list[str]) -> Config:
    tree = {
        "batch_size": WINDOWS,
        "model": {"blocks": 1, "channels": 8, "flow_width": 4},
        "loss": {"perceptual": 0},
        # A large epsilon keeps near-zero gradients from becoming steps of a random sign.
        "optimizer": {"learning_rate": LEARNING_RATE, "epsilon": 1e-3},
        "data": {"sequence_length": 3, "crop_size": 16},
        "tracking": {"display_every": HALF},
    }
    return override(settings.from_tree(tree, source="the test"), changes)


def make_networks(config: Config) -> tuple[RecurrentUpscaler, Discriminator]:
    torch.manual_seed(0)
    upscaler = build_upscaler(config.model, activation_checkpointing=config.cluster.activation_checkpointing)
    return upscaler, build_discriminator(config.discriminator)


def make_pair(config: Config, *, distributed: bool, device: torch.device = CPU) -> EnginePair:
    upscaler, discriminator = (network.to(device) for network in make_networks(config))
    if distributed:
        return DeepSpeedPair(upscaler, discriminator, config, device)
    return PlainPair(upscaler, discriminator, config)


def keep(pair: EnginePair) -> dict[str, Any]:
    """What a checkpoint has of a pair."""
    moments, updates = pair.moments()
    return {"weights": weights_of(pair), "moments": moments, "updates": updates}


def go_on(kept: dict[str, Any], config: Config, *, distributed: bool) -> EnginePair:
    """A new pair from what was kept: weights before the engines are made, then the moments."""
    upscaler, discriminator = make_networks(config)
    for network, module in (("upscaler", upscaler), ("discriminator", discriminator)):
        prefix = f"{network}."
        weights = {n.removeprefix(prefix): tensor for n, tensor in kept["weights"].items() if n.startswith(prefix)}
        module.load_state_dict(weights)
    pair: EnginePair
    if distributed:
        pair = DeepSpeedPair(upscaler, discriminator, config, CPU)
    else:
        pair = PlainPair(upscaler, discriminator, config)
    pair.load_moments(kept["moments"], kept["updates"])
    return pair


class ScriptedStep(TrainingStep):
    """The step that trains, but for its decision: the discriminator is not updated in steps ``skipped``."""

    skipped: Collection[int] = ()
    factor = 1.0
    """On both losses, after they were computed."""

    def updates_discriminator(self) -> bool:
        return self.state.step not in self.skipped

    def forward(self, lr_frames: Tensor, hr_frames: Tensor) -> ObjectiveResult:
        result = super().forward(lr_frames, hr_frames)
        if self.factor == 1.0:
            return result
        assert result.discriminator_loss is not None
        return replace(
            result,
            generator_loss=result.generator_loss * self.factor,
            discriminator_loss=result.discriminator_loss * self.factor,
        )


def train(
    pair: EnginePair,
    config: Config,
    steps: range | list[int],
    *,
    skipped: Collection[int] = (),
    device: torch.device = CPU,
    measured: dict[str, float] | None = None,
) -> list[float]:
    """Consecutive steps on random windows, this rank's share of each; the generator's loss of each over all workers.

    ``measured`` is filled with what is recorded of the last step's gradients and update.
    """
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    step = ScriptedStep(config, pair, device=device, state=TrainingState(step=steps[0]))
    step.skipped = skipped
    losses, clock = [], Clock()
    for number in steps:
        generator = torch.Generator().manual_seed(number)
        windows = torch.randint(0, 256, (WINDOWS, 3, 72, 72, 3), dtype=torch.uint8, generator=generator)
        outcome = step(windows.chunk(workers)[rank].to(device), clock=clock)
        clock.count_step()
        assert not outcome.problem
        total = outcome.losses["total"] + config.loss.warp * outcome.losses["warp"]
        losses.append(float(average_over_workers({"generator": total})))
    assert step.state.step == steps[-1] + 1
    if measured is not None:
        measured |= {k: v for k, v in step.take_record(clock).items() if group_of(k) in ("grad_norm", "weights")}
    return losses


def spoil(pair: EnginePair, config: Config) -> None:
    """A step whose windows are fine and whose losses, on the last worker alone, are not numbers."""
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    step = ScriptedStep(config, pair, device=CPU)
    step.factor = math.nan if rank == workers - 1 else 1.0
    windows = torch.randint(0, 256, (WINDOWS // workers, 3, 72, 72, 3), dtype=torch.uint8)
    assert step(windows).problem == "a gradient was not finite in step 1"
    assert (step.state.step, step.state.bad_steps, step.state.discriminator_updates) == (1, 1, 0)


def unmoved(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[name], after[name]) for name in before if "moving" not in name)


def weights_of(pair: EnginePair) -> dict[str, Tensor]:
    assert pair.discriminator_module is not None
    with pair.weights():
        return {
            f"{network}.{name}": value.clone()
            for network, module in (("upscaler", pair.upscaler_module), ("discriminator", pair.discriminator_module))
            for name, value in module.state_dict().items()
        }
