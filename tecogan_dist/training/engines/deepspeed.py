"""Two DeepSpeed engines. With ``moments`` the only place that knows DeepSpeed."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tecogan_dist.base.chatter import quieten
from tecogan_dist.config.schema import Config
from tecogan_dist.runs.quantities import ALL_REDUCE, BACKWARD
from tecogan_dist.training.engines.pair import (
    Moments,
    gather_moments,
    gradients_are_finite,
    losses_in_order,
    make_optimizer,
    networks_at,
    norms_of_parts,
    order,
    restore_moments,
    set_learning_rate,
    unmarked,
)
from tecogan_dist.training.objective import ObjectiveResult


class DeepSpeedPair:
    """Two DeepSpeed engines of ``config.cluster.zero_stage`` over the process group that torch.distributed has."""

    def __init__(
        self, upscaler: nn.Module, discriminator: nn.Module | None, config: Config, device: torch.device
    ) -> None:
        self._deepspeed = _import_deepspeed(device)
        self._deepspeed.init_distributed(dist_backend=torch.distributed.get_backend())
        self._scale = config.discriminator.learning_rate_scale
        self._zero_stage = config.cluster.zero_stage
        self._engines = [self._engine(upscaler, config)]
        if discriminator is not None:
            self._engines.append(self._engine(discriminator, config))
        self.upscaler: Callable[..., Any] = self._engines[0]
        self.upscaler_module: nn.Module = self._engines[0].module
        self.discriminator: Callable[..., Any] | None = None if discriminator is None else self._engines[1]
        self.discriminator_module: nn.Module | None = None if discriminator is None else self._engines[1].module
        self.not_finite: tuple[str, ...] = ()
        self.mark: Callable[[str], None] = unmarked
        self._on_their_way: list[_Reduction] = []

    def _engine(self, module: nn.Module, config: Config) -> Any:
        engine, *_ = self._deepspeed.initialize(
            model=module,
            optimizer=make_optimizer(module, config),
            config=deepspeed_settings(config, workers=torch.distributed.get_world_size()),
        )
        reduce = engine.allreduce_gradients

        def reduce_and_tell(*arguments: Any, **keywords: Any) -> None:
            self.mark(BACKWARD)
            reduce(*arguments, **keywords)
            self.mark(ALL_REDUCE)

        def begin_to_reduce(*_: Any, **__: Any) -> None:
            # DeepSpeed would wait: the discriminator's gradients travel beside the upscaler's backward pass instead.
            if engine.is_gradient_accumulation_boundary() and torch.distributed.get_world_size() > 1:
                self._on_their_way.append(_Reduction(module))

        engine.allreduce_gradients = reduce_and_tell if self._zero_stage else begin_to_reduce
        return engine

    def backward(self, result: ObjectiveResult, *, update_discriminator: bool, last: bool) -> None:
        losses = losses_in_order(result, update_discriminator)
        positions = order(update_discriminator)
        for position, loss in zip(positions, losses, strict=True):
            self._engines[position].backward(loss)
        if self._on_their_way:
            self.mark(BACKWARD)
            for reduction in self._on_their_way:
                reduction.finish()
            self._on_their_way.clear()
            self.mark(ALL_REDUCE)
        if not last:
            for position in positions:
                self._engines[position].step()  # counts the micro-batch; the last one's makes the update

    def update(self, *, learning_rate: float, update_discriminator: bool) -> bool:
        bad = []
        for position in order(update_discriminator):
            engine = self._engines[position]
            set_learning_rate(engine.optimizer, learning_rate * (self._scale if position else 1.0))
            if self._zero_stage == 0 and not gradients_are_finite(engine.module.parameters()):
                # What ZeRO's optimisers do by themselves: gradients are the same everywhere, and so is the decision.
                engine.zero_grad()
                engine.micro_steps += 1
                bad.append(position)
                continue
            skipped_before = engine.skipped_steps
            engine.step()
            if engine.skipped_steps != skipped_before:
                bad.append(position)
        self.not_finite = networks_at(bad)
        return not bad

    def gradient_norms(self, *, update_discriminator: bool) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_grad

        discriminator = self.discriminator_module if update_discriminator else None
        return norms_of_parts(self.upscaler_module, discriminator, safe_get_full_grad)

    def own_weights(self) -> list[Tensor]:
        return [_own_part(parameter) for parameter in self.upscaler_module.parameters()]

    @contextlib.contextmanager
    def weights(self) -> Iterator[None]:
        if self._zero_stage != 3:
            yield
            return
        parameters = [parameter for engine in self._engines for parameter in engine.module.parameters()]
        with self._deepspeed.zero.GatheredParameters(parameters):
            yield

    def moments(self) -> tuple[Moments, dict[str, int]]:
        return gather_moments(self._optimizers(), zero_stage=self._zero_stage)

    def load_moments(self, moments: Moments, updates: dict[str, int]) -> None:
        restore_moments(self._optimizers(), moments, updates, zero_stage=self._zero_stage)

    def _optimizers(self) -> list[tuple[nn.Module, Any]]:
        return [(engine.module, engine.optimizer) for engine in self._engines]


class _Reduction:
    """A network's gradients, summed over the workers in one message while something else is computed.

    Nothing is gained by smaller ones: all frames of a window share the upscaler's weights, so that no gradient of it is
    complete before the backward pass has come to the window's first frame.
    """

    def __init__(self, module: nn.Module) -> None:
        self._gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
        self._sums = torch.cat([gradient.flatten() for gradient in self._gradients])
        self._running = torch.distributed.all_reduce(self._sums, async_op=True)

    def finish(self) -> None:
        """The gradients become the means over the workers. On CUDA this does not wait, what is computed next does."""
        self._running.wait()
        means = (self._sums / torch.distributed.get_world_size()).split([g.numel() for g in self._gradients])
        torch._foreach_copy_(
            self._gradients, [mean.view(g.shape) for mean, g in zip(means, self._gradients, strict=True)]
        )


def _own_part(parameter: nn.Parameter) -> Tensor:
    """With ZeRO 3 a parameter is empty and its part beside it, the last workers' filled up with what is no weight."""
    part: Tensor | None = getattr(parameter, "ds_tensor", None)
    if part is None:
        return parameter.detach()
    size: int = parameter.ds_numel  # type: ignore[attr-defined]  # DeepSpeed adds it
    left = size - torch.distributed.get_rank() * part.numel()
    return part.detach().flatten()[: max(0, min(part.numel(), left))]


def deepspeed_settings(config: Config, *, workers: int) -> dict[str, Any]:
    """The configuration of one engine."""
    cluster = config.cluster
    zero: dict[str, Any] = {"stage": cluster.zero_stage}
    if cluster.zero_stage:
        zero |= {
            "overlap_comm": cluster.overlap_communication,
            "reduce_bucket_size": cluster.bucket_megabytes * 2**20 // 4,  # in elements
        }
    settings: dict[str, Any] = {
        # Only a label: batches are made by our own stream.
        "train_micro_batch_size_per_gpu": config.batch_size // (workers * config.accumulation),
        "gradient_accumulation_steps": config.accumulation,
        # DeepSpeed's default is 1.0; the original does not clip.
        "gradient_clipping": config.optimizer.gradient_clipping,
        "zero_optimization": zero,
        # Both of ours work on each element alone, so that they may run on a shard. DeepSpeed knows torch's own.
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }
    if cluster.precision == "bf16":
        # engine.forward switches an autocast from outside off unless the engine has its own. The list of modules is
        # for gradients communicated in bf16: empty keeps them in fp32.
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return settings


def _import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed for this device. It takes seconds to import and reads its accelerator from the environment."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    quieten("DeepSpeed")
    if device.type == "cpu":
        # Keeps init_distributed from compiling a shared-memory extension; a killed build would hang later runs.
        deepspeed.ops.__compatible_ops__ = {}
    _import_muon()
    return deepspeed


def _import_muon() -> None:
    """Bring in DeepSpeed's Muon, of which every engine asks whether it is the optimiser, without what it brings.

    It decorates its functions with torch.compile, which would import all of torch's compiler: 2 s of a start.
    """
    compiles = torch.compile
    torch.compile = _as_it_is  # type: ignore[assignment]  # nothing of it is called here
    try:
        with contextlib.suppress(ImportError):  # of another version of DeepSpeed
            importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        torch.compile = compiles


def _as_it_is(function: Any = None, **_: Any) -> Any:
    return (lambda decorated: decorated) if function is None else function
