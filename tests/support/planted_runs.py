"""Records in which a known pattern is planted, and others in which there is none.

The curves in ``tests/reference/curves.json`` are records of real runs on CPU (``training/NORMAL.md`` says which), by
column and with four digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support.paths import REFERENCE

Lines = list[dict[str, Any]]


def recorded(name: str) -> Lines:
    """A recorded curve as lines of ``metrics.jsonl``."""
    columns = json.loads((REFERENCE / "curves.json").read_text("utf-8"))[name]
    rows = zip(*columns.values(), strict=True)
    return [{key: value for key, value in zip(columns, row, strict=True) if value is not None} for row in rows]


def longer(lines: Lines, times: int, *, last_lines: int | None = None) -> Lines:
    """A longer run: the recorded one, and its later half, or its last lines, again and again."""
    again = lines[-(last_lines or len(lines) // 2) :]
    before = lines[-len(again) - 1]
    found = list(lines)
    for number in range(1, times):
        for line in again:
            counted = ("step", "discriminator/updates", "discriminator/skips")
            grown = {name: line[name] + number * (lines[-1][name] - before[name]) for name in counted if name in line}
            found.append(line | grown)
    return found


def with_a_lead(lines: Lines) -> Lines:
    """The same run with a discriminator whose balance swings through the threshold, and which is updated while it is
    below, as the original's rule is meant to work. In no recorded run did both networks learn and it came to that.
    """
    updates = skips = before = 0
    for line in lines:
        balance = 0.33 + 0.12 * math.sin(line["step"] / 150)
        passed, before = line["step"] - before, line["step"]
        updates, skips = (updates, skips + passed) if balance > 0.4 else (updates + passed, skips)
        line |= {"discriminator/balance": balance, "discriminator/accuracy": 0.72 + 0.05 * math.cos(line["step"])}
        line |= {"discriminator/updates": updates, "discriminator/skips": skips}
        line |= {"raw/adversarial": 0.9 + 0.2 * math.sin(line["step"] / 150), "discriminator/fake": 0.4}
    return lines


class Planted:
    """A healthy curve of 27,000 steps, 20 a line, in which something goes wrong from some step on."""

    def __init__(self, base: str = "tiny", times: int = 8) -> None:
        self.lines = longer(recorded(base), times)

    def set(self, name: str, value: float | Callable[[float, int], float], *, first: int, last: int) -> Planted:
        """Replace, or by a function of the value and the step change, what the lines of these steps say of a name."""
        for line in self.lines:
            if first <= line["step"] <= last:
                line[name] = value(line.get(name, math.nan), line["step"]) if callable(value) else value
        return self

    @property
    def end(self) -> int:
        return int(self.lines[-1]["step"])


def steps_of(planted: Planted, first: int, last: int) -> tuple[int, int]:
    """First and last recorded step in this range."""
    inside = [line["step"] for line in planted.lines if first <= line["step"] <= last]
    return inside[0], inside[-1]


def discriminator_wins() -> Planted:
    run = Planted()
    frozen = next(line for line in run.lines if line["step"] >= 5400)["discriminator/updates"]
    run.set("discriminator/balance", 0.9, first=5400, last=11_100)
    run.set("discriminator/updates", frozen, first=5400, last=11_100)
    run.set("discriminator/skips", lambda _, step: step - frozen, first=5400, last=11_100)
    # From then on it is updated again.
    run.set("discriminator/balance", 0.3, first=11_101, last=run.end)
    run.set("discriminator/updates", lambda _, step: frozen + step - 11_100, first=11_101, last=run.end)
    return run.set("discriminator/skips", 11_100 - frozen, first=11_101, last=run.end)


def cannot_tell() -> Planted:
    run = Planted()
    run.set("discriminator/accuracy", lambda _, step: 0.5 + 0.01 * math.sin(step), first=4000, last=run.end)
    return run.set("discriminator/balance", lambda _, step: 0.003 * math.cos(step), first=4000, last=run.end)


def collapse() -> Planted:
    run = Planted()
    for name in ("raw/content", "loss/content", "loss/total"):
        run.set(name, lambda value, _: 5 * value, first=6000, last=run.end)
    return run


def collapse_of_psnr() -> Planted:
    run = Planted("small", 1)
    return run.set(
        "validation/official/psnr", lambda value, _: value - 6 if value == value else value, first=7001, last=9000
    )


def saturated() -> Planted:
    run = Planted().set("raw/adversarial", 27.4, first=6000, last=8000)
    return run.set("discriminator/fake", 1e-12, first=6000, last=8000)


def spikes() -> Planted:
    run = Planted()
    for step in (4000, 6000, 9000):
        run.set("raw/content", lambda value, _: 12 * value, first=step, last=step + 19)
    return run


def divergence() -> Planted:
    run = Planted()
    return run.set("raw/content", lambda value, step: value * math.exp((step - 5000) / 3000), first=5000, last=run.end)


def left_out() -> Planted:
    return Planted().set("optim/bad_steps", lambda _, step: min(7, (step - 5980) // 20), first=6000, last=10**6)


def vanished() -> Planted:
    return Planted().set("grad_norm/generator", 3e-9, first=6000, last=10**6)


def clipped() -> Planted:
    return Planted().set("grad_norm/generator", lambda value, _: max(value, 0.01), first=0, last=10**6)


def large_updates() -> Planted:
    return Planted().set("weights/update_ratio", 0.05, first=6000, last=8000)


def small_updates() -> Planted:
    return Planted().set("weights/update_ratio", 1e-8, first=6000, last=8000)


def no_rate() -> Planted:
    run = Planted().set("optim/learning_rate", 0.0, first=6000, last=10**6)
    return run.set("weights/update_ratio", 0.0, first=6000, last=10**6)


def data_wait() -> Planted:
    return Planted().set("time/step", 0.5, first=0, last=10**6).set("time/data_wait", 0.2, first=6000, last=8000)


def checkpoint_wait() -> Planted:
    run = Planted().set("time/step", 0.5, first=0, last=10**6).set("time/checkpoint", 0.0, first=0, last=10**6)
    for step in range(2000, 10001, 400):
        run.set("time/checkpoint", 4.0, first=step, last=step + 19)
    return run


def all_reduce() -> Planted:
    return Planted().set("time/step", 0.5, first=0, last=10**6).set("time/all_reduce", 0.3, first=6000, last=8000)


def full_memory() -> Planted:
    run = Planted().set("memory/gpu_reserved", 78.5, first=0, last=10**6)
    run.set("memory/alloc_retries", 0, first=0, last=5999)
    run.set("memory/alloc_retries", lambda _, step: (step - 5980) // 20, first=6000, last=6100)
    return run.set("memory/alloc_retries", 6, first=6101, last=10**6)


def worse_validation() -> Planted:
    run = Planted("small", 1)
    run.set("raw/content", lambda value, step: value * (1 - (step - 3000) / 20000), first=3000, last=9000)
    return run.set("validation/official/psnr", lambda value, step: value - (step - 4500) / 4500, first=4501, last=9000)


PLANTED: dict[Callable[[], Planted], tuple[str, int, int]] = {
    discriminator_wins: ("discriminator wins", 5400, 11_100),
    cannot_tell: ("discriminator cannot tell", 4000, 10**6),
    collapse: ("collapse", 6000, 10**6),
    collapse_of_psnr: ("collapse", 7500, 9000),
    saturated: ("scores saturated", 6000, 8000),
    spikes: ("loss spikes", 4000, 9019),
    divergence: ("divergence", 0, 10**6),
    left_out: ("steps left out", 6000, 6120),
    vanished: ("gradients vanish", 6000, 10**6),
    clipped: ("clipping always on", 0, 10**6),
    large_updates: ("updates too large", 6000, 8000),
    small_updates: ("updates too small", 6000, 8000),
    no_rate: ("learning rate is zero", 6000, 10**6),
    data_wait: ("waiting for data", 6000, 8000),
    checkpoint_wait: ("waiting for checkpoints", 2000, 10019),
    all_reduce: ("all-reduce dominates", 6000, 8000),
    full_memory: ("GPU memory is full", 6000, 6100),
    worse_validation: ("validation gets worse", 4500, 9000),
}


ROUGHLY = "divergence", "clipping always on"
"""Patterns without a first step of their own: a drift, and a state."""


def held_out_windows(seed: int, *, noise: float, grows: float = 0.0) -> Lines:
    """22,000 steps without measured scenes; the loss of held-out windows, each 100, wavers and may grow at last."""
    random = np.random.default_rng(seed)
    lines = []
    for step in range(20, 22_001, 20):
        share = step / 22_000
        level = math.log(0.35 + 0.65 * math.exp(-5 * share))
        line = {"step": step, "raw/content": math.exp(level + random.normal(0, 0.12))}
        if step % 100 == 0:
            held_out = level + max(0.0, share - 0.4) / 0.6 * math.log1p(grows) + random.normal(0, noise)
            line["validation/loss/content"] = math.exp(held_out)
        lines.append(line)
    return lines
