"""What of a step is recorded, and under which names (:mod:`tecogan_dist.runs.quantities`)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from tecogan_dist.config.schema import Config
from tecogan_dist.runs.checkpoints import TrainingState
from tecogan_dist.runs.quantities import (
    ACCURACY,
    ALL_REDUCE,
    ALLOC_RETRIES,
    AVERAGE,
    BACKWARD,
    BAD_STEPS,
    BALANCE,
    DATA_WAIT,
    FAKE,
    FORWARD,
    FRAMES,
    GPU_PEAK,
    GPU_RESERVED,
    HOST_MEMORY,
    LEARNING_RATE,
    LOSS,
    MEGAPIXELS,
    MFU,
    OPTIMISER,
    RAW,
    REAL,
    SAMPLES,
    SKIPS,
    STEP_TIME,
    TFLOPS,
    UPDATE_RATIO,
    UPDATES,
)
from tecogan_dist.runs.records import makes_record
from tecogan_dist.training.clock import Clock, Phases
from tecogan_dist.training.device import memory_use
from tecogan_dist.training.engines.pair import EnginePair
from tecogan_dist.training.ledger import Gathered, Sample
from tecogan_dist.training.operations import Operations, peak_tflops
from tecogan_dist.training.schedules import learning_rate_at, loss_weights_at

PHASES = (FORWARD, BACKWARD, ALL_REDUCE, OPTIMISER)
LARGEST = (DATA_WAIT, GPU_PEAK, GPU_RESERVED, ALLOC_RETRIES, HOST_MEMORY)
"""Of these the worker with the most is recorded, of others the mean."""
NORM, CHANGE, SIZE = "grad_norm", "change", "size"
DISCRIMINATION = {"real_score": REAL, "fake_score": FAKE, "accuracy": ACCURACY}


def loss_values(losses: Mapping[str, float], config: Config, *, step: int) -> dict[str, float]:
    """The raw losses of the step with this 0-based number, by the names that their means are recorded under."""
    weights = loss_weights_at(config.loss, step)
    values = {f"{LOSS}/{name}": weight * losses[name] for name, weight in weights.items() if name in losses}
    values |= {f"{RAW}/{name}": value for name, value in losses.items() if name != "accuracy"}
    return values | {name: losses[loss] for loss, name in DISCRIMINATION.items() if loss in losses}


class Probe:
    """Measures a worker's steps. Most is only measured in a step that is recorded; nothing waits for the device.

    ``compiled``: networks have gone through torch.compile.
    """

    def __init__(self, config: Config, device: torch.device, *, compiled: bool = False) -> None:
        self._config, self._device = config, device
        self.phases = Phases(device)
        self._operations = Operations(compiled=compiled)
        self._counted, self._counted_steps = 0, 0
        self._peak = peak_tflops(device, precision=config.cluster.precision)
        self._peak_memory = 0.0

    def is_recorded(self, number: int) -> bool:
        """Whether a record is made after this many steps."""
        return makes_record(number, self._config)

    def not_counting(self) -> contextlib.AbstractContextManager[object]:
        """Nothing around a pass."""
        return contextlib.nullcontext()

    def counting_forward(self) -> contextlib.AbstractContextManager[object]:
        """Around each forward pass of a step; ask once a step."""
        return self._operations.counting_forward() or self.not_counting()

    def counting_backward(self, *, update_discriminator: bool) -> contextlib.AbstractContextManager[object]:
        """Around each backward pass of a step; ask once a step."""
        counting = self._operations.counting_backward(update_discriminator=update_discriminator)
        return counting or self.not_counting()

    @contextlib.contextmanager
    def remembering_memory(self) -> Iterator[None]:
        """Around a step's passes whose memory is used again in every step, but is in no tensor of torch's then."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        yield
        self._peak_memory = memory_use(self._device).get(GPU_PEAK, 0.0)

    def before_update(self, pair: EnginePair, *, update_discriminator: bool) -> dict[str, Tensor]:
        """Norms of the gradients, and :meth:`after_update`'s weights to be compared with, in a recorded step."""
        norms = pair.gradient_norms(update_discriminator=update_discriminator)
        self._weights = [weight.clone() for weight in pair.own_weights()]
        return {f"{NORM}/{name}": norm for name, norm in norms.items()}

    def after_update(self, pair: EnginePair, norms: dict[str, Tensor], clock: Clock | None) -> Sample:
        """What this worker has measured in a recorded step."""
        changes = torch._foreach_sub(pair.own_weights(), self._weights)
        on_device = norms | {CHANGE: _square(changes), SIZE: _square(self._weights)}
        self._weights = []
        times = dict.fromkeys(PHASES, math.nan) | self.phases.take()
        waited = {} if clock is None else {DATA_WAIT: clock.take_wait()}
        memory = memory_use(self._device)
        if GPU_PEAK in memory:
            memory[GPU_PEAK] = max(memory[GPU_PEAK], self._peak_memory)
        return Sample(on_device, times | waited | memory)

    def count(self, *, update_discriminator: bool) -> None:
        """A step is done."""
        self.phases.finish()
        self._counted += self._operations.of_step(update_discriminator=update_discriminator)
        self._counted_steps += 1

    def values(self, state: TrainingState, gathered: Gathered, clock: Clock) -> dict[str, float]:
        """The record after a step: means of losses since the last one, and all that was measured."""
        config = self._config
        values = state.records.means()
        values |= {f"{AVERAGE}/{name}": value for name, value in state.records.averages.items() if name != "accuracy"}
        if "balance" in state.records.averages:
            values |= {
                BALANCE: state.balance_average,
                UPDATES: state.discriminator_updates,
                SKIPS: state.discriminator_skips,
            }
        values[LEARNING_RATE] = learning_rate_at(config.optimizer, state.step - 1)
        values[BAD_STEPS] = state.bad_steps
        values |= _gathered_values(gathered)
        operations, counted_steps, self._counted, self._counted_steps = self._counted, self._counted_steps, 0, 0
        steps, seconds = clock.take()
        values |= seconds | throughput(config, seconds[STEP_TIME])
        if DATA_WAIT in values:
            values[DATA_WAIT] /= steps
        if operations:
            values[TFLOPS] = operations / counted_steps / seconds[STEP_TIME] / 1e12
            if self._peak is not None:
                values[MFU] = values[TFLOPS] / self._peak
        return values


def throughput(config: Config, seconds: float) -> dict[str, float]:
    """What is done a second, over all workers, when a step takes so many ``seconds``."""
    samples = config.batch_size / seconds
    frames = samples * config.data.sequence_length
    side = config.data.crop_size * config.model.scale
    return {SAMPLES: samples, FRAMES: frames, MEGAPIXELS: frames * side**2 / 1e6}


def _gathered_values(gathered: Gathered) -> dict[str, float]:
    values = dict(gathered.means)
    if CHANGE in values:
        change, size = values.pop(CHANGE), values.pop(SIZE)
        values[UPDATE_RATIO] = math.sqrt(change / size) if size else math.nan
    for name, numbers in gathered.by_worker.items():
        known = [number for number in numbers if not math.isnan(number)]
        if known:
            values[name] = max(known) if name in LARGEST else sum(known) / len(known)
    return values


def _square(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(list(tensors))).square().sum()
