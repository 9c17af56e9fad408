"""``cluster.compile graph``: the same training, whose passes are recorded once and done again by one call.

On a CPU a graph is work that is done anew into the same tensors (:class:`Again`): all but the capture itself is what a
GPU runs. There the tests marked ``gpu`` capture.
"""

from __future__ import annotations

import multiprocessing
import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.schema import Config
from tecogan_dist.models.discriminator import BatchNorm
from tecogan_dist.runs.find import read_weights
from tecogan_dist.training import capturing
from tecogan_dist.training import step as steps_of_training
from tecogan_dist.training.begin import build_networks, build_pair
from tecogan_dist.training.capturing import CapturedPasses, Work
from tecogan_dist.training.device import prepare_device
from tecogan_dist.training.launching import check_graph, launched
from tecogan_dist.training.step import StepOutcome, TrainingStep
from tecogan_dist.weights.vgg import read_vgg
from tests.support.plain_runs import make_config, run
from tests.support.training_runs import free_ports
from tests.training.test_compiling import everything, narrow_vgg, on_two_workers, same, windows_of  # noqa: F401 - a fixture

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PERCEPTUAL = ["--loss.perceptual", "0.2", "--perceptual.chunk", "4", "--data.crop_size", "8"]
CASES = {
    "perceptual": PERCEPTUAL,
    "in parts": ["--accumulation", "2", "--cluster.activation_checkpointing", "true"],
    "one way": ["--loss.pingpong", "0", "--data.degradation", "BI"],
    "fading in": ["--loss.fade_in_start", "0.1", "--loss.fade_in_increment", "0.2"],
    "bf16": ["--cluster.precision", "bf16"],
    "no discriminator": ["--loss.adversarial", "0", "--loss.feature_match", "0"],
}


class Again:
    """Graphs for a CPU: the same work is done anew, into the tensors that it returned first."""

    def new(self) -> _Recorded:
        return _Recorded()

    def warm_up(self, work: Callable[[], None]) -> None:
        work()


class _Recorded:
    def record(self, work: Work) -> list[Tensor]:
        self._work = work
        self._outputs = [torch.full_like(tensor, float("nan")) for tensor in work()]  # of no use until it is replayed
        return self._outputs

    def replay(self) -> None:
        for output, tensor in zip(self._outputs, self._work(), strict=True):
            output.copy_(tensor)


def make_step(changes: list[str], mode: str = "off", *, device: torch.device = CPU) -> TrainingStep:
    config = make_config(["--cluster.compile", mode, *changes])
    upscaler, discriminator, _ = build_networks(config, initial_weights=None)
    vgg = read_vgg("random", seed=1) if config.loss.perceptual else None
    return TrainingStep(config, build_pair(upscaler, discriminator, config, device), device=device, vgg=vgg)


def make_captured(changes: list[str]) -> TrainingStep:
    """On a CPU."""
    step = make_step(changes)
    step._captured = CapturedPasses(step.pair, graphs=Again())
    return step


def take(step: TrainingStep, number: int, *, updates: bool, windows: Tensor | None = None) -> StepOutcome:
    """The step with this number, with or without an update of the discriminator."""
    updates = updates and step.pair.discriminator is not None
    step.updates_discriminator = lambda: updates  # type: ignore[method-assign]  # the balance of a test is as it comes
    return step(windows_of(step, number) if windows is None else windows)


def values(outcome: StepOutcome) -> dict[str, float]:
    return {name: value.item() for name, value in outcome.losses.items()}


@pytest.mark.usefixtures("narrow_vgg")
@pytest.mark.parametrize("case", CASES)
def test_steps_are_the_same(case: str) -> None:
    plain, captured = make_step(CASES[case]), make_captured(CASES[case])
    outcomes = []
    for number in range(3):
        found, expected = (take(step, number, updates=number != 1) for step in (captured, plain))
        outcomes.append((found, expected))
        assert values(found) == pytest.approx(values(expected), rel=1e-6), f"step {number}"
        weights, as_expected = everything(captured), everything(plain)
        assert weights.keys() == as_expected.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(weight, as_expected[name], rtol=1e-5, atol=1e-6, msg=f"{name}, step {number}")
        held_out = windows_of(plain, 9)
        assert captured.validation_losses(held_out) == pytest.approx(plain.validation_losses(held_out), rel=1e-5)
    # What a step gave is not overwritten by the next ones.
    for found, expected in outcomes:
        for name in ("lr_frames", "hr_frames", "sr_frames", "warped"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
        assert values(found) == pytest.approx(values(expected), rel=1e-6)


@pytest.mark.parametrize("changes", [[], ["--accumulation", "2"]])
def test_the_capture_changes_nothing_and_counts_a_step_of_either_kind(changes: list[str]) -> None:
    plain, captured = make_step(changes), make_captured(changes)
    before = everything(captured)
    captured.compile(windows_of(captured))
    assert same(before, everything(captured))
    assert captured.state == plain.state
    modules = (captured.pair.upscaler_module, captured.pair.discriminator_module)
    assert all(p.grad is None for module in modules if module is not None for p in module.parameters())
    for updates in (True, False):
        take(plain, 0, updates=updates)
    operations, expected = captured._probe._operations, plain._probe._operations
    assert operations.forward == expected.forward > 0
    assert operations.backward[False] == expected.backward[False] > 0
    assert operations.backward[False] < operations.backward[True] <= expected.backward[True]


def test_a_step_that_is_not_finite_is_left_out() -> None:
    step = make_captured([])
    step.compile(windows_of(step))
    with torch.no_grad():
        step.pair.upscaler_module.get_parameter("flow.output.conv2.bias").fill_(float("nan"))
    before = everything(step)
    assert "became nan" in take(step, 0, updates=True).problem
    after = everything(step)
    weights = [f"upscaler.{name}" for name, _ in step.pair.upscaler_module.named_parameters() if "flow.out" not in name]
    assert all(before[name].equal(after[name]) for name in weights)


class Refusing(Again):
    """Graphs that cannot be recorded."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def new(self) -> Any:
        return self

    def record(self, _: Work) -> list[Tensor]:
        raise self.error


REFUSED = "not permitted when stream is capturing"
BROKEN = RuntimeError("operation failed due to a previous error during capture")
BROKEN.__context__ = torch.OutOfMemoryError("no more")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            RuntimeError(f"{REFUSED}\nCUDA kernel errors might"),
            pytest.raises(UserError, match=rf"^a step cannot be captured .*{REFUSED}\): set cluster\.compile to off"),
        ),
        (torch.OutOfMemoryError("no more"), pytest.raises(torch.OutOfMemoryError, match="no more")),
        (BROKEN, pytest.raises(torch.OutOfMemoryError, match="no more")),
        (dist.DistBackendError("a peer is gone"), pytest.raises(dist.DistBackendError, match="a peer is gone")),
    ],
)
def test_a_step_that_cannot_be_captured_is_one_sentence(error: Exception, expected: Any) -> None:
    step = make_refusing(error, insisting=True)
    before = everything(step)
    with expected:
        step.compile(windows_of(step))
    assert same(before, everything(step))


def make_refusing(error: Exception, *, insisting: bool) -> TrainingStep:
    step = make_step([])
    cluster = replace(step._config.cluster, compile="graph" if insisting else "auto")
    step._config = replace(step._config, cluster=cluster)
    step._captured = CapturedPasses(step.pair, graphs=Refusing(error))
    return step


@pytest.mark.parametrize("error", [RuntimeError(REFUSED), torch.OutOfMemoryError("no more")])
def test_where_nobody_insists_a_step_that_cannot_be_captured_runs_without(error: Exception) -> None:
    plain, refusing = make_step([]), make_refusing(error, insisting=False)
    problem = refusing.compile(windows_of(refusing))
    assert problem.startswith("steps are not captured as CUDA graphs and take longer: ")
    assert str(error) in problem
    assert refusing.compile(windows_of(refusing)) == ""
    assert values(take(refusing, 0, updates=True)) == values(take(plain, 0, updates=True))


@pytest.mark.parametrize("works", [True, False])
def test_a_run_says_what_it_does_and_goes_on_with_and_without(
    works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that never captures: without graphs, with them, and without again, each from the last checkpoint."""
    run(make_config(["--steps", "3"]), tmp_path / "never")
    monkeypatch.setattr(capturing, "CudaGraphs", Again if works else lambda: Refusing(RuntimeError(REFUSED)))
    said: list[list[str]] = []
    for steps in (1, 2, 3):
        monkeypatch.setattr(steps_of_training, "launched", lambda *_, now=steps: "captured" if now == 2 else "singly")
        said.append([])
        run(make_config(["--steps", str(steps)]), tmp_path / "run", say=said[-1].append)
    assert [any("capturing a step" in line for line in lines) for lines in said] == [False, True, False]
    assert [any("warning: steps are not captured" in line for line in lines) for lines in said] == [
        False,
        not works,
        False,
    ]
    found, expected = (read_weights(tmp_path / name).upscaler for name in ("run", "never"))
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)


def test_a_step_is_let_go_of() -> None:
    """With all that graphs keep, without Python's search for cycles."""
    step = make_step([])
    passes = CapturedPasses(step.pair, graphs=Forgetful())
    step._captured = passes
    step.compile(windows_of(step))
    let_go = weakref.ref(step)
    del step
    assert let_go() is None


class Forgetful(Again):
    """Keeps no more of the work than a CUDA graph does."""

    def new(self) -> Any:
        return self

    def record(self, work: Work) -> list[Tensor]:
        return work()


def test_a_graph_is_for_gpus(tmp_path: Path) -> None:
    config = make_config(["--cluster.compile", "graph"])
    check_graph(config, is_gpu=True)
    with pytest.raises(UserError, match="is for GPUs"):
        check_graph(config, is_gpu=False)
    with pytest.raises(UserError, match="is for GPUs"):
        run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "on_a_gpu"),
    [
        ([], "captured"),
        (["--cluster.compile", "off"], "singly"),
        (["--cluster.compile", "on"], "compiled"),
        (["--cluster.zero_stage", "1"], "singly"),
    ],
)
def test_what_auto_is(changes: list[str], on_a_gpu: str) -> None:
    config: Config = make_config(changes)
    assert launched(config, GPU) == on_a_gpu
    assert launched(config, CPU) == ("compiled" if "on" in changes else "singly")


TWO = ["--batch_size", "4", "--cluster.workers", "2"]
DEEPSPEED = {"fp32": [], "bf16 in parts": ["--cluster.precision", "bf16", "--accumulation", "2"]}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_deepspeed_s_engines_train_two_workers_the_same(tmp_path: Path) -> None:
    """Whose batch norm is over both: its collectives are in the graphs. ``auto`` does not do that yet."""
    on_two_workers(train_worker, tmp_path)
    for case in DEEPSPEED:
        found = torch.load(tmp_path / f"{case}.pt", weights_only=True)
        for expected, losses in zip(found["singly"], found["captured"], strict=True):
            assert losses == pytest.approx(expected, rel=1e-6), case


def train_worker(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    # Only where workers do not meet in the passes.
    assert launched(make_config(TWO), GPU) == "singly"
    assert launched(make_config([*TWO, *CASES["no discriminator"]]), GPU) == "captured"
    for case, changes in DEEPSPEED.items():
        results: dict[str, list[dict[str, float]]] = {}
        for name, make in (("singly", make_step), ("captured", make_captured)):
            step = make([*TWO, *changes])
            results[name] = [
                values(take(step, number, updates=number != 1, windows=windows_of(step, number)[rank::2]))
                for number in range(3)
            ]
        if rank == 0:
            torch.save(results, folder / f"{case}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads may outlive the other rank and complain


@pytest.mark.gpu
@pytest.mark.usefixtures("narrow_vgg")
@pytest.mark.parametrize("case", CASES)
def test_captured_steps_are_the_same_on_a_gpu(case: str) -> None:
    """As near as two runs of the same kernels come: sums of the warp's gradients are in any order."""
    plain, captured = (make_step(CASES[case], mode, device=GPU) for mode in ("off", "auto"))
    prepare_device(GPU, plain._config)
    assert captured.launched == "captured"
    bound = 1e-2 if case == "bf16" else 1e-4
    outcomes = []
    for number in range(4):
        windows = windows_of(plain, number).to(GPU)
        found, expected = (take(step, number, updates=number != 1, windows=windows) for step in (captured, plain))
        assert values(found) == pytest.approx(values(expected), rel=bound, abs=bound), f"step {number}"
        held_out = windows_of(plain, 9).to(GPU)
        assert captured.validation_losses(held_out) == pytest.approx(
            plain.validation_losses(held_out), rel=10 * bound, abs=bound
        )
        outcomes.append((found, expected, found.sr_frames.clone()))
    # What a step gave is not overwritten by the next ones.
    assert all(torch.equal(found.sr_frames, at_first) for found, _, at_first in outcomes)
    found, expected, _ = outcomes[0]
    torch.testing.assert_close(found.sr_frames, expected.sr_frames, rtol=10 * bound, atol=10 * bound)


@pytest.mark.gpu
def test_replays_do_not_wait_for_the_gpu() -> None:
    step = make_step([], "graph", device=GPU)
    windows = windows_of(step).to(GPU)
    step.compile(windows)
    passes = step._captured
    assert passes is not None
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        passed = passes(windows, 1.0)
        step.pair.backward(passed.result, update_discriminator=True, last=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_collectives_of_nccl_can_be_captured() -> None:
    """Those of a batch norm over all workers; here there is one, which meets itself."""
    process = multiprocessing.get_context("spawn").Process(target=capture_collectives, args=(free_ports(1)[0],))
    process.start()
    process.join(timeout=120)
    process.kill()
    assert process.exitcode == 0


def _globally(self: BatchNorm, x: Tensor, update_statistics: bool) -> Tensor:
    return self._normalize_globally(x.float(), update_statistics)


def capture_collectives(port: int) -> None:
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    prepare_device(GPU, Config())
    dist.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    BatchNorm.forward = _globally  # type: ignore[method-assign]  # as where there are more workers
    losses = []
    for mode in ("off", "graph"):
        step = make_step([], mode, device=GPU)
        losses.append([values(take(step, n, updates=True, windows=windows_of(step, n).to(GPU))) for n in range(3)])
    for expected, found in zip(*losses, strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    dist.destroy_process_group()
