"""The patterns that people who train TecoGAN should know: what each is called, how bad it is, and what to change.

``training/NORMAL.md`` explains the healthy curves and says the same sentences; a test keeps both in step, and another
one looks up each setting in ``config/schema.py``. Who looks for them is :mod:`tecogan_dist.runs.patterns`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["note", "warning", "failure"]
"""note: worth knowing. warning: the run could be better or faster. failure: it will hardly become what was wanted."""
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "failure")
"""From the mildest on."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A known pattern."""

    name: str
    severity: Severity
    change: str
    """One sentence: what to change, settings by their dotted names."""
    settings: tuple[str, ...]
    """The settings that it names."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A known pattern that was found in a run's records."""

    kind: Kind
    first: int
    """Step of the first record that shows it ..."""
    last: int
    """... and of the last one."""
    seen: str
    """One sentence: what is seen, with its figures."""

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def severity(self) -> Severity:
        return self.kind.severity

    @property
    def change(self) -> str:
        """One sentence: what to change, settings by their dotted names."""
        return self.kind.change

    @property
    def advice(self) -> str:
        """Both sentences, for a terminal or a page."""
        return f"{self.seen} {self.change}"


DISCRIMINATOR_WINS = Kind(
    name="discriminator wins",
    severity="warning",
    change="Lower discriminator.learning_rate_scale, for instance to 0.3, or begin from a longer trained FRVSR "
    "(initial_weights).",
    settings=("discriminator.learning_rate_scale", "initial_weights"),
)
CANNOT_TELL = Kind(
    name="discriminator cannot tell",
    severity="warning",
    change="If the previews still look blurred, raise discriminator.learning_rate_scale; if they look real, it has "
    "nothing left to teach, and the run can end.",
    settings=("discriminator.learning_rate_scale",),
)
COLLAPSE = Kind(
    name="collapse",
    severity="failure",
    change="Begin a new run from a checkpoint before it (tecogan train --resume), with half the "
    "optimizer.learning_rate or with optimizer.gradient_clipping.",
    settings=("optimizer.learning_rate", "optimizer.gradient_clipping"),
)
SATURATED = Kind(
    name="scores saturated",
    severity="failure",
    change="Begin a new run from a checkpoint before it (tecogan train --resume), with a lower loss.adversarial and "
    "discriminator.learning_rate_scale, or let loss.fade_in_start and loss.fade_in_increment bring the discriminator "
    "in slowly.",
    settings=(
        "loss.adversarial",
        "discriminator.learning_rate_scale",
        "loss.fade_in_start",
        "loss.fade_in_increment",
    ),
)
SPIKES = Kind(
    name="loss spikes",
    severity="note",
    change="Set optimizer.gradient_clipping to a few times the usual grad_norm; if they go on, lower "
    "optimizer.learning_rate and look for damaged clips.",
    settings=("optimizer.gradient_clipping", "optimizer.learning_rate"),
)
DIVERGENCE = Kind(
    name="divergence",
    severity="failure",
    change="Lower optimizer.learning_rate, or the weight of what pulls the other way (loss.adversarial, "
    "loss.perceptual).",
    settings=("optimizer.learning_rate", "loss.adversarial", "loss.perceptual"),
)
LEFT_OUT = Kind(
    name="steps left out",
    severity="warning",
    change="If it goes on, lower optimizer.learning_rate or set optimizer.gradient_clipping, and with "
    "cluster.precision bf16 try fp32.",
    settings=("optimizer.learning_rate", "optimizer.gradient_clipping", "cluster.precision"),
)
VANISHED = Kind(
    name="gradients vanish",
    severity="failure",
    change="Begin anew with a lower optimizer.learning_rate or other initial_weights: a network whose units have died "
    "does not come back.",
    settings=("optimizer.learning_rate", "initial_weights"),
)
CLIPPED = Kind(
    name="clipping always on",
    severity="note",
    change="Raise optimizer.gradient_clipping above the usual norm, so that it holds back the rare step only.",
    settings=("optimizer.gradient_clipping",),
)
UPDATES_LARGE = Kind(
    name="updates too large",
    severity="warning",
    change="Lower optimizer.learning_rate by half or more.",
    settings=("optimizer.learning_rate",),
)
UPDATES_SMALL = Kind(
    name="updates too small",
    severity="note",
    change="Raise optimizer.learning_rate, or optimizer.decay_rate where it has decayed too far; at the planned end of "
    "a decay there is nothing to do.",
    settings=("optimizer.learning_rate", "optimizer.decay_rate"),
)
NO_RATE = Kind(
    name="learning rate is zero",
    severity="failure",
    change="End the run, or begin a new one from its checkpoint (tecogan train --resume) with a higher "
    "optimizer.decay_rate or optimizer.decay_steps.",
    settings=("optimizer.decay_rate", "optimizer.decay_steps"),
)
DATA_WAIT = Kind(
    name="waiting for data",
    severity="warning",
    change="Set data.decoded_cache to true, raise data.windows_per_decode, or give the cluster more CPU cores to "
    "decode with.",
    settings=("data.decoded_cache", "data.windows_per_decode"),
)
CHECKPOINT_WAIT = Kind(
    name="waiting for checkpoints",
    severity="warning",
    change="Raise tracking.save_every, or write to faster storage.",
    settings=("tracking.save_every",),
)
ALL_REDUCE = Kind(
    name="all-reduce dominates",
    severity="warning",
    change="Give each worker more windows (batch_size) or use fewer workers (cluster.workers), leave "
    "cluster.zero_stage at 0, which sends least, and look for a slow machine with tecogan doctor.",
    settings=("batch_size", "cluster.workers", "cluster.zero_stage"),
)
MEMORY = Kind(
    name="GPU memory is full",
    severity="warning",
    change="Raise accumulation, lower perceptual.chunk, or set cluster.precision to bf16 or "
    "cluster.activation_checkpointing to true.",
    settings=("accumulation", "perceptual.chunk", "cluster.precision", "cluster.activation_checkpointing"),
)
VALIDATION = Kind(
    name="validation gets worse",
    severity="warning",
    change="Use the checkpoint of that step if it is kept, as the best one by tracking.best is, and train on more "
    "scenes (data.train_scenes) or for fewer steps.",
    settings=("tracking.best", "data.train_scenes", "steps"),
)

KNOWN: tuple[Kind, ...] = (
    COLLAPSE,
    DIVERGENCE,
    SATURATED,
    VANISHED,
    NO_RATE,
    LEFT_OUT,
    DISCRIMINATOR_WINS,
    CANNOT_TELL,
    VALIDATION,
    UPDATES_LARGE,
    DATA_WAIT,
    CHECKPOINT_WAIT,
    ALL_REDUCE,
    MEMORY,
    SPIKES,
    CLIPPED,
    UPDATES_SMALL,
)
"""All of them, the worst first."""
