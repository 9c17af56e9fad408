"""Looks for patterns in gradients, updates, times and memory.

Every look takes the recorded columns and returns what it found, or None. Times are seconds a step, means since the last
record; the first record is left out, since it holds what is done once: compiling, filling caches, the first decoding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tecogan_dist.runs import advice
from tecogan_dist.runs.advice import Kind, Pattern
from tecogan_dist.runs.curves import Columns, Curve, Flags, Floats, Limits, rolling_median, stretches
from tecogan_dist.runs.quantities import (
    ALL_REDUCE,
    ALLOC_RETRIES,
    BAD_STEPS,
    CHECKPOINT_WAIT,
    DATA_WAIT,
    GPU_PEAK,
    GPU_RESERVED,
    LEARNING_RATE,
    STEP_TIME,
    UPDATE_RATIO,
)

SMOOTHED, SMOOTHED_STEPS = 10, 50
"""Records whose median a share of time, or a norm, is judged by, and the steps that it has to hold for."""

WAITING = 0.2
"""Share of a step that may be spent waiting for data: above it, a fifth of the GPU is paid for nothing. The published
setting waits for none of it (cluster/README.md: 0.2 to 0.6 cores decode for one GPU)."""
SAVING = 0.1
"""The same for checkpoints, which are written beside training: it waits only if the last one is not done yet."""
SAVINGS = 2
"""Records with such a wait, before it is said."""
REDUCING = 0.5
"""Share of all-reduce, which includes waiting for the slowest worker. At a half, two workers are no faster than one."""

VANISHING = 1e-6
"""Norm of all gradients of a network. At it, the mean gradient of a million weights (flow network 1.7, generator 0.8 to
1.3 million) is 1e-9, a tenth of Adam's epsilon, and the steps shrink with it. Healthy are 0.01 to 0.1 (NORMAL.md)."""
CLIPPED_SHARE, CLIPPED_RECORDS, CLIPPED_STEPS = 0.95, 50, 500
"""Records above the clipping norm, of the last so many that span so many steps."""

RATIO_LARGE, RATIO_SMALL = 1e-2, 1e-6
"""The usual rule (CS231n, "Ratio of weights:updates") is about 1e-3; a heuristic thought for plain SGD, tensor by
tensor. So a factor of 10 above is said, and only a factor of 1000 below: published rates are low, and decay."""
RATIO_STEPS, RATIO_RECORDS = 200, 20
"""Steps at the beginning that are not judged, while Adam's second moments fill, and records in a row that are."""
RATE_ZERO = 1e-9
"""A step of Adam moves a weight by about the rate. A typical weight is 0.04 (the root mean square of a new
generator's), whose next float32 is 3.7e-9 away: less than half of that is rounded to nothing."""

Judge = Callable[[Floats], Flags]
CS231N = "the rule of thumb is 0.001"


def steps_left_out(columns: Columns, _limits: Limits) -> Pattern | None:
    """Steps whose losses or gradients were not finite."""
    curve = columns.curve(BAD_STEPS)
    if not len(curve):
        return None
    # From its beginning a run has left out none; the first of some last lines may tell of older ones.
    whole = len(curve) == 1 or curve.steps[0] <= 2 * (curve.steps[1] - curve.steps[0])
    before = np.concatenate([[0.0 if whole else curve.values[0]], curve.values[:-1]])
    grown = np.flatnonzero(curve.values > before)
    if not len(grown):
        return None
    number = float((curve.values - before)[grown].sum())
    first, last = int(curve.steps[grown[0]]), int(curve.steps[grown[-1]])
    steps = "one step" if number == 1 else f"{number:.0f} steps"
    when = f"shortly before step {last}" if first == last else f"from step {first} to {last}"
    return Pattern(
        kind=advice.LEFT_OUT,
        first=first,
        last=last,
        seen=f"A loss or gradient was not finite in {steps}, {when}; what is not finite is left out.",
    )


def vanished_gradients(columns: Columns, _limits: Limits) -> Pattern | None:
    """Next to no gradient reaches the flow network or the generator."""
    for network in ("generator", "flow"):
        curve = columns.curve(f"grad_norm/{network}")
        found = _smooth_stretch(curve, lambda values: values < VANISHING)
        if found is not None:
            first, last, norm = found
            return Pattern(
                kind=advice.VANISHED,
                first=first,
                last=last,
                seen=f"From step {first} to {last} the gradients of the {_called(network)} had a norm of {norm:.1g}: "
                "it does not learn.",
            )
    return None


def constant_clipping(columns: Columns, limits: Limits) -> Pattern | None:
    """The gradients of nearly all steps are scaled down."""
    if limits.clipping <= 0:
        return None
    flow, generator = columns.column("grad_norm/flow"), columns.column("grad_norm/generator")
    upscaler = np.hypot(flow, generator)
    for label, norms in {"upscaler": upscaler, "discriminator": columns.column("grad_norm/discriminator")}.items():
        known = np.isfinite(norms)
        steps, values = columns.steps[known][-CLIPPED_RECORDS:], norms[known][-CLIPPED_RECORDS:]
        if len(values) < CLIPPED_RECORDS or steps[-1] - steps[0] < CLIPPED_STEPS:
            continue
        if np.mean(values > limits.clipping) >= CLIPPED_SHARE:
            return Pattern(
                kind=advice.CLIPPED,
                first=int(steps[0]),
                last=int(steps[-1]),
                seen=f"From step {steps[0]} to {steps[-1]} nearly every step of the {label} was clipped: its "
                f"gradients' norm is usually {np.median(values):.3g}, and the limit {limits.clipping:g}.",
            )
    return None


def large_updates(columns: Columns, _limits: Limits) -> Pattern | None:
    """Steps that move the weights by far more than is usual."""
    return _updates(columns, lambda ratio: ratio > RATIO_LARGE, advice.UPDATES_LARGE)


def small_updates(columns: Columns, _limits: Limits) -> Pattern | None:
    """Steps that hardly move the weights, though the learning rate is not zero."""
    rate = columns.curve(LEARNING_RATE)
    if len(rate) and rate.values[-1] < RATE_ZERO:
        return None
    return _updates(columns, lambda ratio: ratio < RATIO_SMALL, advice.UPDATES_SMALL)


def _updates(columns: Columns, judged: Judge, kind: Kind) -> Pattern | None:
    ratio = columns.curve(UPDATE_RATIO)
    ratio = ratio.where(ratio.steps > RATIO_STEPS)
    found = _smooth_stretch(ratio, judged, records=RATIO_RECORDS)
    if found is None:
        return None
    first, last, median = found
    return Pattern(
        kind=kind,
        first=first,
        last=last,
        seen=f"From step {first} to {last} a step changed the upscaler's weights by {median:.1g} of their size "
        f"({CS231N}).",
    )


def no_learning_rate(columns: Columns, _limits: Limits) -> Pattern | None:
    """The learning rate is too small for float32 weights to move."""
    curve = columns.curve(LEARNING_RATE)
    if not len(curve) or curve.values[-1] >= RATE_ZERO:
        return None
    first, last = stretches(curve.values < RATE_ZERO)[-1]
    return Pattern(
        kind=advice.NO_RATE,
        first=int(curve.steps[first]),
        last=int(curve.steps[last]),
        seen=f"Since step {curve.steps[first]} the learning rate is {curve.values[last]:.1g}: no weight moves.",
    )


def waiting_for_data(columns: Columns, _limits: Limits) -> Pattern | None:
    """Workers wait for windows."""
    curve = _share(columns, DATA_WAIT)
    found = _smooth_stretch(curve, lambda share: share > WAITING)
    if found is None:
        return None
    first, last, share = found
    return Pattern(
        kind=advice.DATA_WAIT,
        first=first,
        last=last,
        seen=f"From step {first} to {last} workers waited for data for {100 * share:.0f}% of the time.",
    )


def waiting_for_checkpoints(columns: Columns, _limits: Limits) -> Pattern | None:
    """Training waits until an earlier checkpoint is written."""
    step, wait = columns.column(STEP_TIME), columns.column(CHECKPOINT_WAIT)
    rows = np.flatnonzero(np.isfinite(step) & np.isfinite(wait) & (step > 0))
    if len(rows) < SMOOTHED:
        return None
    lengths = np.diff(columns.steps[rows], prepend=columns.steps[rows[0]])  # the first record's is not known: 0
    spent, total = wait[rows] * lengths, float((step[rows] * lengths).sum())
    waited = rows[spent > 0]
    if len(waited) < SAVINGS or total <= 0 or spent.sum() <= SAVING * total:
        return None
    return Pattern(
        kind=advice.CHECKPOINT_WAIT,
        first=int(columns.steps[waited[0]]),
        last=int(columns.steps[waited[-1]]),
        seen=f"Training waited for checkpoints for {100 * spent.sum() / total:.0f}% of the time up to step "
        f"{columns.steps[rows[-1]]}.",
    )


def dominating_all_reduce(columns: Columns, _limits: Limits) -> Pattern | None:
    """Workers bring their gradients together, or wait for each other, for most of the time."""
    curve = _share(columns, ALL_REDUCE)
    found = _smooth_stretch(curve, lambda share: share > REDUCING)
    if found is None:
        return None
    first, last, share = found
    return Pattern(
        kind=advice.ALL_REDUCE,
        first=first,
        last=last,
        seen=f"From step {first} to {last} workers spent {100 * share:.0f}% of the time on all-reduce and on waiting "
        "for each other.",
    )


def full_memory(columns: Columns, limits: Limits) -> Pattern | None:
    """torch had to empty its cache again and again to get memory."""
    retries = columns.curve(ALLOC_RETRIES)
    grown = np.flatnonzero(np.diff(retries.values) > 0) + 1
    if len(grown) < 2:  # once can be the validation of a larger frame
        return None
    number = float(np.diff(retries.values)[grown - 1].sum())
    peak = columns.curve(GPU_RESERVED, GPU_PEAK)
    most = f" with {peak.values.max():.1f} GiB" if len(peak) else ""
    of = f" of {limits.gpu_memory:.1f}" if len(peak) and np.isfinite(limits.gpu_memory) else ""
    first, last = int(retries.steps[grown[0]]), int(retries.steps[grown[-1]])
    return Pattern(
        kind=advice.MEMORY,
        first=first,
        last=last,
        seen=f"From step {first} to {last} torch ran out of GPU memory {number:.0f} times and emptied its cache"
        f"{most}{of}, which takes time.",
    )


def _share(columns: Columns, name: str) -> Curve:
    """A time as a share of a step's, 0..1, without the first record."""
    step, part = columns.column(STEP_TIME), columns.column(name)
    rows = np.isfinite(step) & np.isfinite(part) & (step > 0)
    return Curve(columns.steps[rows][1:], (part[rows] / np.where(step > 0, step, 1)[rows])[1:])


def _smooth_stretch(curve: Curve, judged: Judge, *, records: int = SMOOTHED) -> tuple[int, int, float] | None:
    """First and last step of the last stretch in which the median of so many records in a row is ``judged`` true, and
    the median of all of it; None if there is none."""
    medians = rolling_median(curve.values, records)
    for first, last in reversed(stretches(judged(medians))):
        # A median is true when half of its records are: from the first of those on that are so themselves.
        own = np.flatnonzero(judged(curve.values[first : last + records])) + first
        if curve.steps[own[-1]] - curve.steps[own[0]] < SMOOTHED_STEPS:
            continue
        return int(curve.steps[own[0]]), int(curve.steps[own[-1]]), float(np.median(curve.values[own[0] : own[-1] + 1]))
    return None


def _called(network: str) -> str:
    return "flow network" if network == "flow" else network
