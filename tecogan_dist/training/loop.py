"""The training loop of one worker, from the stream to checkpoints and records.

:func:`train` is the whole of it. It runs in a Ray Train worker (:mod:`tecogan_dist.training.ray.worker`), in a plain
process and in a Tune trial; what differs between them is behind :class:`Reporter`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.state_dicts import not_finite
from tecogan_dist.data.stream.stream import training_stream
from tecogan_dist.data.stream.windows import window_config
from tecogan_dist.models.probe import gives_pictures
from tecogan_dist.runs.checkpoints import TrainingState, newest_checkpoint
from tecogan_dist.runs.quantities import CHECKPOINT_WAIT, VALIDATION_WAIT
from tecogan_dist.runs.records import read_scores
from tecogan_dist.runs.writing import Snapshot
from tecogan_dist.tracking.wandb_records import END_SECONDS
from tecogan_dist.training.begin import begin, find_origin, the_first_workers
from tecogan_dist.training.clock import Clock
from tecogan_dist.training.device import prepare_device, to_device
from tecogan_dist.training.ledger import Flags
from tecogan_dist.training.profiling import Profiler
from tecogan_dist.training.rank_zero import RankZero, SilentRank
from tecogan_dist.training.reporter import Reporter
from tecogan_dist.training.saving import take_snapshot
from tecogan_dist.training.step import ADVICE, NotFinite
from tecogan_dist.training.task import Networks, TrainingTask
from tecogan_dist.training.validation import Validator

Stream = Callable[..., Iterator[Tensor]]
"""Called as :func:`training_stream` is; yields this worker's windows of each step."""
PREPARING = {
    "compiled": "compiling the networks, once: this takes minutes",
    "captured": "capturing a step as CUDA graphs, once: this takes seconds",
}
LAST_SECONDS = 300.0 + END_SECONDS
"""For which a worker that has ended, well or not, may be bringing its last records to the output and to W&B."""


def train(
    task: TrainingTask,
    *,
    device: torch.device,
    reporter: Reporter,
    networks: Networks = Networks(),
    stream: Stream = training_stream,
    heartbeat: Callable[[float], None] = lambda _: None,
) -> TrainingState:
    """Train to ``config.steps`` and return where the run is then; the last step leaves a checkpoint.

    With a process group of torch.distributed this is one of its workers, on DeepSpeed; without one it is alone, on
    plain torch optimisers. ``heartbeat`` is called whenever the worker has got further, with the seconds that it may be
    quiet beyond the usual. Raises :class:`UserError` when too many steps in a row had losses or gradients that are not
    finite, when the last weights are of no use, and when the last checkpoint cannot be written.
    """
    config, every, clock = task.config, task.config.tracking, Clock()
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    prepare_device(device, config)
    origin, first_step = find_origin(task, device)
    batches = _windows(task, stream, first_step, rank=rank, workers=workers)  # they are made from now on
    step, where = begin(task, device, networks.vgg, origin=origin)
    profiler = Profiler(task.profile, task.output, device=device, rank=rank, first_step=first_step, say=reporter.say)
    with contextlib.ExitStack() as stack:
        zero = _zero(task, reporter, first_step=first_step, device=device)
        stack.enter_context(zero)
        stack.callback(heartbeat, LAST_SECONDS)
        stack.enter_context(profiler)
        zero.say(where)
        validator = stack.enter_context(
            Validator(task, device, networks.lpips, rank=rank, workers=workers, report=zero.measured, look=zero.look)
        )
        if the_first_workers(_lacks_score(task, first_step), device):
            validator.start(step)
        on_device = to_device(batches, device)
        for windows in clock.timed(on_device, on_first=lambda seconds: zero.begins(first_step, workers, seconds)):
            if step.state.step == first_step and step.launched != "singly":
                zero.say(PREPARING[step.launched])
                with clock.stopped():
                    problem = step.compile(windows)
                if problem:
                    zero.say(f"warning: {problem}")

            # A step.
            try:
                with profiler.step(step.state.step + 1):
                    outcome = step(windows, lambda: Flags(*zero.requests(), measured=validator.done), clock=clock)
            except NotFinite as error:
                raise UserError(f"{error}; {_kept(task, zero, device)}.") from error
            number = step.state.step
            clock.count_step()
            heartbeat(0.0)
            if outcome.problem:
                zero.say(f"warning: step {number} is left out: {outcome.problem}")
            if step.compiled_again():
                zero.say(f"warning: networks were compiled again in step {number}: it is to be reported")

            # What the workers agreed on: to end, to save, to take in what was measured.
            agreed = outcome.agreed
            ends = number == config.steps
            last = agreed.stop or ends
            if agreed.measured:
                validator.collect()

            # A record; once in a while with the losses of held-out windows, and moving pictures.
            is_summary = ends or number % every.summary_every == 0
            with clock.holding_up(VALIDATION_WAIT):
                window_losses = validator.window_losses(step) if is_summary else {}
            if step.is_recorded():
                zero.progress(number, step.take_record(clock) | window_losses)
            elif window_losses:
                zero.measured_windows(number, window_losses)
            if is_summary:
                zero.animations(number, outcome)

            # A checkpoint. What is not finite now may have harmed weights before: until that is over none is written,
            # but at the end, where the last good state is the one to keep.
            is_time = agreed.save or number % every.save_every == 0
            if last or (is_time and not step.state.bad_steps_in_a_row):
                with clock.holding_up(VALIDATION_WAIT):
                    if not agreed.stop:  # which may be in a hurry
                        validator.collect()  # a score decides which checkpoints are dropped now
                with clock.holding_up(CHECKPOINT_WAIT):
                    step.settle()
                    snapshot = take_snapshot(step.state, step.pair, step.average)
                    problem = the_first_workers(_unusable(snapshot, task) if rank == 0 else "", device)
                    if problem and last:
                        kept = _kept(task, zero, device)
                        raise UserError(f"the run ends without a checkpoint of step {number}: {problem}; {kept}.")
                    if problem:
                        zero.say(f"warning: no checkpoint of step {number} is written: {problem}")
                    else:
                        zero.save(snapshot, asked=agreed.save)

            # The upscaler is measured on held-out scenes, beside the steps that follow; not where a run is interrupted.
            if ends or number % (every.validate_every or every.save_every) == 0:
                with clock.holding_up(VALIDATION_WAIT):
                    validator.start(step)
                heartbeat(0.0)

            if last:
                break
        heartbeat(0.0)
        validator.collect()
        heartbeat(0.0)
        zero.finish(step.state)
    return step.state


def _zero(task: TrainingTask, reporter: Reporter, *, first_step: int, device: torch.device) -> RankZero | SilentRank:
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if rank:
        return SilentRank()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return RankZero(task, reporter, first_step=first_step, workers=workers, device=name)


def _unusable(snapshot: Snapshot, task: TrainingTask) -> str:
    """Why the weights are not worth a checkpoint, half a sentence; empty if they are."""
    state = snapshot.state
    if state.step == task.config.steps and state.bad_steps == state.step:
        return f"not one of its steps was finite: {ADVICE}"
    for weights in (snapshot.upscaler, snapshot.average or {}, snapshot.discriminator or {}):
        bad = not_finite(weights)
        if bad is not None:
            return f"{bad}: {ADVICE}"
    for upscaler in filter(None, (snapshot.upscaler, snapshot.average)):
        if not gives_pictures(upscaler, task.config.model):
            return f"the upscaler's weights have become so large that it gives no picture: {ADVICE}"
    return ""


def _kept(task: TrainingTask, zero: RankZero | SilentRank, device: torch.device) -> str:
    """What there is of a run that cannot go on, half a sentence. All workers call it."""
    zero.settle()
    newest = the_first_workers(newest_checkpoint(task.output), device)
    return "no checkpoint is written yet" if newest is None else f"the newest checkpoint, {newest}, is kept"


def _lacks_score(task: TrainingTask, step: int) -> bool:
    """Whether the run ended its last attempt between a checkpoint that is to be measured and its score."""
    every = task.config.tracking
    is_measured = step == task.config.steps or step % (every.validate_every or every.save_every) == 0
    return bool(step and is_measured and newest_checkpoint(task.output)) and step not in read_scores(task.output)


def _windows(task: TrainingTask, stream: Stream, first_step: int, *, rank: int, workers: int) -> Iterator[Tensor]:
    config = task.config
    return stream(
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
