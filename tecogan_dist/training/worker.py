"""The training loop of one worker, from the stream to checkpoints and records.

:func:`train` is the whole of it. It runs in a Ray Train worker (:mod:`ray_worker`), in a plain process and in a Tune
trial; what differs between them is behind :class:`Reporter`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from tecogan_dist.config import learning_rate_at
from tecogan_dist.data.stream import training_stream
from tecogan_dist.data.windows import window_config
from tecogan_dist.errors import UserError
from tecogan_dist.metrics.perceptual import Trunk
from tecogan_dist.models.discriminator import forget_bad_statistics
from tecogan_dist.training.ledger import Clock, Ledger, mean_of
from tecogan_dist.training.objective import Objective, animations_of, prepare_device, to_device, training_frames
from tecogan_dist.training.reporter import Reporter
from tecogan_dist.training.saving import CheckpointWriter, take_snapshot
from tecogan_dist.training.state import TrainingState
from tecogan_dist.training.task import TrainingTask, begin
from tecogan_dist.training.tracking import Tracker
from tecogan_dist.training.validation import PREFIX, Validator, validation_windows
from tecogan_dist.vgg_weights import VggWeights

Stream = Callable[..., Iterator[Tensor]]
"""Called as :func:`training_stream` is; yields this worker's windows of each step."""


@dataclass(frozen=True)
class Networks:
    """Weights of networks that are not trained, as plain values."""

    vgg: VggWeights | None = None
    """Needed when ``loss.perceptual`` is positive."""
    lpips: Trunk | None = None
    """None: LPIPS and tLP are not measured."""


def train(
    task: TrainingTask,
    *,
    device: torch.device,
    reporter: Reporter,
    networks: Networks | None = None,
    stream: Stream = training_stream,
    step_done: Callable[[], None] = lambda: None,
) -> TrainingState:
    """Train to ``config.steps`` and return where the run is then; the last step always leaves a checkpoint.

    With a process group of torch.distributed this is one of its workers, on DeepSpeed; without one it is alone, on
    plain torch optimisers. Raises :class:`UserError` when too many steps in a row had losses or gradients that are not
    finite, and when the last checkpoint cannot be written.
    """
    config, every = task.config, task.config.tracking
    networks = networks or Networks()
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    prepare_device(device, config)
    beginning = begin(task, device)
    pair, state, average = beginning.pair, beginning.state, beginning.average
    objective = Objective(config, pair, device, networks.vgg)
    ledger, clock = Ledger(state.balance_average), Clock()
    validator = Validator(task, device, networks.lpips, rank=rank, workers=workers)
    first_step, bad_in_a_row = state.step, 0
    windows = stream(
        task.data,
        data=window_config(config),
        seed=config.seed,
        batch_size=config.batch_size,
        rank=rank,
        world_size=workers,
        first_step=first_step,
        steps=config.steps - first_step,
        scenes=task.training_scenes,
    )
    with contextlib.ExitStack() as open_until_the_end:
        tracker = writer = None
        if rank == 0:
            tracker = open_until_the_end.enter_context(
                Tracker(task.output, config, first_step=first_step, say=reporter.say)
            )
            writer = CheckpointWriter(task.output, config, say=reporter.say)
            reporter.say(beginning.sentence)
        for batch in clock.waiting(to_device(windows, device)):
            if tracker and state.step == first_step:
                who = f"{workers} worker{'s' if workers > 1 else ''}"
                reporter.say(f"step {state.step + 1} begins on {who}, the first windows took {clock.first_wait:.0f} s")
            update, losses = False, []
            for number in range(1, config.accumulation + 1):
                # Every so-manyth window: so a part holds the same ones over all workers, however many there are.
                part = batch[number - 1 :: config.accumulation]
                lr_frames, hr_frames = training_frames(part, config)
                result = objective(lr_frames, hr_frames, step=state.step)
                if number == 1:
                    ledger.settle()  # the step before: its balance decides, and the GPU is not waited for
                    has_discriminator = result.discriminator_loss is not None
                    update = has_discriminator and ledger.balance_average < config.discriminator.balance_threshold
                pair.backward(result, update_discriminator=update, last=number == config.accumulation)
                losses.append(result.losses)
            stop, save, measured = ledger.stop, ledger.save, ledger.measured
            ledger.record(
                state.step,
                mean_of(losses),
                stop=bool(tracker) and reporter.asked_to_stop(),
                save=bool(tracker) and reporter.asked_to_save() and not save,  # what will be saved is not wished again
                measured=validator.done and not measured,
            )
            learning_rate = learning_rate_at(config.optimizer, state.step)
            finite = pair.update(learning_rate=learning_rate, update_discriminator=update)
            if finite and average is not None:
                average.update()
            bad_in_a_row = 0 if finite else bad_in_a_row + 1
            state = replace(
                state,
                step=state.step + 1,
                discriminator_updates=state.discriminator_updates + (update and finite),
                discriminator_skips=state.discriminator_skips + (has_discriminator and not update),
                bad_steps=state.bad_steps + (not finite),
            )
            if not finite:
                if pair.critic is not None:
                    forget_bad_statistics(pair.critic)
                ledger.settle()
                reason = ledger.not_finite or f"a gradient was not finite in step {state.step}"
                if bad_in_a_row >= config.optimizer.max_bad_steps:
                    raise UserError(
                        f"{bad_in_a_row} steps in a row were not finite, the last time {reason}: lower "
                        "optimizer.learning_rate or the weight of the loss that grew (metrics.jsonl), and go on from "
                        "the last checkpoint."
                    )
                if tracker:
                    reporter.say(f"warning: step {state.step} is left out: {reason}")
            clock.count_step()
            step_done()
            if measured:
                _collect(validator, tracker, writer, reporter)
            last = stop or state.step == config.steps

            if last or state.step % every.display_every == 0:
                ledger.settle()
                metrics = ledger.for_display.take() | clock.take(config.batch_size)
                metrics |= {"learning_rate": learning_rate, "bad_steps": state.bad_steps}
                if has_discriminator:
                    metrics |= {
                        "balance_average": ledger.balance_average,
                        "discriminator_updates": state.discriminator_updates,
                        "discriminator_skips": state.discriminator_skips,
                    }
                if tracker:
                    tracker.metrics(state.step, metrics)
                    reporter.log(state.step, metrics)
            if last or state.step % every.summary_every == 0:
                ledger.settle()
                scalars = ledger.for_summary.take() | {"learning_rate": learning_rate}
                if task.validation_scenes:
                    number = state.step // every.summary_every
                    held_out = validation_windows(task, number=number, rank=rank, workers=workers)
                    scalars |= objective.validate(held_out, step=state.step)
                if tracker:
                    tracker.summary(state.step, scalars, animations_of(lr_frames, hr_frames, result))
            # What is not finite now may have harmed weights before: nothing is kept until it is over.
            if (last or save or state.step % every.save_every == 0) and not bad_in_a_row:
                ledger.settle()
                _collect(validator, tracker, writer, reporter)  # a score decides which checkpoints are dropped now
                state = replace(state, balance_average=ledger.balance_average)
                snapshot = take_snapshot(state, pair, average)
                if writer and tracker:
                    clock.count_saving(writer.save(snapshot))
                    if save:
                        writer.wait()
                        reporter.saved()
                    tracker.publish()
            if validator.scenes and (last or state.step % (every.validate_every or every.save_every) == 0):
                _collect(validator, tracker, writer, reporter)
                validator.start(state.step, pair, average)
                step_done()
            if last:
                _collect(validator, tracker, writer, reporter)
                break
        if writer and tracker:
            writer.finish()
            tracker.publish()
            if state.step < config.steps:
                reporter.say(f"stopped after step {state.step}: the same command goes on from there")
    return state


def _collect(
    validator: Validator, tracker: Tracker | None, writer: CheckpointWriter | None, reporter: Reporter
) -> None:
    """Report what was measured of held-out scenes, if something was. All workers call it."""
    collected = validator.collect()
    if collected is None or tracker is None or writer is None:
        return
    step, measured = collected
    writer.score(step, measured)
    named = {f"{PREFIX}{name}": value for name, value in measured.items()}
    tracker.metrics(step, named)
    tracker.summary(step, named, {})
    reporter.say(
        f"step {step}: held-out scenes  " + "  ".join(f"{name} {value:.4g}" for name, value in measured.items())
    )
