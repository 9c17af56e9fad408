"""What a terminal shows of a run in progress, as lines of text for any width."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from tecogan_dist.base.console import printable
from tecogan_dist.config.schema import Config
from tecogan_dist.metrics.names import COLUMN, METRICS
from tecogan_dist.runs import quantities
from tecogan_dist.runs.patterns import Pattern
from tecogan_dist.runs.records import best_step
from tecogan_dist.runs.standing import in_days

SHOWN_LOSSES = ("content", "warp", "perceptual", "pingpong", "adversarial", "feature_match", "total", "discriminator")
NOT_IN_A_LOG = ("feature_match", "total")
"""Of these: its lines are to be short."""
LABEL = 9
"""Characters of a line's beginning, which says what it is about."""
GAP = "  "
NARROWEST = 20
"""Characters of a terminal below which lines are cut."""
LONGEST_BAR, SHORTEST_BAR = 40, 8
MOST_PATTERNS = 3
STYLES = {"note": "", "warning": "yellow", "failure": "red"}
"""Of patterns, by how bad they are."""


@dataclass
class Progressing:
    """What is known of a run while it goes on."""

    config: Config
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the last display interval, by the names of :mod:`tecogan_dist.runs.quantities`."""
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    """Of held-out scenes, by step."""
    checkpoint: tuple[int, float] | None = None
    """Steps of the last complete one, and when it was told of, by the monotonic clock."""
    patterns: Sequence[Pattern] = ()

    @property
    def rate(self) -> float | None:
        """Steps per second in the last display interval; None before the first one."""
        seconds = self.metrics.get(quantities.STEP_TIME, math.nan)
        return 1 / seconds if math.isfinite(seconds) and seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """At that rate."""
        return None if self.rate is None else max(0, self.config.steps - self.step) / self.rate


def clock(seconds: float) -> str:
    """Hours (if any), minutes and seconds: 1:02:03, 4:05; from 48 hours on days and hours: 3 days 4 h."""
    days = in_days(seconds)
    if days is not None:
        return days
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def rate_text(rate: float | None) -> str:
    """Steps a second, or seconds a step where that is the larger number."""
    if rate is None:
        return "no step measured"
    return f"{rate:.3g} steps/s" if rate >= 1 else f"{1 / rate:.3g} s/step"


def plain_line(known: Progressing) -> str:
    """Progress as a line of a log."""
    left = "" if known.seconds_left is None else f"left {clock(known.seconds_left)}"
    losses = [part for part in _losses(known.metrics) if not part.startswith(NOT_IN_A_LOG)]
    wait = _wait(known.metrics)
    parts = [f"step {known.step}/{known.config.steps}", rate_text(known.rate), left, *losses, wait]
    return GAP.join(filter(None, parts))


def panel(known: Progressing, *, width: int) -> list[Text]:
    """The lines of the display, none longer than ``width`` characters."""
    width = max(NARROWEST, width)
    metrics = known.metrics
    rows: list[tuple[str, list[str], str]] = [
        ("losses", _losses(metrics), ""),
        ("D", _discriminator(known), "yellow" if _is_ahead(known) else ""),
        ("speed", _speed(known), ""),
        ("memory", _memory(metrics), ""),
        ("scenes", _scenes(known), ""),
        ("saved", _saved(known), ""),
    ]
    lines = [_bar(known, width)]
    for label, parts, style in rows:
        lines += [Text(line, style=style) for line in _flowing(label, parts, width)]
    for pattern in known.patterns[:MOST_PATTERNS]:
        words = printable(f"{pattern.name}: {pattern.advice}", limit=1000).split()
        style = STYLES.get(pattern.severity, "")
        lines += [Text(line, style=style) for line in _flowing("pattern", words, width, gap=" ")]
    return lines


def _bar(known: Progressing, width: int) -> Text:
    """``step 1200/10000 ━━━━━━━╌╌╌╌ 12%  left 1:02:03``; the bar goes first where there is no room."""
    steps = max(1, known.config.steps)
    share = min(1.0, known.step / steps)
    head, tail = f"step {known.step}/{known.config.steps}", f"{math.floor(100 * share)}%"
    if known.seconds_left is not None:
        tail += f"{GAP}left {clock(known.seconds_left)}"
    room = min(LONGEST_BAR, width - len(head) - len(tail) - 2)
    if room < SHORTEST_BAR:
        return Text(set_cell_size(f"{head}{GAP}{tail}", width).rstrip(), style="bold")
    done = round(share * room)
    text = Text(f"{head} ", style="bold")
    text.append("━" * done, style="green")
    text.append("╌" * (room - done), style="dim")
    return text.append(f" {tail}")


def _losses(metrics: Mapping[str, float]) -> list[str]:
    names = {name: f"{quantities.LOSS}/{name}" for name in SHOWN_LOSSES}
    return [f"{short} {metrics[name]:.4g}" for short, name in names.items() if name in metrics]


def _is_ahead(known: Progressing) -> bool:
    balance = known.metrics.get(quantities.BALANCE)
    return balance is not None and balance >= known.config.discriminator.balance_threshold


def _discriminator(known: Progressing) -> list[str]:
    metrics = known.metrics
    parts = []
    if quantities.BALANCE in metrics:
        state = "waits" if _is_ahead(known) else "learns"
        threshold = known.config.discriminator.balance_threshold
        parts.append(f"{state}: balance {round(metrics[quantities.BALANCE], 3) + 0.0:.3f} of {threshold:g}")
    for name, short in ((quantities.REAL, "real"), (quantities.FAKE, "fake"), (quantities.ACCURACY, "right")):
        if name in metrics:
            value = metrics[name]
            parts.append(f"{short} {value:.0%}" if name == quantities.ACCURACY else f"{short} {value:.2f}")
    for name, short in ((quantities.UPDATES, "updates"), (quantities.SKIPS, "skips")):
        if name in metrics:
            parts.append(f"{metrics[name]:.0f} {short}")
    return parts


def _wait(metrics: Mapping[str, float]) -> str:
    wait, step = metrics.get(quantities.DATA_WAIT), metrics.get(quantities.STEP_TIME)
    return f"wait {wait / step:.0%}" if wait is not None and step else ""


def _speed(known: Progressing) -> list[str]:
    metrics = known.metrics
    parts = [rate_text(known.rate)] if known.rate is not None else []
    if quantities.SAMPLES in metrics:
        parts.append(f"{metrics[quantities.SAMPLES]:.3g} samples/s")
    if quantities.TFLOPS in metrics:
        parts.append(f"{metrics[quantities.TFLOPS]:.3g} TFLOP/s")
    if quantities.MFU in metrics:
        parts.append(f"MFU {metrics[quantities.MFU]:.0%}")
    wait = _wait(metrics)
    return [*parts, f"data {wait}"] if wait else parts


def _memory(metrics: Mapping[str, float]) -> list[str]:
    parts = []
    if quantities.GPU_PEAK in metrics:
        parts.append(f"GPU {metrics[quantities.GPU_PEAK]:.3g} GiB")
    if quantities.GPU_RESERVED in metrics:
        parts.append(f"reserved {metrics[quantities.GPU_RESERVED]:.3g} GiB")
    if metrics.get(quantities.ALLOC_RETRIES):
        parts.append(f"{metrics[quantities.ALLOC_RETRIES]:.0f} retries")
    if quantities.HOST_MEMORY in metrics:
        parts.append(f"host {metrics[quantities.HOST_MEMORY]:.3g} GiB")
    return parts


def _scenes(known: Progressing) -> list[str]:
    """The last measurement of held-out scenes; beside each metric its best, where that was another one."""
    if not known.scores:
        return []
    last = max(known.scores)
    parts = [f"step {last}"]
    for name in METRICS:
        if name not in known.scores[last]:
            continue
        best = best_step(known.scores, name)
        text = f"{COLUMN[name]} {known.scores[last][name]:.4g}"
        if best == last:
            text += " (best)"
        elif best is not None:
            text += f" (best {known.scores[best][name]:.4g}, step {best})"
        parts.append(text)
    return parts


def _saved(known: Progressing) -> list[str]:
    if known.checkpoint is None:
        return []
    step, at = known.checkpoint
    return [f"step {step}", f"{clock(time.monotonic() - at)} ago"]


def _flowing(label: str, parts: Sequence[str], width: int, *, gap: str = GAP) -> list[str]:
    """Parts in as many lines as they need, below each other after the label; a part that is too long is cut."""
    room = width - LABEL
    lines: list[str] = []
    for part in parts:
        cut = part if cell_len(part) <= room else set_cell_size(part, room - 1) + "…"
        if lines and cell_len(lines[-1]) + cell_len(gap) + cell_len(cut) <= room:
            lines[-1] += gap + cut
        else:
            lines.append(cut)
    return [f"{label if number == 0 else '':{LABEL}}{line}" for number, line in enumerate(lines)]
