"""How a step's gradients are applied: two DeepSpeed engines, or plain torch optimisers in one process.

Both forms hold the weights, the moments and the learning-rate rule of one upscaler and, with an adversarial loss, one
discriminator; the training loop does not know which it has. Gradients are those of the weights before the step: both
backward passes come first, then the discriminator's update, then the upscaler's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from tecogan_dist.config import Config
from tecogan_dist.errors import UserError
from tecogan_dist.training.optimizers import build_optimizer
from tecogan_dist.training.step import StepResult

PLAIN_FILE = "plain.pt"
"""What :class:`PlainPair` writes into each sub-folder; DeepSpeed writes its own file names."""
FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
SUB_FOLDERS = ("upscaler", "discriminator")
"""Two engines write the same file names, so each has its own sub-folder of a checkpoint."""


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

    def apply(self, result: StepResult, *, learning_rate: float, update_discriminator: bool) -> None:
        """Backward and update. ``learning_rate`` is the generator's; the discriminator's is scaled from it.

        With ``update_discriminator`` false its weights, moments and step count stay untouched.
        """

    def weights(self) -> contextlib.AbstractContextManager[None]:
        """While open, ``upscaler_module`` and ``critic`` hold their complete weights. All workers enter it."""

    def save(self, folder: Path) -> None:
        """Write weights, moments and step counts below ``folder``. All workers call it."""

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote with the same number of workers. All workers call it."""

    def overflows(self) -> int:
        """Updates left out because a gradient was not finite (bf16 only)."""


class PlainPair:
    """One process, torch optimisers: for trials inside a Tune worker, and the twin that DeepSpeed is tested against."""

    def __init__(self, upscaler: nn.Module, discriminator: nn.Module | None, config: Config) -> None:
        self.upscaler: Callable[..., Any] = upscaler
        self.upscaler_module: nn.Module = upscaler
        self.discriminator: Callable[..., Any] | None = discriminator
        self.critic: nn.Module | None = discriminator
        self.zero_stage: int | None = None
        self._scale = config.discriminator.learning_rate_scale
        modules = [upscaler] if discriminator is None else [upscaler, discriminator]
        self._parts = [(module, _optimizer(module, config)) for module in modules]

    def apply(self, result: StepResult, *, learning_rate: float, update_discriminator: bool) -> None:
        # The discriminator comes last in _parts and is updated first.
        losses = [(*self._parts[0], result.generator_loss, learning_rate)]
        if update_discriminator and result.discriminator_loss is not None:
            losses.append((*self._parts[1], result.discriminator_loss, learning_rate * self._scale))
        for _, _, loss, _ in reversed(losses):
            loss.backward()
        for _, optimizer, _, rate in reversed(losses):
            _set_learning_rate(optimizer, rate)
            optimizer.step()
            optimizer.zero_grad()

    @contextlib.contextmanager
    def weights(self) -> Iterator[None]:
        yield

    def save(self, folder: Path) -> None:
        for name, (module, optimizer) in zip(SUB_FOLDERS, self._parts, strict=False):
            (folder / name).mkdir(parents=True, exist_ok=True)
            torch.save({"module": module.state_dict(), "optimizer": optimizer.state_dict()}, folder / name / PLAIN_FILE)

    def load(self, folder: Path) -> None:
        for name, (module, optimizer) in zip(SUB_FOLDERS, self._parts, strict=False):
            state = torch.load(folder / name / PLAIN_FILE, map_location="cpu", weights_only=True)
            module.load_state_dict(state["module"])
            optimizer.load_state_dict(state["optimizer"])

    def overflows(self) -> int:
        return 0


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
            model=module, optimizer=_optimizer(module, config), config=deepspeed_settings(config)
        )
        return engine

    def apply(self, result: StepResult, *, learning_rate: float, update_discriminator: bool) -> None:
        losses = [(self._engines[0], result.generator_loss, learning_rate)]
        if update_discriminator and result.discriminator_loss is not None:
            losses.append((self._engines[1], result.discriminator_loss, learning_rate * self._scale))
        for engine, loss, _ in reversed(losses):
            engine.backward(loss)
        for engine, _, rate in reversed(losses):
            _set_learning_rate(engine.optimizer, rate)
            engine.step()

    @contextlib.contextmanager
    def weights(self) -> Iterator[None]:
        if self.zero_stage != 3:
            yield
            return
        parameters = [parameter for engine in self._engines for parameter in engine.module.parameters()]
        with self._deepspeed.zero.GatheredParameters(parameters):
            yield

    def save(self, folder: Path) -> None:
        for name, engine in zip(SUB_FOLDERS, self._engines, strict=False):
            engine.save_checkpoint(str(folder / name), tag="state")

    def load(self, folder: Path) -> None:
        with _tensors_only():
            for name, engine in zip(SUB_FOLDERS, self._engines, strict=False):
                try:
                    path, _ = engine.load_checkpoint(str(folder / name), tag="state")
                except pickle.UnpicklingError as error:
                    raise UserError(
                        f"{folder / name} is damaged or holds something else than tensors: resume from another "
                        "checkpoint."
                    ) from error
                assert path is not None, f"DeepSpeed found no checkpoint in {folder / name}"

    def overflows(self) -> int:
        return sum(engine.skipped_steps for engine in self._engines)


def deepspeed_settings(config: Config) -> dict[str, Any]:
    """The configuration of one engine."""
    settings: dict[str, Any] = {
        # Only a label: batches are made by our own stream.
        "train_micro_batch_size_per_gpu": config.batch_size // config.cluster.workers,
        "gradient_accumulation_steps": 1,
        # DeepSpeed's default is 1.0; the original does not clip.
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": config.cluster.zero_stage},
        # AdamTF1 works on each element alone, so it may run on a shard.
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }
    if config.cluster.precision == "bf16":
        # engine.forward switches an autocast from outside off unless the engine has its own. The list of modules is
        # for gradients communicated in bf16: empty keeps them in fp32.
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return settings


def _optimizer(module: nn.Module, config: Config) -> torch.optim.Optimizer:
    on_cuda = next(module.parameters()).is_cuda
    return build_optimizer(module.parameters(), config.optimizer, fused=on_cuda and config.optimizer.kind == "adam")


def _set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Make torch.load refuse whatever could execute code, although DeepSpeed asks it not to.

    The three classes are all that DeepSpeed 0.19 stores besides tensors and plain values.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = os.environ.get(FORCE_WEIGHTS_ONLY)
    os.environ[FORCE_WEIGHTS_ONLY] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        if before is None:
            del os.environ[FORCE_WEIGHTS_ONLY]
        else:
            os.environ[FORCE_WEIGHTS_ONLY] = before


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
