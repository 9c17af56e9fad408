"""How steps are applied: TensorFlow's Adam, and DeepSpeed pairs against plain torch optimisers."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tecogan_dist import config as settings
from tecogan_dist.config import Config
from tecogan_dist.errors import UserError
from tecogan_dist.models.discriminator import Discriminator
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops import windows_to_frames
from tecogan_dist.overrides import override
from tecogan_dist.training.engines import DeepSpeedPair, EnginePair, PlainPair
from tecogan_dist.training.objective import Objective, prepare_device
from tecogan_dist.training.optimizers import AdamTF1

STEPS, SKIPPED = 4, 1
LEARNING_RATE = 1e-4
CPU = torch.device("cpu")
CASES = [(0, "adam"), (1, "adam"), (2, "adam"), (3, "adam"), (1, "adam_tf1"), (3, "adam_tf1")]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the other processes: the number of threads decides the order of sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_adam_tf1_is_tensorflows_adam_at_every_step() -> None:
    vectors = np.load(Path(__file__).parent / "reference" / "ops.npz")
    learning_rate, beta1, beta2, epsilon = vectors["adam:lr_beta1_beta2_eps"].tolist()
    weight = nn.Parameter(torch.from_numpy(vectors["adam:w0"]))
    optimizer = AdamTF1([weight], lr=learning_rate, betas=(beta1, beta2), eps=epsilon)
    for gradient, expected in zip(vectors["adam:grads"], vectors["adam:w_after"], strict=True):
        weight.grad = torch.from_numpy(gradient)
        optimizer.step()
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=0, atol=6e-8)


def test_discriminator_is_untouched_when_it_is_not_updated() -> None:
    config = make_config(workers=1, zero_stage=1, kind="adam")
    pair = make_pair(config, distributed=False)
    before = weights_of(pair)
    train(pair, config, [0], skipped=0)
    after = weights_of(pair)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("upscaler.generator") for name in moved)
    assert any(name.startswith("upscaler.flow") for name in moved)
    # Statistics of the batch are folded in all the same, as in the original.
    assert {name.split(".")[-1] for name in moved if name.startswith("critic")} == {"moving_mean", "moving_variance"}


def test_learning_rate_of_the_discriminator_is_scaled() -> None:
    """Adam's first step is learning_rate * sign(gradient), whatever the gradient's size."""
    config = override(
        make_config(workers=1, zero_stage=1, kind="adam"),
        ["--discriminator.learning_rate_scale", "0.25", "--optimizer.epsilon", "1e-30"],
    )
    pair = make_pair(config, distributed=False)
    before = weights_of(pair)
    train(pair, config, [0])
    after = weights_of(pair)
    moved = (after["critic.score.weight"] - before["critic.score.weight"]).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.25 * LEARNING_RATE), rtol=1e-2)


def test_plain_pair_goes_on_exactly_after_loading(tmp_path: Path) -> None:
    config = make_config(workers=1, zero_stage=1, kind="adam_tf1")
    straight = make_pair(config, distributed=False)
    train(straight, config, range(2))
    straight.save(tmp_path)
    train(straight, config, range(2, STEPS))
    resumed = make_pair(config, distributed=False)
    resumed.load(tmp_path)
    train(resumed, config, range(2, STEPS))
    expected, found = weights_of(straight), weights_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.fixture(scope="module", params=[1, 2])
def deepspeed_results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """Number of processes, and the folder with the weights that rank 0 had in every case."""
    processes: int = request.param
    folder = tmp_path_factory.mktemp(f"deepspeed{processes}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    group = [spawn.Process(target=run_cases, args=(rank, processes, port, folder)) for rank in range(processes)]
    for process in group:
        process.start()
    try:
        for process in group:
            process.join(timeout=500)
        assert [process.exitcode for process in group] == [0] * processes
    finally:
        for process in group:
            process.kill()
            process.join()
    return processes, folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("zero_stage", "kind"), CASES)
def test_deepspeed_pair_equals_plain_optimizers(
    deepspeed_results: tuple[int, Path], zero_stage: int, kind: str
) -> None:
    processes, folder = deepspeed_results
    config = make_config(workers=1, zero_stage=zero_stage, kind=kind)
    plain = make_pair(config, distributed=False)
    start = weights_of(plain)
    train(plain, config, range(STEPS), skipped=SKIPPED)
    expected = weights_of(plain)
    found = torch.load(folder / f"{zero_stage}{kind}.pt", weights_only=True)
    assert found.keys() == expected.keys()
    for part in ("upscaler", "critic"):
        names = [name for name in expected if name.startswith(part)]
        error, moved = (
            torch.stack([(a[name] - b[name]).square().sum() for name in names]).sum().sqrt()
            for a, b in ((found, expected), (expected, start))
        )
        # Of the way that the weights went; what is left is the order of sums, magnified at the kinks of the networks.
        assert moved > 1e-3
        assert error < (1e-6 if processes == 1 else 1e-2) * moved


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("zero_stage", "kind"), CASES)
def test_deepspeed_pair_goes_on_exactly_after_loading(
    deepspeed_results: tuple[int, Path], zero_stage: int, kind: str
) -> None:
    _, folder = deepspeed_results
    straight = torch.load(folder / f"{zero_stage}{kind}.pt", weights_only=True)
    resumed = torch.load(folder / f"{zero_stage}{kind}_resumed.pt", weights_only=True)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(zero_stage: int, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=load_hostile_checkpoint, args=(zero_stage, tmp_path))
    process.start()
    process.join(timeout=300)
    process.kill()
    assert process.exitcode == 0


def load_hostile_checkpoint(zero_stage: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    pair = make_pair(make_config(workers=1, zero_stage=zero_stage, kind="adam"), distributed=True)
    pair.save(folder)
    pair.load(folder)
    victim = next(folder.glob("upscaler/state/*optim_states.pt" if zero_stage else "upscaler/state/*model_states.pt"))
    torch.save(torch.load(victim, weights_only=False) | {"surprise": Touch(folder / "executed")}, victim)
    with pytest.raises(UserError, match="something else than tensors"):
        pair.load(folder)
    assert not (folder / "executed").exists()
    torch.load(victim, weights_only=False)  # our own file: shows that it is hostile indeed
    assert (folder / "executed").exists()  # it would have been
    os._exit(0)


@pytest.mark.gpu
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_deepspeed_pair_on_cuda_equals_plain_optimizers(zero_stage: int) -> None:
    process = multiprocessing.get_context("spawn").Process(target=compare_on_cuda, args=(zero_stage,))
    process.start()
    process.join(timeout=300)
    process.kill()
    assert process.exitcode == 0


def compare_on_cuda(zero_stage: int) -> None:
    """fp32 against the plain pair; bf16 against fp32, loosely; NCCL, fused Adam, frames and weights on the GPU."""
    device = torch.device("cuda:0")
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    prepare_device(device, Config())
    dist.init_process_group("nccl", init_method="tcp://127.0.0.1:29571", rank=0, world_size=1)
    config = make_config(workers=1, zero_stage=zero_stage, kind="adam")
    plain = make_pair(config, distributed=False, device=device)
    start = weights_of(plain)
    train(plain, config, range(STEPS), skipped=SKIPPED, device=device)
    expected = weights_of(plain)
    cases = [("fp32", 1e-2)] + ([("bf16", 0.5)] if zero_stage > 0 else [])
    for precision, tolerance in cases:
        changed = override(config, ["--cluster.precision", precision])
        pair = make_pair(changed, distributed=True, device=device)
        train(pair, changed, range(STEPS), skipped=SKIPPED, device=device)
        found = weights_of(pair)
        error, moved = (
            torch.stack([(a[name] - b[name]).square().sum() for name in expected if "moving" not in name]).sum().sqrt()
            for a, b in ((found, expected), (expected, start))
        )
        assert found["upscaler.flow.output.conv1.weight"].dtype == torch.float32
        print(f"ZeRO {zero_stage} {precision}: {error / moved:.2g} of the way, overflows {pair.overflows()}")
        assert error < tolerance * moved
        assert pair.overflows() == 0
    dist.destroy_process_group()


def run_cases(rank: int, processes: int, port: int, folder: Path) -> None:
    """One process of the group: all cases, straight and interrupted after half the steps."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    for zero_stage, kind in CASES:
        name = f"{zero_stage}{kind}"
        config = make_config(workers=processes, zero_stage=zero_stage, kind=kind)
        pair = make_pair(config, distributed=True)
        train(pair, config, range(2), skipped=SKIPPED)
        pair.save(folder / name)
        dist.barrier()
        train(pair, config, range(2, STEPS), skipped=SKIPPED)
        straight = weights_of(pair)
        resumed_pair = make_pair(config, distributed=True)
        resumed_pair.load(folder / name)
        train(resumed_pair, config, range(2, STEPS), skipped=SKIPPED)
        resumed = weights_of(resumed_pair)
        if rank == 0:
            torch.save(straight, folder / f"{name}.pt")
            torch.save(resumed, folder / f"{name}_resumed.pt")
        assert pair.overflows() == 0
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may outlive the other rank and complain


def make_config(*, workers: int, zero_stage: int, kind: str) -> Config:
    tree = {
        "batch_size": 2,
        "model": {"blocks": 1, "channels": 8, "flow_width": 4},
        "loss": {"perceptual": 0},
        # A large epsilon keeps near-zero gradients from becoming steps of a random sign.
        "optimizer": {"kind": kind, "learning_rate": LEARNING_RATE, "epsilon": 1e-3},
        "data": {"sequence_length": 3, "crop_size": 16},
        "cluster": {"workers": workers, "zero_stage": zero_stage},
    }
    return settings.from_tree(tree, source="the test")


def make_pair(config: Config, *, distributed: bool, device: torch.device = CPU) -> EnginePair:
    torch.manual_seed(0)
    upscaler = RecurrentUpscaler(blocks=1, channels=8, flow_width=4).to(device)
    discriminator = Discriminator().to(device)
    if distributed:
        return DeepSpeedPair(upscaler, discriminator, config, device)
    return PlainPair(upscaler, discriminator, config)


def train(
    pair: EnginePair,
    config: Config,
    steps: range | list[int],
    *,
    skipped: int | None = None,
    device: torch.device = CPU,
) -> None:
    """Steps on random windows, this rank's part of each; the discriminator is not updated in step ``skipped``."""
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    objective = Objective(config, pair, device, vgg_weights=None)
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        windows = torch.randint(0, 256, (2, 3, 72, 72, 3), dtype=torch.uint8, generator=generator)
        result = objective(*windows_to_frames(windows.chunk(workers)[rank].to(device)), step=step)
        pair.apply(result, learning_rate=LEARNING_RATE, update_discriminator=step != skipped)


def weights_of(pair: EnginePair) -> dict[str, Tensor]:
    assert pair.critic is not None
    with pair.weights():
        return {
            f"{part}.{name}": value.clone()
            for part, module in (("upscaler", pair.upscaler_module), ("critic", pair.critic))
            for name, value in module.state_dict().items()
        }
