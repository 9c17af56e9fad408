"""Adam's moments as whole tensors by their weight's name, whatever the ZeRO stage and the number of workers.

DeepSpeed's own checkpoints are shards of flat buffers that fit one number of workers and are pickled. These networks
are small: gathering the moments of the published pair takes 50 MB, and the file fits any stage and any number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tecogan_dist.runs.writing import MOMENTS


def gather(module: nn.Module, optimizer: Any, *, zero_stage: int | None) -> tuple[dict[str, Tensor], int]:
    """``<kind>.<weight>`` -> moments on the CPU, and the updates behind them; none before the first update.

    ``optimizer`` is torch's, or the one that a DeepSpeed engine of stage 1 to 3 made of it. All workers call it.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    steps = [state["step"] for state in inner.state.values() if "step" in state]
    if not steps:
        return {}, 0
    moments = {}
    for name, parameter in module.named_parameters():
        for kind in MOMENTS:
            moments[f"{kind}.{name}"] = _whole(parameter, kind, inner, zero_stage).detach().cpu().clone()
    return moments, round(float(steps[0]))


def restore(
    module: nn.Module, optimizer: Any, moments: dict[str, Tensor], updates: int, *, zero_stage: int | None
) -> None:
    """Put what :func:`gather` returned into an optimiser that has not made a step yet. All workers call it."""
    if not updates:
        return
    inner = getattr(optimizer, "optimizer", optimizer)
    # Before its first step a ZeRO optimiser has no states to be filled, and no map from weights into its flat buffers.
    flat = optimizer.fp32_partitioned_groups_flat if zero_stage == 3 else _parameters(inner)
    for tensor in flat:
        on = tensor.device if inner.defaults.get("fused") else "cpu"
        inner.state[tensor] = {"step": torch.tensor(float(updates), device=on)}
        inner.state[tensor] |= {kind: torch.zeros_like(tensor) for kind in MOMENTS}
    if zero_stage in (1, 2):
        optimizer._lazy_init_hp_params_optimizer_state()
    for name, parameter in module.named_parameters():
        for kind in MOMENTS:
            _put(parameter, kind, moments[f"{kind}.{name}"], inner, zero_stage)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _whole(parameter: Any, kind: str, inner: torch.optim.Optimizer, zero_stage: int | None) -> Tensor:
    if not zero_stage:
        whole: Tensor = inner.state[parameter][kind]
        return whole
    from deepspeed.utils import safe_get_full_optimizer_state

    whole = safe_get_full_optimizer_state(parameter, kind)
    return whole.view(parameter.ds_shape if zero_stage == 3 else parameter.shape)


def _put(parameter: Any, kind: str, value: Tensor, inner: torch.optim.Optimizer, zero_stage: int | None) -> None:
    if not zero_stage:
        inner.state[parameter][kind].copy_(value)
        return
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if zero_stage < 3:
        safe_set_full_optimizer_state(parameter, value, kind)
        return
    # The same for stage 3 fails where a weight cannot be divided evenly: its last shard is padded.
    shard, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank()
    padded = value.flatten().new_zeros(shard * torch.distributed.get_world_size())
    padded[: value.numel()] = value.flatten()
    safe_set_local_optimizer_state(parameter, padded[shard * rank : shard * (rank + 1)], kind)
