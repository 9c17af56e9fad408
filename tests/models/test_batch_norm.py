"""Batch norm over the batches of several workers, against torch's own of all of them together."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from tecogan_dist.models.discriminator import BatchNorm

WORKERS, WINDOWS, CHANNELS = 2, 3, 5


def batch_and_weights() -> tuple[torch.Tensor, torch.Tensor]:
    """Of all workers; each one's batch has another mean and another spread, in which digits could be lost."""
    generator = torch.Generator().manual_seed(0)
    batch, weights = torch.randn(2, WORKERS, WINDOWS, CHANNELS, 4, 6, generator=generator)
    places = torch.arange(1.0, WORKERS + 1).view(-1, 1, 1, 1, 1)
    return (batch * places + 100 * places).flatten(0, 1), weights.flatten(0, 1)


@pytest.mark.timeout(120)
def test_two_workers_with_different_batches(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=work, args=(rank, port, tmp_path), daemon=True) for rank in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=100)
        worker.kill()
        assert worker.exitcode == 0

    batch, weights = batch_and_weights()
    batch.requires_grad_()
    beta = torch.full((CHANNELS,), 0.25, requires_grad=True)
    mean, variance = torch.zeros(CHANNELS), torch.ones(CHANNELS)
    y = F.batch_norm(batch, mean, variance, torch.ones(CHANNELS), beta, True, BatchNorm.MOMENTUM, BatchNorm.EPSILON)
    (y * weights).square().sum().backward()
    assert batch.grad is not None
    assert beta.grad is not None
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORKERS)]
    assert_close(torch.cat([one["y"] for one in found]), y.detach())
    assert_close(torch.cat([one["gradient"] for one in found]), batch.grad)
    assert_close(torch.stack([one["beta"] for one in found]).sum(0), beta.grad)  # each has its own batch's part
    for one in found:
        assert_close(one["mean"], mean)
        assert_close(one["variance"], variance)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def work(rank: int, port: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORKERS)
    batch, weights = (whole.chunk(WORKERS)[rank].clone() for whole in batch_and_weights())
    batch.requires_grad_()
    norm = BatchNorm(CHANNELS, over_workers=True)
    torch.nn.init.constant_(norm.beta, 0.25)
    y = norm(batch, True)
    (y * weights).square().sum().backward()
    assert norm.beta.grad is not None
    result = {"y": y.detach(), "gradient": batch.grad, "beta": norm.beta.grad}
    torch.save(result | {"mean": norm.moving_mean, "variance": norm.moving_variance}, folder / f"{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads may outlive the other worker and complain
