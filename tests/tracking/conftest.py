from __future__ import annotations

import os
from pathlib import Path

import pytest

from tecogan_dist.tracking import wandb_offline


@pytest.fixture
def wandb_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of this machine, and nobody waits for an attempt that has ended in order."""
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(wandb_offline, "SETTLED_SECONDS", 0.0)
