"""How a step's gradients are applied: two DeepSpeed engines, or plain torch optimisers in one process.

Both forms hold the weights, the moments and the learning-rate rule of one upscaler and, with an adversarial loss, one
discriminator; the training loop does not know which it has. Gradients are those of the weights before the step: both
backward passes come first, then the discriminator's update, then the upscaler's.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tecogan_dist.config import Config
from tecogan_dist.training.moments import gather, restore
from tecogan_dist.training.optimizers import build_optimizer
from tecogan_dist.training.step import StepResult

PARTS = ("upscaler", "discriminator")
Moments = dict[str, Tensor]


class EnginePair(Protocol):
    """What the training loop uses. ``discriminator`` and ``critic`` are None without an adversarial loss."""

    upscaler: Callable[..., Any]
    """LR frames to :class:`Unrolled`, the pass that :meth:`apply` trains."""
    discriminator: Callable[..., Any] | None
    """The pass that the discriminator's own loss goes through."""
    upscaler_module: nn.Module
    zero_stage: int | None
    """None without DeepSpeed."""
    critic: nn.Module | None
    """The discriminator's plain module, for the generator's pass and for validation."""

    def backward(self, result: StepResult, *, update_discriminator: bool, last: bool) -> None:
        """Add the gradients of a part of a step's windows; ``last``: no further part follows."""

    def update(self, *, learning_rate: float, update_discriminator: bool) -> bool:
        """Update from the gradients since the last update, and forget them. Whether they all were finite.

        ``learning_rate`` is the generator's; the discriminator's is scaled from it. Gradients that are not finite
        update nothing, on all workers alike. With ``update_discriminator`` false, as it was for :meth:`backward`, the
        discriminator's weights, moments and step count stay untouched.
        """

    def weights(self) -> contextlib.AbstractContextManager[None]:
        """While open, ``upscaler_module`` and ``critic`` hold their complete weights. All workers enter it."""

    def moments(self) -> tuple[Moments, dict[str, int]]:
        """``<part>.<kind>.<weight>`` -> Adam's moments, and each part's updates. All workers call it."""

    def load_moments(self, moments: Moments, updates: dict[str, int]) -> None:
        """Put them into a pair that has made no update yet. All workers call it."""


class PlainPair:
    """One process, torch optimisers: for trials inside a Tune worker, and the twin that DeepSpeed is tested against."""

    def __init__(self, upscaler: nn.Module, discriminator: nn.Module | None, config: Config) -> None:
        self.upscaler: Callable[..., Any] = upscaler
        self.upscaler_module: nn.Module = upscaler
        self.discriminator: Callable[..., Any] | None = discriminator
        self.critic: nn.Module | None = discriminator
        self.zero_stage: int | None = None
        self._scale = config.discriminator.learning_rate_scale
        self._accumulation = config.accumulation
        self._clipping = config.optimizer.gradient_clipping
        modules = [upscaler] if discriminator is None else [upscaler, discriminator]
        self._parts = [(module, _optimizer(module, config)) for module in modules]

    def backward(self, result: StepResult, *, update_discriminator: bool, last: bool) -> None:  # noqa: ARG002
        for loss in _losses(result, update_discriminator):
            (loss / self._accumulation).backward()

    def update(self, *, learning_rate: float, update_discriminator: bool) -> bool:
        finite = True
        for position in _order(update_discriminator):
            module, optimizer = self._parts[position]
            parameters = list(module.parameters())
            if gradients_are_finite(parameters):
                if self._clipping:
                    nn.utils.clip_grad_norm_(parameters, self._clipping)
                _set_learning_rate(optimizer, learning_rate * (self._scale if position else 1.0))
                optimizer.step()
            else:
                finite = False
            optimizer.zero_grad()
        return finite

    @contextlib.contextmanager
    def weights(self) -> Iterator[None]:
        yield

    def moments(self) -> tuple[Moments, dict[str, int]]:
        return _gather_parts(self._parts, zero_stage=None)

    def load_moments(self, moments: Moments, updates: dict[str, int]) -> None:
        _restore_parts(self._parts, moments, updates, zero_stage=None)


class DeepSpeedPair:
    """Two DeepSpeed engines of ``config.cluster.zero_stage`` over the process group that torch.distributed has."""

    def __init__(
        self, upscaler: nn.Module, discriminator: nn.Module | None, config: Config, device: torch.device
    ) -> None:
        self._deepspeed = _import_deepspeed(device)
        self._deepspeed.init_distributed(dist_backend=torch.distributed.get_backend())
        self._scale = config.discriminator.learning_rate_scale
        self.zero_stage: int | None = config.cluster.zero_stage
        self._engines = [self._engine(upscaler, config)]
        if discriminator is not None:
            self._engines.append(self._engine(discriminator, config))
        self.upscaler: Callable[..., Any] = self._engines[0]
        self.upscaler_module: nn.Module = self._engines[0].module
        self.discriminator: Callable[..., Any] | None = None if discriminator is None else self._engines[1]
        self.critic: nn.Module | None = None if discriminator is None else self._engines[1].module

    def _engine(self, module: nn.Module, config: Config) -> Any:
        engine, *_ = self._deepspeed.initialize(
            model=module,
            optimizer=_optimizer(module, config),
            config=deepspeed_settings(config, workers=torch.distributed.get_world_size()),
        )
        return engine

    def backward(self, result: StepResult, *, update_discriminator: bool, last: bool) -> None:
        losses = _losses(result, update_discriminator)
        positions = _order(update_discriminator)
        for position, loss in zip(positions, losses, strict=True):
            self._engines[position].backward(loss)
        if not last:
            for position in positions:
                self._engines[position].step()  # counts the part; the last one's makes the update

    def update(self, *, learning_rate: float, update_discriminator: bool) -> bool:
        finite = True
        for position in _order(update_discriminator):
            engine = self._engines[position]
            _set_learning_rate(engine.optimizer, learning_rate * (self._scale if position else 1.0))
            if self.zero_stage == 0 and not gradients_are_finite(engine.module.parameters()):
                # What ZeRO's optimisers do by themselves: gradients are the same everywhere, and so is the decision.
                engine.zero_grad()
                engine.micro_steps += 1
                finite = False
                continue
            skipped_before = engine.skipped_steps
            engine.step()
            finite = finite and engine.skipped_steps == skipped_before
        return finite

    @contextlib.contextmanager
    def weights(self) -> Iterator[None]:
        if self.zero_stage != 3:
            yield
            return
        parameters = [parameter for engine in self._engines for parameter in engine.module.parameters()]
        with self._deepspeed.zero.GatheredParameters(parameters):
            yield

    def moments(self) -> tuple[Moments, dict[str, int]]:
        return _gather_parts(self._optimizers(), zero_stage=self.zero_stage)

    def load_moments(self, moments: Moments, updates: dict[str, int]) -> None:
        _restore_parts(self._optimizers(), moments, updates, zero_stage=self.zero_stage)

    def _optimizers(self) -> list[tuple[nn.Module, Any]]:
        return [(engine.module, engine.optimizer) for engine in self._engines]


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
        # AdamTF1 works on each element alone, so it may run on a shard.
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }
    if cluster.precision == "bf16":
        # engine.forward switches an autocast from outside off unless the engine has its own. The list of modules is
        # for gradients communicated in bf16: empty keeps them in fp32.
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return settings


def gradients_are_finite(parameters: Iterable[Tensor]) -> bool:
    """Whether no gradient holds an infinity or NaN."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return bool(torch.stack(torch._foreach_norm(gradients)).isfinite().all())


def _order(update_discriminator: bool) -> tuple[int, ...]:
    """Positions in the pair: the discriminator, which is updated first, and the upscaler."""
    return (1, 0) if update_discriminator else (0,)


def _losses(result: StepResult, update_discriminator: bool) -> list[Tensor]:
    """What is differentiated, in :func:`_order`."""
    if not update_discriminator:
        return [result.generator_loss]
    assert result.discriminator_loss is not None
    return [result.discriminator_loss, result.generator_loss]


def _gather_parts(parts: list[tuple[nn.Module, Any]], *, zero_stage: int | None) -> tuple[Moments, dict[str, int]]:
    found: Moments = {}
    updates = {}
    for part, (module, optimizer) in zip(PARTS, parts, strict=False):
        moments, updates[part] = gather(module, optimizer, zero_stage=zero_stage)
        found |= {f"{part}.{name}": tensor for name, tensor in moments.items()}
    return found, updates


def _restore_parts(
    parts: list[tuple[nn.Module, Any]], moments: Moments, updates: dict[str, int], *, zero_stage: int | None
) -> None:
    for part, (module, optimizer) in zip(PARTS, parts, strict=False):
        prefix = f"{part}."
        own = {name.removeprefix(prefix): tensor for name, tensor in moments.items() if name.startswith(prefix)}
        restore(module, optimizer, own, updates.get(part, 0), zero_stage=zero_stage)


def _optimizer(module: nn.Module, config: Config) -> torch.optim.Optimizer:
    on_cuda = next(module.parameters()).is_cuda
    return build_optimizer(module.parameters(), config.optimizer, fused=on_cuda and config.optimizer.kind == "adam")


def _set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed for this device. It takes seconds to import and reads its accelerator from the environment."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device.type == "cpu":
        # Keeps init_distributed from compiling a shared-memory extension; a killed build would hang later runs.
        deepspeed.ops.__compatible_ops__ = {}
    return deepspeed
