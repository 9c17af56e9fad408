"""Ten seconds of ``scripts/fuzz.py`` find nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

FUZZ = REPOSITORY / "scripts" / "fuzz.py"


@pytest.mark.slow
def test_ten_seconds_find_nothing(tmp_path: Path) -> None:
    """Inputs are the same every time; how many there are depends on the machine."""
    command = [sys.executable, str(FUZZ), "--seconds", "10", "--seed", "1", "--keep", str(tmp_path / "finds")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    total = next(line for line in ended.stdout.splitlines() if line.startswith("all "))
    _, inputs, values, refused, found = total.split()
    assert (int(values) > 0, int(refused) > 0, int(found)) == (True, True, 0)
    assert int(inputs) >= 30
    assert not (tmp_path / "finds").exists()
