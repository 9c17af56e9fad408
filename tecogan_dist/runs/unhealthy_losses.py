"""Looks for patterns in losses, scores of the discriminator and validations.

Every look takes the recorded columns and returns what it found, or None. Losses are compared as ratios, so that they
can be looked at without knowing their scale, and with what lies before them, so that a curve that only falls is never
taken for one that jumps.
"""

from __future__ import annotations

import numpy as np

from tecogan_dist.metrics.names import HIGHER_IS_BETTER
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
from tecogan_dist.runs.quantities import ACCURACY, BALANCE, FAKE, SKIPS, UPDATES, VALIDATION, VALIDATION_LOSS

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

SATURATION = 13.8
"""Half of -log(1e-12), the adversarial loss's upper end: the discriminator gives generated triplets a probability of
1e-6. It is log 2 = 0.69 at chance, and others report 3 to 6 of GANs that work (NORMAL.md)."""
SATURATED_RECORDS, SATURATED_STEPS = 10, 200

WINNING_STEPS, WINNING_RECORDS = 4000, 10
"""Steps without an update of the discriminator. The balance is an average over about 100 steps (decay 0.99), so that a
generator that catches up brings it below the threshold within far fewer. How many a healthy run of the preset skips in
a row was never measured here, so that the number is meant to be on the safe side."""
UNTRAINED_STEPS, UNTRAINED_RECORDS = 20_000, 20
"""Steps without a lead, after the fade-in: 4% of the preset's. In the CPU runs of NORMAL.md, discriminators at a rate
of 2e-4 needed 700 and 1900 steps to begin to tell, so that at the published 5e-5 it may be four times as many."""
CHANCE, LEAD = 0.05, 0.05
"""How near to a half its accuracy is, and to 0 its balance, as a fraction of the threshold."""
SMOOTHED = 5

WORSE_VALIDATIONS = 4
"""Validations since the best one."""
WORSE = {"psnr": 0.3, "ssim": 0.01}
"""By how much at least the last is worse than the best: dB of PSNR, 0..1 of SSIM; others by a twentieth of the best."""
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
        else _between(curve.steps[found[0]], curve.steps[found[-1]])
    )
    return Pattern(
        kind=advice.SPIKES,
        first=int(curve.steps[found[0]]),
        last=int(curve.steps[found[-1]]),
        seen=f"The {label} loss spiked {times} {where}, to {np.exp(factor):.2g} times its median before.",
    )


def saturated_scores(columns: Columns, _limits: Limits) -> Pattern | None:
    """The adversarial loss is near its upper end: generated triplets are scored 0, and little gradient comes back."""
    adversarial = columns.curve("raw/adversarial")
    found = _last_stretch(adversarial, adversarial.values > SATURATION, SATURATED_STEPS, SATURATED_RECORDS)
    if found is None:
        return None
    first, last = found
    score = columns.curve(FAKE, "raw/fake_score")
    told = score.where((score.steps >= adversarial.steps[first]) & (score.steps <= adversarial.steps[last]))
    scores = f" (mean score {np.median(told.values):.1g})" if len(told) else ""
    return Pattern(
        kind=advice.SATURATED,
        first=int(adversarial.steps[first]),
        last=int(adversarial.steps[last]),
        seen=f"{_between(adversarial.steps[first], adversarial.steps[last]).capitalize()} the adversarial loss was "
        f"{np.median(adversarial.values[first : last + 1]):.1f}{scores}: the discriminator is so sure of itself that "
        "the generator learns nothing from it.",
    )


def discriminator_wins(columns: Columns, limits: Limits) -> Pattern | None:
    """The balance stays above its threshold, and the discriminator is not updated any more."""
    balance = columns.column(BALANCE)
    updates, skips = columns.column(UPDATES), columns.column(SKIPS)
    rows = np.isfinite(balance) & (columns.steps >= limits.faded_in)
    if not rows.any():
        return None
    curve = Curve(columns.steps[rows], balance[rows])
    stands = curve.values > limits.threshold
    counted = bool(np.isfinite(updates[rows]).all() and np.isfinite(skips[rows]).all())
    if counted and len(curve) > 1:
        idle = (np.diff(updates[rows]) <= 0) & (np.diff(skips[rows]) > 0)
        stands &= np.concatenate([idle[:1], idle])
    found = _last_stretch(curve, stands, WINNING_STEPS, WINNING_RECORDS)
    if found is None:
        return None
    first, last = found
    left = skips[rows][last] - skips[rows][first]
    skipped = f", and all {left:.0f} updates were skipped" if counted else ""
    return Pattern(
        kind=advice.DISCRIMINATOR_WINS,
        first=int(curve.steps[first]),
        last=int(curve.steps[last]),
        seen=f"{_between(curve.steps[first], curve.steps[last]).capitalize()} the discriminator's balance was above "
        f"{limits.threshold:g} (median {np.median(curve.values[first : last + 1]):.2f}){skipped}: the generator does "
        "not catch up.",
    )


def discriminator_cannot_tell(columns: Columns, limits: Limits) -> Pattern | None:
    """Accuracy near a half and balance near 0, long after the fade-in."""
    accuracy, balance = columns.column(ACCURACY), columns.column(BALANCE)
    rows = np.isfinite(accuracy) & np.isfinite(balance) & (columns.steps >= limits.faded_in)
    if rows.sum() < SMOOTHED:
        return None
    steps = columns.steps[rows][SMOOTHED - 1 :]
    right, lead = rolling_median(accuracy[rows], SMOOTHED), rolling_median(balance[rows], SMOOTHED)
    lost = (np.abs(right - 0.5) < CHANCE) & (np.abs(lead) < LEAD * abs(limits.threshold))
    curve = Curve(steps, right)
    found = _last_stretch(curve, lost, UNTRAINED_STEPS, UNTRAINED_RECORDS)
    if found is None:
        return None
    first, last = found
    return Pattern(
        kind=advice.CANNOT_TELL,
        first=int(steps[first]),
        last=int(steps[last]),
        seen=f"{_between(steps[first], steps[last]).capitalize()} the discriminator was right in "
        f"{100 * np.median(right[first : last + 1]):.0f}% of its scores with a balance of "
        f"{abs(np.median(lead[first : last + 1])):.3f}: it does not tell generated from real.",
    )


def worse_validation(columns: Columns, limits: Limits) -> Pattern | None:
    """Held-out scenes were best long ago, while the content loss of training has gone on falling."""
    are_measured = False
    for metric in dict.fromkeys(("psnr", limits.best)):
        curve = _validations(columns, limits, metric)
        are_measured = are_measured or len(curve) > 0
        sign = 1.0 if metric in HIGHER_IS_BETTER else -1.0
        found = _worse(columns, curve, sign, WORSE.get(metric))
        if found is not None:
            return _worsened(curve, found, f"{metric.upper() if sign > 0 else metric} of the held-out scenes")
    if are_measured:
        return None  # whole scenes say more than a few windows, others of them each time
    held_out = columns.curve(f"{VALIDATION_LOSS}/content")
    found = _worse(columns, held_out, -1.0, None)
    return None if found is None else _worsened(held_out, found, "the content loss of held-out windows")


def _worse(columns: Columns, curve: Curve, sign: float, margin: float | None) -> int | None:
    """Position of the best value, if it is long ago and training has gone on getting better; else None."""
    if len(curve) <= WORSE_VALIDATIONS:
        return None
    signed = sign * curve.values
    best = int(signed.argmax())
    margin = abs(signed[best]) / 20 if margin is None else margin
    after = signed[best + 1 :]
    if len(after) < WORSE_VALIDATIONS or after[-WORSE_VALIDATIONS:].max() > signed[best] - margin:
        return None
    content = columns.curve(*CONTENT)
    then = content.values[content.steps <= curve.steps[best]][-BEFORE:]
    now = content.values[content.steps > curve.steps[best]][-BEFORE:]
    if len(then) < JUMP_RECORDS or len(now) < JUMP_RECORDS or np.median(now) > BETTER_CONTENT * np.median(then):
        return None
    return best


def _worsened(curve: Curve, best: int, what: str) -> Pattern:
    return Pattern(
        kind=advice.VALIDATION,
        first=int(curve.steps[best]),
        last=int(curve.steps[-1]),
        seen=f"{what[0].upper()}{what[1:]} was best at step {curve.steps[best]} ({curve.values[best]:.4g}) and is "
        f"{curve.values[-1]:.4g} at step {curve.steps[-1]}, while the content loss of training went on falling.",
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


def _last_stretch(curve: Curve, flags: np.ndarray, steps: int, records: int) -> tuple[int, int] | None:
    """Positions of the last stretch of true ones that spans at least so many steps and records."""
    for first, last in reversed(stretches(flags)):
        if last - first + 1 >= records and curve.steps[last] - curve.steps[first] >= steps:
            return first, last
    return None


def _between(first: int, last: int) -> str:
    return f"from step {first} to {last}"
