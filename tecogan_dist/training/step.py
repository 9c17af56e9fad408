"""One step of training: forward, backward, the discriminator's decision, the update.

:class:`TrainingStep` is the only writer of a run's state. It knows nothing of Ray, of files, or of which worker it is
on: the training loop, the parity tests, the tests of the engines and the benchmarks all call it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.config.schema import Config
from tecogan_dist.models.discriminator import forget_bad_statistics
from tecogan_dist.ops.degrade import windows_to_frames
from tecogan_dist.ops.images import to_unit
from tecogan_dist.runs.checkpoints import TrainingState, moved_average
from tecogan_dist.runs.quantities import ALL_REDUCE, BACKWARD, FORWARD, OPTIMISER, VALIDATION_LOSS
from tecogan_dist.training.capturing import CapturedPasses, Passed
from tecogan_dist.training.clock import Clock
from tecogan_dist.training.compiling import CompiledParts
from tecogan_dist.training.engines.ema import WeightAverage
from tecogan_dist.training.engines.pair import EnginePair
from tecogan_dist.training.launching import Launched, launched
from tecogan_dist.training.ledger import Flags, Ledger, Sample, average_over_workers, mean_of
from tecogan_dist.training.objective import Objective, ObjectiveResult
from tecogan_dist.training.recording import Probe, loss_values
from tecogan_dist.training.schedules import fade_in_at, learning_rate_at
from tecogan_dist.weights.vgg import VggWeights, build_vgg

ADVICE = (
    "lower optimizer.learning_rate or the weight of the loss that grew (metrics.jsonl), or check the clips and the "
    "initial weights"
)


class NotFinite(UserError):
    """Numbers grew until they were no numbers. Its text lacks what is kept of the run, which the loop knows."""


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What became of a step."""

    agreed: Flags
    """What all workers agreed on with the step before."""
    losses: dict[str, Tensor]
    """This worker's losses by name, detached 0-dim tensors; means over its micro-batches."""
    updates_discriminator: bool
    problem: str
    """Why the step was left out (a loss or gradient was not finite); empty if it was not."""
    lr_frames: Tensor
    """Of the last micro-batch, (N, T, 3, h, w), 0..1."""
    hr_frames: Tensor
    """(N, T, 3, H, W), -1..1."""
    sr_frames: Tensor
    """What was made of them, around -1..1: T frames, or more of a mirrored sequence. No graph is kept with it."""
    warped: Tensor
    """Each output warped onto the next frame: T - 1, or more."""

    def animations(self) -> dict[str, Tensor]:
        """What the original's summaries show, (N, T, 3, H, W) in 0..1: input, target, output, warped last output."""
        frames = self.lr_frames.shape[1]
        return {
            "lr": self.lr_frames,
            "hr": to_unit(self.hr_frames),
            "generated": to_unit(self.sr_frames[:, :frames]),
            "warped_previous": to_unit(self.warped[:, : frames - 1]),
        }


class TrainingStep:
    """A run's networks, engines and state, one step at a time.

    ``pair`` holds the networks, on ``device``. ``vgg`` is needed exactly when ``loss.perceptual`` is positive.
    ``average`` is the average of weights to be kept, if any.
    """

    def __init__(
        self,
        config: Config,
        pair: EnginePair,
        *,
        device: torch.device,
        vgg: VggWeights | None = None,
        state: TrainingState = TrainingState(),
        average: WeightAverage | None = None,
    ) -> None:
        self.pair, self.average, self.state = pair, average, state
        self._config, self._device = config, device
        bf16 = config.cluster.precision == "bf16"
        network = None if vgg is None else build_vgg(vgg, device, bf16=bf16)
        self._objective = Objective(config, vgg=network)
        self.launched: Launched = launched(config, device)
        self._ledger, self._probe = Ledger(), Probe(config, device, compiled=self.launched == "compiled")
        self._compiled = CompiledParts(pair, network, device) if self.launched == "compiled" else None
        self._captured = CapturedPasses(pair) if self.launched == "captured" else None
        pair.mark = self._probe.phases.end

    def __call__(
        self, windows: Tensor, requests: Callable[[], Flags] = Flags, *, clock: Clock | None = None
    ) -> StepOutcome:
        """Do the next step with this worker's ``windows``, (N, T, H, W, 3) uint8 on the device. All workers call it.

        ``requests`` are asked for when the losses are known and travel with them: with the next step all workers know
        what they agreed on. ``clock``: what the worker waits for is recorded too. Raises :class:`NotFinite` when too
        many steps in a row were left out.
        """
        config, pair, probe, phases = self._config, self.pair, self._probe, self._probe.phases
        self.compile(windows)
        updates, losses = False, []
        phases.begin()
        forward, backward = probe.counting_forward(), probe.not_counting()
        for number in range(config.accumulation):
            # Every so-manyth window: a micro-batch holds the same ones over all workers, however many there are.
            passed = self._pass(windows[number :: config.accumulation], forward)
            result = passed.result
            phases.end(FORWARD)
            if number == 0:
                self.settle()  # the step before: its balance decides, and the GPU has not been waited for
                updates = self.updates_discriminator()
                backward = probe.counting_backward(update_discriminator=updates)
            if not updates:
                result = replace(result, discriminator_loss=None)  # its graph goes, before there is more
            with backward:
                pair.backward(result, update_discriminator=updates, last=number == config.accumulation - 1)
            phases.end(BACKWARD)
            losses.append(result.losses)
        agreed, mean_losses = self._ledger.agreed, mean_of(losses)
        is_recorded = probe.is_recorded(self.state.step + 1)
        norms = probe.before_update(pair, update_discriminator=updates) if is_recorded else {}
        phases.begin()
        finite = pair.update(learning_rate=self._checked_learning_rate(), update_discriminator=updates)
        if finite and self.average is not None:
            self.average.update()
        phases.end(OPTIMISER)
        sample = probe.after_update(pair, norms, clock) if is_recorded else Sample()
        asked = requests()
        phases.begin()
        self._ledger.record(self.state.step, mean_losses, asked, sample=sample)
        phases.end(ALL_REDUCE)
        probe.count(update_discriminator=updates)
        self._advance(updates=updates, finite=finite)
        return StepOutcome(
            agreed=agreed,
            losses=mean_losses,
            updates_discriminator=updates,
            problem="" if finite else self._leave_out(),
            lr_frames=passed.lr_frames,
            hr_frames=passed.hr_frames,
            sr_frames=result.unrolled.sr_frames.detach(),
            warped=result.unrolled.warped.detach(),
        )

    def compile(self, windows: Tensor) -> str:
        """Compile or capture what a step does with windows of this shape, where that is wanted and not done.

        All workers call it. Nothing of the run's state changes. A step does it by itself if this was not called before.
        Returns why steps are not captured after all, where nobody insists on it; else nothing. Raises
        :class:`UserError` for what is insisted on and cannot be done.
        """
        count = self._config.accumulation
        if self._compiled is not None and not self._compiled.on:
            micro_batches = (self.frames(windows[number::count]) for number in range(count))  # not all at a time
            self._compiled.rehearse(micro_batches, self._bare_losses, self._probe)
        if self._captured is None or self._captured.on:
            return ""
        try:
            self._captured.capture(
                windows[::count],
                frames=self.frames,
                losses=self._bare_losses,
                micro_batches=count,
                probe=self._probe,
            )
        except (UserError, torch.OutOfMemoryError) as error:
            if self._config.cluster.compile == "graph":
                raise
            problem = printable(str(error).splitlines()[0], limit=200)
        else:
            return ""
        self._captured, self.launched = None, "singly"
        return f"steps are not captured as CUDA graphs and take longer: {problem}"

    def compiled_again(self) -> bool:
        """Whether anything was compiled since the last call or, at first, since :meth:`compile`: it should not be."""
        return self._compiled is not None and self._compiled.has_more()

    @property
    def learning_rate(self) -> float:
        """Of the generator in the next step."""
        return learning_rate_at(self._config.optimizer, self.state.step)

    @property
    def _fade_in(self) -> float:
        return fade_in_at(self._config.loss, self.state.step)

    def frames(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """``lr_frames`` (N, T, 3, h, w), 0..1, and ``hr_frames`` (N, T, 3, H, W), -1..1, of the stream's windows."""
        return windows_to_frames(windows, degradation=self._config.data.degradation, scale=self._config.model.scale)

    def forward(self, lr_frames: Tensor, hr_frames: Tensor) -> ObjectiveResult:
        """The objective through the engines, in the run's precision."""
        pair = self.pair
        return self._losses(lr_frames, hr_frames, pair.upscaler, pair.discriminator, update_statistics=True)

    def _pass(self, windows: Tensor, counting: contextlib.AbstractContextManager[object]) -> Passed:
        """A micro-batch's forward passes, through the engines or captured; ``counting`` goes around them."""
        if self._captured is not None:
            return self._captured(windows, self._fade_in)
        frames = self.frames(windows)
        with counting:
            return Passed(*frames, self.forward(*frames))

    def _bare_losses(
        self,
        lr_frames: Tensor,
        hr_frames: Tensor,
        fade_in: float | Tensor | None = None,
        *,
        update_statistics: bool = True,
    ) -> ObjectiveResult:
        """The objective beside the engines, which take no notice; with another fade-in than the next step's, if any."""
        networks = self.pair.upscaler_module, self.pair.discriminator_module
        return self._losses(lr_frames, hr_frames, *networks, fade_in=fade_in, update_statistics=update_statistics)

    def _losses(
        self,
        lr_frames: Tensor,
        hr_frames: Tensor,
        upscaler: Callable[..., Any],
        discriminator: Callable[..., Any] | None,
        *,
        fade_in: float | Tensor | None = None,
        update_statistics: bool,
    ) -> ObjectiveResult:
        with self._autocast():
            return self._objective(
                upscaler=upscaler,
                discriminator=discriminator,
                discriminator_module=self.pair.discriminator_module,
                lr_frames=lr_frames,
                hr_frames=hr_frames,
                fade_in=self._fade_in if fade_in is None else fade_in,
                update_statistics=update_statistics,
            )

    def updates_discriminator(self) -> bool:
        """The decision: the discriminator is updated unless it is too far ahead (lib/Teco.py, Dbalance)."""
        threshold = self._config.discriminator.balance_threshold
        return self.pair.discriminator is not None and self.state.balance_average < threshold

    def settle(self) -> None:
        """Take in the losses of the last step, which are on their way until then. Waits for the device."""
        losses = self._ledger.settle()
        if not losses:
            return
        state, values = self.state, loss_values(losses, self._config, step=self._ledger.settled)
        self.state = replace(state, records=state.records.with_step(losses, values))
        if "balance" in losses:
            self.state = replace(self.state, balance_average=moved_average(state.balance_average, losses["balance"]))

    def is_recorded(self) -> bool:
        """Whether the step that was done last makes a record."""
        return self._probe.is_recorded(self.state.step)

    def take_record(self, clock: Clock) -> dict[str, float]:
        """What is recorded after a step that :meth:`is_recorded`, by name."""
        self.settle()
        values = self._probe.values(self.state, self._ledger.gathered, clock)
        self.state = replace(self.state, records=self.state.records.begun_anew())
        return values

    @torch.no_grad()
    def validation_losses(self, windows: Tensor) -> dict[str, float]:
        """Losses of held-out ``windows``, (N, T, H, W, 3) uint8, averaged over all workers. All workers call it.

        Nothing is trained and no statistics are updated.
        """
        lr_frames, hr_frames = self.frames(windows.to(self._device))
        result = self._bare_losses(lr_frames, hr_frames, update_statistics=False)
        means = average_over_workers(result.losses).tolist()
        return {f"{VALIDATION_LOSS}/{name}": mean for name, mean in zip(result.losses, means, strict=True)}

    def _advance(self, *, updates: bool, finite: bool) -> None:
        state, has_discriminator = self.state, self.pair.discriminator is not None
        self.state = replace(
            state,
            step=state.step + 1,
            discriminator_updates=state.discriminator_updates + (updates and finite),
            discriminator_skips=state.discriminator_skips + (has_discriminator and not updates),
            bad_steps=state.bad_steps + (not finite),
            bad_steps_in_a_row=0 if finite else state.bad_steps_in_a_row + 1,
        )

    def _leave_out(self) -> str:
        """What was not finite in the step that was done last."""
        if self.pair.discriminator_module is not None:
            forget_bad_statistics(self.pair.discriminator_module)
        self.settle()
        problem = self._ledger.problem or f"a gradient was not finite in step {self.state.step}"
        if self.state.bad_steps_in_a_row >= self._config.optimizer.max_bad_steps:
            whose = "" if self._ledger.problem else f" (of the {' and the '.join(self.pair.not_finite)})"
            number = self.state.bad_steps_in_a_row
            raise NotFinite(f"{number} steps in a row were not finite, the last time {problem}{whose}: {ADVICE}")
        return problem

    def _checked_learning_rate(self) -> float:
        """That of the next step. Raises :class:`NotFinite` where a weight, of float32, could not move by it."""
        rate = self.learning_rate
        largest = rate * max(1.0, self._config.discriminator.learning_rate_scale)
        if not largest <= torch.finfo(torch.float32).max:
            raise NotFinite(f"the learning rate of step {self.state.step + 1} would be {largest:.3g}: {ADVICE}")
        return rate

    def _autocast(self) -> torch.autocast:
        enabled = self._config.cluster.precision == "bf16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=enabled)
