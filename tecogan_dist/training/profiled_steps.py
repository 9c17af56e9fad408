"""Which steps of a run are profiled, and whether they can be: judged by the command, without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tecogan_dist.base.errors import UserError

MOST_STEPS = 20
"""In one trace. On a GPU, a step of the published settings is 100,000 events: 26 MB of JSON, which viewers keep in
memory, 1.6 MB in the file, and up to 8 seconds of writing, for which the run waits (H200, with memory)."""
_STEPS = re.compile(r"([0-9]{1,18})(?::([0-9]{1,18}))?")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Which steps of a run are recorded: those with these numbers, both included. The first step of a run is 1."""

    first: int
    last: int
    memory: bool = False
    """Also what the memory of the GPU is taken for."""


def parse_steps(text: str) -> tuple[int, int]:
    """``10:15`` is steps 10 to 15, ``10`` is one step. Raises :class:`UserError`."""
    found = _STEPS.fullmatch(text.strip())
    if found is None:
        raise UserError(f"{text!r} names no steps: give the first and the last, as 10:15.")
    first, last = int(found[1]), int(found[2] or found[1])
    if first < 1:
        raise UserError(f"the steps of a run begin with 1: there is no step {first} to profile.")
    if last < first:
        raise UserError(f"steps {first} to {last} run backwards: give the first before the last, as {last}:{first}.")
    if last - first >= MOST_STEPS:
        raise UserError(
            f"a trace of {last - first + 1} steps would be too large to look at: give at most {MOST_STEPS}, as "
            f"{first}:{first + 5}."
        )
    return first, last


def check_profile(wanted: Profile, *, done: int, steps: int) -> None:
    """Raise :class:`UserError` where a run of ``steps`` that goes on after step ``done`` does none of those wanted."""
    if done >= steps:
        raise UserError(f"all {steps} steps of the run are done, none is left to profile: raise steps.")
    if wanted.first > steps:
        raise UserError(f"the run ends with step {steps}: there is no step {wanted.first} to profile.")
    if wanted.last <= done:
        raise UserError(
            f"the run goes on after step {done}: profile steps from {done + 1} on, as {done + 2}:{done + 7}."
        )


def check_device(wanted: Profile, *, is_gpu: bool) -> None:
    """Raise :class:`UserError` where memory is wanted of a device that is no GPU."""
    if wanted.memory and not is_gpu:
        raise UserError("a snapshot of a GPU's memory needs a GPU, and this run has none: profile it without.")
