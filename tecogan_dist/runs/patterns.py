"""Known patterns in what a run has recorded: a discriminator that wins, a collapse, waiting for data.

:func:`patterns` names them, each in one sentence of what is seen and one of what to change. The terminal, ``tecogan
status`` and ``tecogan report`` show them; ``training/NORMAL.md`` explains them. A healthy run has none: each needs
enough records, and steps, that the noise of a beginning is not taken for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tecogan_dist.runs import unhealthy_losses, unhealthy_pace, unhealthy_scores
from tecogan_dist.runs.advice import COLLAPSE, KNOWN, VALIDATION, Pattern, Severity
from tecogan_dist.runs.curves import Columns, Limits

if TYPE_CHECKING:
    from tecogan_dist.config.schema import Config

__all__ = ["ENOUGH_LINES", "Pattern", "Severity", "limits_of", "patterns"]

ENOUGH_LINES = 1100
"""Last lines of a run in progress that are enough for every pattern, at the presets' ``tracking.display_every``: 20
steps a line, and no pattern needs more than 20,000 steps; but for those of ``VALIDATIONS``."""

LOOKS: tuple[Callable[[Columns, Limits], Pattern | None], ...] = (
    unhealthy_losses.collapse,
    unhealthy_losses.divergence,
    unhealthy_losses.spikes,
    unhealthy_scores.saturated_scores,
    unhealthy_scores.discriminator_wins,
    unhealthy_scores.discriminator_cannot_tell,
    unhealthy_losses.worse_validation,
    unhealthy_pace.steps_left_out,
    unhealthy_pace.vanished_gradients,
    unhealthy_pace.constant_clipping,
    unhealthy_pace.large_updates,
    unhealthy_pace.small_updates,
    unhealthy_pace.no_learning_rate,
    unhealthy_pace.waiting_for_data,
    unhealthy_pace.waiting_for_checkpoints,
    unhealthy_pace.dominating_all_reduce,
    unhealthy_pace.full_memory,
)

VALIDATIONS = (unhealthy_losses.worse_validation,)
"""Of these, what compares a validation with one of any time before: they are 10,000 steps apart in the presets."""


def patterns(
    lines: Sequence[Mapping[str, Any]],
    *,
    earlier: Sequence[Mapping[str, Any]] = (),
    threshold: float = 0.4,
    clipping: float = 0.0,
    faded_in: int = 0,
    gpu_memory: float | None = None,
    best: str = "psnr",
    scores: Mapping[int, Mapping[str, float]] | None = None,
) -> list[Pattern]:
    """The known patterns in recorded ``lines`` of ``metrics.jsonl``, the worst first; none in a healthy run.

    ``lines`` are in the order of the file: all of them, or the last ones (:data:`ENOUGH_LINES`) of a run in progress.
    ``earlier`` are of lines before those what validations are compared with (:class:`tecogan_dist.runs.recent.Seen`).
    Any name may be missing, any value NaN or null. It takes time in proportion to the lines, 50 ms for 10,000.

    ``threshold``, ``clipping``, ``faded_in`` and ``best`` follow from the run's settings (:func:`limits_of`):
    ``discriminator.balance_threshold``, ``optimizer.gradient_clipping``, the step from which ``loss.fade_in_*`` is at
    its maximum, and ``tracking.best``. ``gpu_memory`` is what a worker's GPU has, GiB; None: not known. ``scores`` are
    those of held-out scenes (``runs/records.read_scores``), for lines that lack them.
    """
    limits = Limits(
        threshold=threshold,
        clipping=clipping,
        faded_in=faded_in,
        gpu_memory=math.nan if gpu_memory is None else gpu_memory,
        best=best,
        scores=scores or {},
    )
    columns = Columns(lines)
    whole = Columns([*earlier, *lines]) if earlier else columns
    with np.errstate(all="ignore"):  # of values near the end of float64, whose sums and ratios are infinite
        looked = (look(whole if look in VALIDATIONS else columns, limits) for look in LOOKS)
        found = [pattern for pattern in looked if pattern is not None]
    if any(pattern.kind is COLLAPSE for pattern in found):  # says more of the same
        found = [pattern for pattern in found if pattern.kind is not VALIDATION]
    return sorted(found, key=lambda pattern: KNOWN.index(pattern.kind))


def limits_of(config: Config) -> dict[str, Any]:
    """The arguments of :func:`patterns` that follow from a run's settings."""
    loss = config.loss
    missing = loss.fade_in_maximum - loss.fade_in_start
    fades_in = missing > 0 and loss.fade_in_increment > 0
    return {
        "threshold": config.discriminator.balance_threshold,
        "clipping": config.optimizer.gradient_clipping,
        "faded_in": round(min(missing / loss.fade_in_increment, config.steps)) if fades_in else 0,
        "best": config.tracking.best,
    }
