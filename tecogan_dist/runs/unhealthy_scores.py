"""Looks for patterns in what the discriminator says: that it wins, cannot tell, or is too sure to teach.

Every look takes the recorded columns and returns what it found, or None.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tecogan_dist.runs import advice
from tecogan_dist.runs.advice import Pattern
from tecogan_dist.runs.curves import Columns, Curve, Flags, Limits, rolling_median, stretches
from tecogan_dist.runs.quantities import ACCURACY, BALANCE, FAKE, SKIPS, UPDATES

SATURATION = 13.8
"""Half of -log(1e-12), the adversarial loss's upper end: the discriminator gives generated triplets a probability of
1e-6. It is log 2 = 0.69 at chance, and others report 3 to 6 of GANs that work (NORMAL.md)."""
SATURATED_RECORDS, SATURATED_STEPS = 10, 200

WINNING_STEPS, WINNING_RECORDS = 4000, 10
"""Steps in all of whose records the balance is above the threshold. It is an average over about 100 steps (decay 0.99),
so that a generator that catches up brings it below within far fewer. How many a healthy run of the preset skips in a
row was never measured here, so that the number is meant to be on the safe side."""
HOVERING = 0.1
"""By the published rule a balance that hovers at the threshold is normal: above it the discriminator waits, and the
generator catches up until it is updated again, for so few steps that no record need fall among them. So a balance that
is less than this above the threshold counts only if no update was done at all. A model of the rule (a lead that rises
by 0.0001 to 0.02 in a step with an update, falls 1 to 300 times slower in one without, and is measured with a deviation
of 0.15; 60,000 steps, a record each 20 to 1000) hovered, after its first rise, with a median of at most 0.07 above the
threshold, also where records were above it for 40,000 steps in a row. C5 of NORMAL.md, where the generator did not
catch up, stays 0.2 to 0.27 above."""
UNTRAINED_STEPS, UNTRAINED_RECORDS = 20_000, 20
"""Steps without a lead, after the fade-in: 4% of the preset's. In the CPU runs of NORMAL.md, discriminators at a rate
of 2e-4 needed 700 and 1900 steps to begin to tell, so that at the published 5e-5 it may be four times as many."""
CHANCE, LEAD = 0.05, 0.05
"""How near to a half its accuracy is, and to 0 its balance, as a fraction of the threshold."""
SMOOTHED = 5


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
    """The balance stays above its threshold: far above, or without any update of the discriminator."""
    balance = columns.column(BALANCE)
    rows = np.isfinite(balance) & (columns.steps >= limits.faded_in)
    updates, skips = columns.column(UPDATES)[rows], columns.column(SKIPS)[rows]
    curve = Curve(columns.steps[rows], balance[rows])
    above = curve.values > limits.threshold
    is_counted = len(curve) > 1 and bool(np.isfinite(updates).all() and np.isfinite(skips).all())
    idle = above.copy()
    if is_counted:
        waits = (np.diff(updates) <= 0) & (np.diff(skips) > 0)
        idle &= np.concatenate([waits[:1], waits])
    far = (
        (first, last)
        for first, last in _long_stretches(curve, above, WINNING_STEPS, WINNING_RECORDS)
        if np.median(curve.values[first : last + 1]) > limits.threshold + HOVERING
    )
    found = next(far, None) or _last_stretch(curve, idle, WINNING_STEPS, WINNING_RECORDS)
    if found is None:
        return None
    first, last = found
    skipped = ""
    if is_counted:
        done, left = (int(counts[last] - counts[first]) for counts in (updates, skips))
        skipped = f", and {f'all {left}' if done <= 0 else f'{left} of {done + left}'} updates were skipped"
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


def _long_stretches(curve: Curve, flags: Flags, steps: int, records: int) -> Iterator[tuple[int, int]]:
    """Positions of the stretches of true ones that span at least so many steps and records, the last one first."""
    for first, last in reversed(stretches(flags)):
        if last - first + 1 >= records and curve.steps[last] - curve.steps[first] >= steps:
            yield first, last


def _last_stretch(curve: Curve, flags: Flags, steps: int, records: int) -> tuple[int, int] | None:
    return next(_long_stretches(curve, flags, steps, records), None)


def _between(first: int, last: int) -> str:
    return f"from step {first} to {last}"
