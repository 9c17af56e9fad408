"""What runs have recorded, for comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tecogan_dist.runs.quantities import group_of

MEASURED_ANEW = ("time", "throughput", "memory")
"""Groups of quantities that differ between two runs of the same steps."""


def timeless(lines: Iterable[Mapping[str, float]]) -> list[dict[str, float]]:
    """Lines of ``metrics.jsonl`` without what depends on the machine and the hour."""
    return [{name: value for name, value in line.items() if group_of(name) not in MEASURED_ANEW} for line in lines]
