"""The names of records: one table, in the code and for people."""

from __future__ import annotations

from pathlib import Path

from tecogan_dist.runs.quantities import GROUPS, QUANTITIES, described, group_of
from tests.support.paths import REPOSITORY

TABLE = REPOSITORY / "tecogan_dist" / "training" / "README.md"


def rows(readme: Path) -> list[list[str]]:
    lines = [line for line in readme.read_text("utf-8").splitlines() if line.startswith("| `") and "/" in line]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def test_the_readmes_table_says_the_same() -> None:
    expected = [[q.name.replace("*", "<loss>"), q.unit, q.meaning] for q in QUANTITIES]
    assert rows(TABLE) == expected


def test_names_are_described_and_grouped() -> None:
    found = described("raw/perceptual_conv2_2")
    assert found is not None
    assert found.name == "raw/*"
    assert described("time/step") in QUANTITIES
    assert described("content") is None
    assert described("validation/other/psnr") is None
    assert group_of("validation/official/psnr") == "validation"
    assert len(set(GROUPS)) == len(GROUPS)
    assert {"loss", "raw", "discriminator", "time", "throughput", "memory", "validation"} <= set(GROUPS)
