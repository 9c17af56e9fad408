"""What was found out: a line each, worst first, for people and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from tecogan_dist.base.console import printable
from tecogan_dist.base.invariants import require

Status = Literal["fail", "warn", "note", "ok"]
ORDER: tuple[Status, ...] = ("fail", "warn", "note", "ok")
FORMAT = 1
"""Of the JSON. It grows when a name is changed or goes; new names may come at any time."""
NAMED_MACHINES = 3
LONGEST = 1000
"""Characters of a line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A verdict on one subject. ``fail``: mend it first. ``warn``: a doubt. ``note``: not checked, or good to know."""

    status: Status
    subject: str
    text: str
    """What is so, in half a sentence."""
    machines: tuple[str, ...] = ()
    """Whom it is about; empty: all of them together."""
    advice: str = ""
    """What to do. Every ``fail`` and ``warn`` has it."""
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The numbers behind the text, for programs."""

    def __post_init__(self) -> None:
        require(bool(self.advice) or self.status in ("note", "ok"), f"{self.subject} says what to do")


def not_checked(subject: str, why: str) -> Finding:
    """A note that something could not be measured."""
    return Finding(status="note", subject=subject, text=f"not checked: {why}")


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Worst first; within a status as they were found. Equal ones of several machines become one."""
    merged: dict[tuple[str, ...], Finding] = {}
    for finding in findings:
        key = (finding.status, finding.subject, finding.text, finding.advice, str(bool(finding.machines)))
        before = merged.get(key)
        if before is None:
            merged[key] = finding
        else:
            others = tuple(name for name in finding.machines if name not in before.machines)
            merged[key] = dataclasses.replace(before, machines=before.machines + others)
    return sorted(merged.values(), key=lambda finding: ORDER.index(finding.status))


def worst(findings: Sequence[Finding]) -> Status:
    """``fail``, ``warn`` or ``ok``: notes count as ok."""
    for status in ORDER[:2]:
        if any(finding.status == status for finding in findings):
            return status
    return "ok"


def table(findings: Sequence[Finding], *, machines: int) -> list[str]:
    """A line each. ``machines``: how many there are, so that "all" can be said."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        where = f"{_named(finding.machines, machines)}: " if finding.machines else ""
        advice = f" -> {finding.advice}" if finding.advice else ""
        # Names of machines, and what they say, come from outside.
        said = printable(f"{where}{finding.text}{advice}", limit=LONGEST)
        lines.append(f"{finding.status:4}  {finding.subject:{width}}  {said}")
    return lines


def summary(findings: Sequence[Finding]) -> str:
    """The last line: how many of what, in words."""
    faults, doubts, unchecked = (
        sum(finding.status == "fail" for finding in findings),
        sum(finding.status == "warn" for finding in findings),
        sum(finding.text.startswith("not checked") for finding in findings),
    )
    parts = [
        f"{faults or 'no'} fault{'' if faults == 1 else 's'}",
        f"{doubts or 'no'} doubt{'' if doubts == 1 else 's'}",
    ]
    if unchecked:
        parts.append(f"{unchecked} not checked")
    return ", ".join(parts) + (": mend the faults before you train here" if faults else "")


def as_tree(findings: Sequence[Finding], inventories: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The JSON: see this package's README."""
    return {
        "format": FORMAT,
        "verdict": worst(findings),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "machines": inventories,
    }


def _named(names: tuple[str, ...], machines: int) -> str:
    if len(names) == machines > 1:
        return f"all {machines} machines"
    shown = ", ".join(names[:NAMED_MACHINES])
    return shown + (f" and {len(names) - NAMED_MACHINES} more" if len(names) > NAMED_MACHINES else "")
