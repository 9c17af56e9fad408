"""Looks for patterns in losses and validations.

Every look takes the recorded columns and returns what it found, or None. Losses are compared as ratios, so that they
can be looked at without knowing their scale, and with what lies before them, so that a curve that only falls is never
taken for one that jumps.
"""

from __future__ import annotations

import numpy as np

from tecogan_dist.metrics.names import COLUMN, HIGHER_IS_BETTER
from tecogan_dist.runs import advice
from tecogan_dist.runs.advice import Pattern
from tecogan_dist.runs.curves import (
    Columns,
    Curve,
    Floats,
    Limits,
    Places,
    rolling_median,
    rolling_minimum,
    spread,
    stretches,
)
from tecogan_dist.runs.quantities import VALIDATION, VALIDATION_LOSS

EARLY = 200
"""Steps of a run in which no loss is judged: a network that starts from noise is still finding its scale (in the CPU
runs of NORMAL.md all losses have settled after 100)."""

BEFORE = 30
"""Records before one that it is compared with: by their median and MAD, which a few outliers among them do not move."""
SPREAD_FLOOR = 0.05
"""Least spread of a logarithm that is believed in: 5%, since some tiny or repetitive data hardly vary."""
SPIKE, SPIKE_SPREADS = 4.0, 8.0
"""A spike is this many times the median before it and this many spreads above it. A record is the mean of 20 steps in
the presets, so that a single step must be 60 times as bad to make one. In the 9000 healthy steps of a run of ``small``,
the worst record had 1.25 times that median of the content loss (2.7 spreads), and 1.7 times that of the warp loss."""
JUMP, JUMP_SPREADS, JUMP_RECORDS = 2.0, 4.0, 10
"""A collapse is a jump of the content loss to more than this many times the median before it, from which none of so
many records, nor the end of the curve, comes back. Twice the squared error is 3 dB."""
PSNR_DROP = 3.0
"""dB below its best: the same of the held-out scenes. Going from FRVSR to TecoGAN costs 1.3 dB of Vid4's PSNR in the
published results (26.91 to 25.57), and that is as it should be."""

RISE, RISE_BLOCK, RISE_SPREADS = 2.0, 1.15, 4.0
"""A divergence is a content loss whose four quarters rise by at least 15% from one to the next and twofold in all."""
RISE_RECORDS, RISE_STEPS = 40, 2000
"""The shortest stretch in which it is looked for."""

WORSE_VALIDATIONS = 4
"""Validations since the best one."""
WORSE = {"psnr": 0.3, "ssim": 0.01}
"""By how much at least the last is worse than the best: dB of PSNR, 0..1 of SSIM; others by a twentieth of the best."""
WINDOWS, WINDOWS_ERRORS, WINDOWS_RISE = 20, 6.0, 1.05
"""Held-out windows are others in each record. So the median of the last so many records is compared with the least
median of so many in a row before, and has to be above it by so many standard errors of a median, and by a twentieth.
The least of many medians is itself two or three errors low. In 200 simulated healthy runs whose records wavered by 10
to 70%, looked at all along, this said nothing (with 4 errors 11 times; the last four records against the least one, as
scenes are judged, in 81 of them). A loss that doubled was seen in 95% of runs whose records waver by up to 20%."""
BETTER_CONTENT = 0.97
"""What the training's content loss has come down to meanwhile, at most, as a fraction."""

CONTENT = ("raw/content", "loss/content")


def collapse(columns: Columns, limits: Limits) -> Pattern | None:
    """The content loss jumps up and stays there; or PSNR of held-out scenes falls and stays there."""
    content = _judged(columns.curve(*CONTENT))
    onset = _jump(content)
    if onset is not None:
        before = float(np.exp(np.median(np.log(content.values[onset - BEFORE : onset]))))
        since = float(np.median(content.values[onset:]))
        return Pattern(
            kind=advice.COLLAPSE,
            first=int(content.steps[onset]),
            last=int(content.steps[-1]),
            seen=f"At step {content.steps[onset]} the content loss jumped from {before:.3g} to {since:.3g}, "
            f"{since / before:.3g} times as much, and stayed there.",
        )
    psnr = _validations(columns, limits, "psnr")
    if len(psnr) < 3:
        return None
    lost = np.maximum.accumulate(psnr.values) - psnr.values > PSNR_DROP
    last = stretches(lost)[-1:] if lost[-1] else []
    for first, end in last:
        if end - first >= 1:
            best = float(psnr.values[:first].max())
            return Pattern(
                kind=advice.COLLAPSE,
                first=int(psnr.steps[first]),
                last=int(psnr.steps[end]),
                seen=f"At step {psnr.steps[first]} PSNR of the held-out scenes fell from {best:.2f} dB to "
                f"{psnr.values[first]:.2f} dB, and stayed there.",
            )
    return None


def divergence(columns: Columns, _limits: Limits) -> Pattern | None:
    """The content loss rises over a long stretch: the whole curve, its later half, the half of that, ..."""
    content = _judged(columns.curve(*CONTENT))
    logs = np.log(content.values)
    count = len(content)
    while count >= RISE_RECORDS and content.steps[-1] - content.steps[-count] >= RISE_STEPS:
        parts = np.array_split(logs[-count:], 4)
        quarters = [np.median(part) for part in parts]
        noise = max(SPREAD_FLOOR, *(spread(part) for part in parts))
        rise = quarters[-1] - quarters[0]
        if min(np.diff(quarters)) > np.log(RISE_BLOCK) and rise > max(np.log(RISE), RISE_SPREADS * noise / 2):
            return Pattern(
                kind=advice.DIVERGENCE,
                first=int(content.steps[-count]),
                last=int(content.steps[-1]),
                seen=f"From step {content.steps[-count]} to {content.steps[-1]} the content loss rose from "
                f"{np.exp(quarters[0]):.3g} to {np.exp(quarters[-1]):.3g}, and never turned.",
            )
        count //= 2
    return None


def spikes(columns: Columns, _limits: Limits) -> Pattern | None:
    """Records far above those before them, from which the loss comes back. Of the content and the warp loss."""
    worst: tuple[float, str, Curve, list[int]] | None = None
    for label, names in {"content": CONTENT, "warp": ("raw/warp", "loss/warp")}.items():
        curve = _judged(columns.curve(*names))
        onset = _jump(curve)
        if onset is not None:
            curve = Curve(curve.steps[:onset], curve.values[:onset])
        logs = np.log(curve.values)
        excess = _excess(logs)
        places = np.flatnonzero(excess > np.log(SPIKE))
        places = places[excess[places] > SPIKE_SPREADS * _spread_before(logs, places)]
        if len(places) and (worst is None or excess[places].max() > worst[0]):
            worst = float(excess[places].max()), label, curve, [int(place) + BEFORE for place in places]
    if worst is None:
        return None
    factor, label, curve, found = worst
    times = "once" if len(found) == 1 else "twice" if len(found) == 2 else f"{len(found)} times"
    where = (
        f"at step {curve.steps[found[0]]}"
        if len(found) == 1
        else f"from step {curve.steps[found[0]]} to {curve.steps[found[-1]]}"
    )
    return Pattern(
        kind=advice.SPIKES,
        first=int(curve.steps[found[0]]),
        last=int(curve.steps[found[-1]]),
        seen=f"The {label} loss spiked {times} {where}, to {np.exp(factor):.2g} times its median before.",
    )


def worse_validation(columns: Columns, limits: Limits) -> Pattern | None:
    """Held-out scenes were best long ago, while the content loss of training has gone on falling.

    Held-out windows count only where no scene is measured: whole scenes say more than a few windows.
    """
    are_measured = False
    for metric in dict.fromkeys(("psnr", limits.best)):
        curve = _validations(columns, limits, metric)
        are_measured = are_measured or len(curve) > 0
        best = _long_worse(curve, metric)
        if best is not None and _went_on_falling(columns, int(curve.steps[best])):
            return _worsened(
                f"Of the held-out scenes {COLUMN.get(metric, metric)} was best at",
                first=(int(curve.steps[best]), float(curve.values[best])),
                last=(int(curve.steps[-1]), float(curve.values[-1])),
            )
    return None if are_measured else _worse_windows(columns)


def _long_worse(curve: Curve, metric: str) -> int | None:
    """Position of the best value, if the last validations are all worse; else None."""
    if len(curve) <= WORSE_VALIDATIONS:
        return None
    signed = curve.values if metric in HIGHER_IS_BETTER else -curve.values
    best = int(signed.argmax())
    margin = WORSE.get(metric, abs(signed[best]) / 20)
    after = signed[best + 1 :]
    is_worse = len(after) >= WORSE_VALIDATIONS and after[-WORSE_VALIDATIONS:].max() <= signed[best] - margin
    return best if is_worse else None


def _worse_windows(columns: Columns) -> Pattern | None:
    """The content loss of held-out windows, others each time: by medians of many records, and by how they waver."""
    curve = _judged(columns.curve(f"{VALIDATION_LOSS}/content"))
    if len(curve) < 2 * WINDOWS:
        return None
    logs = np.log(curve.values)
    medians = rolling_median(logs, WINDOWS)
    best = int(medians[:-WINDOWS].argmin())  # none of its records is among the last ones
    wavers = spread(np.diff(logs)) / np.sqrt(2)
    error = np.sqrt(np.pi / 2 / WINDOWS) * wavers
    at = int(curve.steps[best + WINDOWS - 1])
    rise = medians[-1] - medians[best]
    if rise < max(np.log(WINDOWS_RISE), WINDOWS_ERRORS * error) or not _went_on_falling(columns, at):
        return None
    return _worsened(
        f"The content loss of held-out windows, a median of {WINDOWS} records, was least at",
        first=(at, float(np.exp(medians[best]))),
        last=(int(curve.steps[-1]), float(np.exp(medians[-1]))),
    )


def _went_on_falling(columns: Columns, step: int) -> bool:
    """Whether the content loss of training is lower by now than it was at a step."""
    content = columns.curve(*CONTENT)
    then = content.values[content.steps <= step][-BEFORE:]
    now = content.values[content.steps > step][-BEFORE:]
    enough = len(then) >= JUMP_RECORDS and len(now) >= JUMP_RECORDS
    return enough and bool(np.median(now) <= BETTER_CONTENT * np.median(then))


def _worsened(what: str, *, first: tuple[int, float], last: tuple[int, float]) -> Pattern:
    """``first``, ``last``: a step and a value, of the best and of the end."""
    return Pattern(
        kind=advice.VALIDATION,
        first=first[0],
        last=last[0],
        seen=f"{what} step {first[0]} ({first[1]:.4g}) and is {last[1]:.4g} at step {last[0]}, while the content loss "
        "of training went on falling.",
    )


def _validations(columns: Columns, limits: Limits, metric: str) -> Curve:
    """What held-out scenes measured: the lines', and the scores of steps that they lack."""
    curve = columns.curve(f"{VALIDATION}/{metric}")
    found = {
        int(step): float(values[metric])
        for step, values in limits.scores.items()
        if metric in values and np.isfinite(values[metric])
    }
    found |= dict(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))
    steps = sorted(found)
    return Curve(np.array(steps, dtype=np.int64), np.array([found[step] for step in steps], dtype=np.float64))


def _judged(curve: Curve) -> Curve:
    """The positive values, whose logarithms can be compared, of steps that are not early."""
    return curve.where((curve.values > 0) & (curve.steps > EARLY))


def _excess(logs: Floats) -> Floats:
    """(K - BEFORE,): how far a logarithm is above the median of those before it."""
    return logs[BEFORE:] - rolling_median(logs, BEFORE)[:-1] if len(logs) > BEFORE else np.empty(0)


def _spread_before(logs: Floats, places: Places) -> Floats:
    """One for each place of :func:`_excess`: the spread of the logarithms before it."""
    return np.array([max(SPREAD_FLOOR, spread(logs[place : place + BEFORE])) for place in places])


def _jump(curve: Curve) -> int | None:
    """Where a curve jumps up and stays, or None."""
    logs = np.log(curve.values)
    if len(logs) < BEFORE + JUMP_RECORDS:
        return None
    level = logs[BEFORE:] - _excess(logs)
    ahead = rolling_minimum(logs[BEFORE:], JUMP_RECORDS)
    raised = ahead - level[: len(ahead)]
    for place in np.flatnonzero(raised > np.log(JUMP)):
        needed = max(np.log(JUMP), JUMP_SPREADS * float(_spread_before(logs, np.array([place]))[0]))
        if raised[place] > needed:
            stays = np.median(logs[-JUMP_RECORDS:]) > level[place] + needed
            return BEFORE + int(place) if stays else None
    return None
