"""Which quantities are drawn together, in TensorBoard's custom scalars and in the workspace at W&B alike."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tecogan_dist.metrics.names import COLUMN
from tecogan_dist.runs import quantities
from tecogan_dist.runs.quantities import VALIDATION


@dataclass(frozen=True)
class Chart:
    """Quantities in one chart, by their names in :data:`tecogan_dist.runs.quantities.QUANTITIES`."""

    title: str
    names: tuple[str, ...]
    log: bool = False
    """Whether its axis of values is logarithmic, where that can be said."""


@dataclass(frozen=True)
class Section:
    """Charts that are read together."""

    title: str
    charts: tuple[Chart, ...]


def _measured(*metrics: str) -> tuple[Chart, ...]:
    return tuple(Chart(f"{COLUMN[metric]} of held-out scenes", (f"{VALIDATION}/{metric}",)) for metric in metrics)


LOSSES, DISCRIMINATOR, TEMPORAL, IMAGES = "losses", "discriminator", "temporal metrics", "image metrics"
OPTIMISATION, THROUGHPUT, SYSTEM = "optimisation", "throughput", "system"
SECTIONS = (
    Section(
        LOSSES,
        (
            Chart("losses, weighted", ("loss/*",), log=True),
            Chart("losses as the original lists them", ("raw/*",)),
            Chart("their averages", ("average/*",)),
            Chart("losses of held-out windows", (f"{quantities.VALIDATION_LOSS}/*",)),
        ),
    ),
    Section(
        DISCRIMINATOR,
        (
            Chart("balance", (quantities.BALANCE,)),
            Chart("scores of true and generated triplets", (quantities.REAL, quantities.FAKE)),
            Chart("accuracy", (quantities.ACCURACY,)),
            Chart("updates and skips", (quantities.UPDATES, quantities.SKIPS)),
        ),
    ),
    Section(TEMPORAL, _measured("tof", "tlp")),
    Section(IMAGES, _measured("psnr", "ssim", "lpips")),
    Section(
        OPTIMISATION,
        (
            Chart(
                "norm of gradients before clipping",
                ("grad_norm/flow", "grad_norm/generator", "grad_norm/discriminator"),
                log=True,
            ),
            Chart("change of the weights in a step", (quantities.UPDATE_RATIO,), log=True),
            Chart("learning rate", (quantities.LEARNING_RATE,)),
            Chart("steps left out", (quantities.BAD_STEPS,)),
        ),
    ),
    Section(
        THROUGHPUT,
        (
            Chart("samples a second", (quantities.SAMPLES,)),
            Chart("frames a second", (quantities.FRAMES,)),
            Chart("megapixels a second", (quantities.MEGAPIXELS,)),
            Chart("TFLOP/s of each worker", (quantities.TFLOPS,)),
            Chart("share of what the GPU can do (MFU)", (quantities.MFU,)),
            Chart("seconds of a step", (quantities.STEP_TIME,)),
            Chart(
                "where a step's time goes, in seconds",
                (
                    quantities.DATA_WAIT,
                    quantities.FORWARD,
                    quantities.BACKWARD,
                    quantities.ALL_REDUCE,
                    quantities.OPTIMISER,
                    quantities.CHECKPOINT_WAIT,
                    quantities.VALIDATION_WAIT,
                ),
            ),
        ),
    ),
    Section(
        SYSTEM,
        (
            Chart("GPU memory in GiB", (quantities.GPU_PEAK, quantities.GPU_RESERVED)),
            Chart("times that GPU memory had to be emptied", (quantities.ALLOC_RETRIES,)),
            Chart("memory of the largest worker in GiB", (quantities.HOST_MEMORY,)),
        ),
    ),
)


def pattern(name: str) -> str:
    """A regular expression for a quantity's name, or for all names of a family."""
    return f"^{re.escape(name[:-1])}.+$" if name.endswith("*") else f"^{re.escape(name)}$"
