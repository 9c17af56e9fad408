"""A training step bound to its networks, device and precision; and the same losses on validation windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tecogan_dist.config import Config, fade_in_at
from tecogan_dist.models.recurrent import Unrolled
from tecogan_dist.ops import to_unit, windows_to_frames
from tecogan_dist.training.engines import EnginePair
from tecogan_dist.training.ledger import average_over_workers
from tecogan_dist.training.step import StepResult, TrainingStep
from tecogan_dist.vgg_weights import VggWeights, build_vgg


def prepare_device(device: torch.device, config: Config) -> None:
    """Process-wide settings of torch. A CPU worker uses as many threads as CPUs are reserved for it."""
    if device.type == "cpu":
        torch.set_num_threads(config.cluster.cpus_per_worker)
        return
    torch.cuda.set_device(device)
    # fp32 means fp32: cuDNN's default of TF32 has 10 bits of mantissa. Who wants speed has bf16.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def to_device(windows: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The same windows on the device. On CUDA the copy runs beside the step that was launched before."""
    if device.type == "cpu":
        yield from windows
        return
    copying = torch.cuda.Stream(device)
    for batch in windows:
        with torch.cuda.stream(copying):
            moved = batch.pin_memory().to(device, non_blocking=True)
        torch.cuda.current_stream(device).wait_stream(copying)
        moved.record_stream(torch.cuda.current_stream(device))
        yield moved


def training_frames(windows: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """``lr_frames`` (N, T, 3, h, w), 0..1, and ``hr_frames`` (N, T, 3, H, W), -1..1, of the stream's windows.

    The only place that says how a run's low resolution comes about (:func:`ops.windows_to_frames`).
    """
    return windows_to_frames(windows, degradation=config.data.degradation, scale=config.model.scale)


class Objective:
    """Frames in, :class:`StepResult` out, in the run's precision."""

    def __init__(self, config: Config, pair: EnginePair, device: torch.device, vgg_weights: VggWeights | None) -> None:
        vgg = None
        if vgg_weights is not None:
            vgg = build_vgg(vgg_weights).to(device)
        self._config = config
        self._pair = pair
        self._device = device
        self._step = TrainingStep(config, vgg=vgg)

    def __call__(self, lr_frames: Tensor, hr_frames: Tensor, *, step: int) -> StepResult:
        """The step with this 0-based number, through the engines. Shapes and ranges as :class:`TrainingStep`'s."""
        pair = self._pair
        return self._forward(lr_frames, hr_frames, step, upscaler=pair.upscaler, discriminator=pair.discriminator)

    @torch.no_grad()
    def validate(self, windows: Tensor, *, step: int) -> dict[str, float]:
        """Losses of ``windows`` (N, T, H, W, 3) uint8, averaged over all workers, named ``validation/...``.

        Nothing is trained and no statistics are updated. All workers call it.
        """
        lr_frames, hr_frames = training_frames(windows.to(self._device), self._config)
        pair = self._pair
        result = self._forward(
            lr_frames, hr_frames, step, upscaler=pair.upscaler_module, discriminator=pair.critic, training=False
        )
        means = average_over_workers(result.losses).tolist()
        return {f"validation/{name}": mean for name, mean in zip(result.losses, means, strict=True)}

    def _forward(
        self,
        lr_frames: Tensor,
        hr_frames: Tensor,
        step: int,
        *,
        upscaler: Callable[..., Unrolled],
        discriminator: Callable[..., tuple[Tensor, list[Tensor]]] | None,
        training: bool = True,
    ) -> StepResult:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.cluster.precision == "bf16"):
            return self._step(
                upscaler=upscaler,
                discriminator=discriminator,
                critic=self._pair.critic,
                lr_frames=lr_frames,
                hr_frames=hr_frames,
                fade_in=fade_in_at(self._config.loss, step),
                update_statistics=training,
            )


def animations_of(lr_frames: Tensor, hr_frames: Tensor, result: StepResult) -> dict[str, Tensor]:
    """What the original's summaries show, (N, T, 3, H, W) in 0..1: input, target, output, warped previous output."""
    frames = lr_frames.shape[1]
    return {
        "lr": lr_frames,
        "hr": to_unit(hr_frames),
        "generated": to_unit(result.unrolled.sr_frames[:, :frames]),
        "warped_previous": to_unit(result.unrolled.warped[:, : frames - 1]),
    }
