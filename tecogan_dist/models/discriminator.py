"""The spatio-temporal discriminator of TecoGAN: scores triplets of frames, patch by patch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
import torch.nn.functional as F
from torch import Tensor, nn

from tecogan_dist.base.invariants import present
from tecogan_dist.models.layers import Conv3x3, HalvingConv4x4

WIDTHS = (64, 64, 128, 256)


class Discriminator(nn.Module):
    """Four strided blocks with batch norm, then a linear layer and a sigmoid for every 16x16 patch."""

    def __init__(self, *, in_channels: int = 27, global_batch_norm: bool = True) -> None:
        super().__init__()
        self.input = Conv3x3(in_channels, 64)
        self.blocks = nn.ModuleList(
            [
                _Block(inputs, outputs, global_batch_norm=global_batch_norm)
                for inputs, outputs in zip((64, *WIDTHS), WIDTHS, strict=False)
            ]
        )
        self.score = nn.Linear(WIDTHS[-1], 1)
        nn.init.xavier_uniform_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, triplets: Tensor, *, update_statistics: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Score triplets (N, in_channels, H, W), H and W divisible by 16.

        Returns the probability of being real, (N, 1, H / 16, W / 16), and the features of the four blocks. Batch norm
        always uses the batch's own statistics; ``update_statistics`` also folds them into the moving averages, which
        are kept for checkpoints and never influence a result.
        """
        x = F.leaky_relu(self.input(triplets), 0.2, inplace=True)
        features = []
        for block in self.blocks:
            x = block(x, update_statistics)
            features.append(x)
        # tf.layers.dense on the last axis: one linear map shared by all patches.
        score = self.score(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return torch.sigmoid(score.float()), features


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, *, global_batch_norm: bool) -> None:
        super().__init__()
        self.conv = HalvingConv4x4(in_channels, out_channels)
        self.norm = BatchNorm(out_channels, over_workers=global_batch_norm)

    def forward(self, x: Tensor, update_statistics: bool) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x), update_statistics), 0.2, inplace=True)


class BatchNorm(nn.Module):
    """Batch norm without a scale: gamma is 1, beta trained, eps 1e-3, moving averages with decay 0.9.

    ``over_workers``: statistics of the batches of all workers of ``torch.distributed`` together (equal sizes), so that
    N workers train as one would. torch's SyncBatchNorm does the same on GPUs only.
    """

    EPSILON = 1e-3
    MOMENTUM = 0.1

    moving_mean: Tensor
    moving_variance: Tensor

    def __init__(self, channels: int, *, over_workers: bool) -> None:
        super().__init__()
        self.over_workers = over_workers
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("moving_mean", torch.zeros(channels))
        self.register_buffer("moving_variance", torch.ones(channels))

    def forward(self, x: Tensor, update_statistics: bool) -> Tensor:
        x = x.float()
        if self.over_workers and dist.is_initialized() and dist.get_world_size() > 1:
            return self._normalize_globally(x, update_statistics)
        mean = self.moving_mean if update_statistics else None
        variance = self.moving_variance if update_statistics else None
        # A gamma of ones: without one, torch's CUDA kernel returns no gradient for beta.
        gamma = torch.ones_like(self.beta)
        return F.batch_norm(x, mean, variance, gamma, self.beta, True, self.MOMENTUM, self.EPSILON)

    def _normalize_globally(self, x: Tensor, update_statistics: bool) -> Tensor:
        y, mean, variance = _NormOverWorkers.apply(x, self.beta, self.EPSILON)
        if update_statistics:
            count = dist.get_world_size() * x.numel() // x.shape[1]
            with torch.no_grad():
                self.moving_mean.lerp_(mean, self.MOMENTUM)
                self.moving_variance.lerp_(variance * (count / (count - 1)), self.MOMENTUM)
        normalized: Tensor = y
        return normalized


class _NormOverWorkers(torch.autograd.Function):
    """Batch norm of all workers' batches as one: returns the result, and the mean and the biased variance.

    Workers meet once on the way forth and once on the way back. The gradient of x is that of all workers' losses
    together, the gradient of beta that of this worker's loss: engines average over the workers what weights get.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        own = torch.stack(torch.var_mean(x, (0, 2, 3), correction=0))
        variances, means = _gathered(own).unbind(1)
        mean = means.mean(0)
        # Not the mean of squares less the square of the mean: digits would be lost where the mean is large.
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, mean, (variance + epsilon).rsqrt())
        ctx.mark_non_differentiable(mean, variance)
        gamma = torch.ones_like(beta)
        return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: None) -> tuple[Tensor, Tensor, None]:
        x, mean, scale = ctx.saved_tensors
        normal = (x - _by_channel(mean)) * _by_channel(scale)
        own = torch.stack([gradient.sum((0, 2, 3)), (gradient * normal).sum((0, 2, 3))])
        count = dist.get_world_size() * x.numel() // x.shape[1]
        shift, slope = _summed(own) / count
        result = (gradient - _by_channel(shift) - normal * _by_channel(slope)) * _by_channel(scale)
        return result, own[0], None


def _by_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _gathered(x: Tensor) -> Tensor:
    """What all workers have, (workers, *x.shape)."""
    if torch.compiler.is_compiling():
        workers = present(dist.group.WORLD, "there are other workers")
        found: Tensor = collectives.wait_tensor(collectives.all_gather_tensor(x, 0, workers))
    else:
        found = x.new_empty((dist.get_world_size() * len(x), *x.shape[1:]))
        # Newer versions of torch warn of the second name, older ones do not know the first.
        gather = dist.all_gather_single if hasattr(dist, "all_gather_single") else dist.all_gather_into_tensor
        gather(found, x)
    return found.unflatten(0, (-1, len(x)))


def _summed(x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        workers = present(dist.group.WORLD, "there are other workers")
        traced: Tensor = collectives.wait_tensor(collectives.all_reduce(x, "sum", workers))
        return traced
    total = x.clone()
    dist.all_reduce(total)
    return total


@torch.no_grad()
def forget_bad_statistics(module: nn.Module) -> None:
    """Reset moving averages into which a batch with values that are not finite has gone."""
    for norm in module.modules():
        if isinstance(norm, BatchNorm) and not (norm.moving_mean + norm.moving_variance).isfinite().all():
            norm.moving_mean.zero_()
            norm.moving_variance.fill_(1)
