"""A run's records side by side: the same values at the same steps in each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.plain_runs import make_config, run
from tests.support.wandb_files import read_wandb


def test_w_and_b_has_what_metrics_jsonl_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, offline, turned on by its own variable."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "test")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run(make_config(["--tracking.save_every", "4", "--tracking.wandb-artifacts", "true"]), tmp_path / "run")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    recorded = read_wandb(file)
    assert recorded.project == "test"
    assert recorded.config["loss"]["warp"] == 1.0
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert recorded.config["environment"] == environment
    assert environment["versions"].keys() >= {"tecogan_dist", "python", "torch", "ray", "deepspeed"}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    rows = [{name: value for name, value in row.items() if not name.startswith("_")} for row in recorded.rows]
    assert [{"step": row["_step"]} for row in recorded.rows] == [{"step": line.pop("step")} for line in lines]
    assert rows == [pytest.approx(line) for line in lines]
    assert [sorted(artifact.aliases) for artifact in recorded.artifacts] == [["latest", "step-4"], ["latest", "step-6"]]
    assert {entry.path for entry in recorded.artifacts[0].manifest.contents} == {
        *("moments.safetensors", "state.json", "weights.safetensors")
    }


def test_without_a_project_w_and_b_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    said: list[str] = []
    run(make_config(["--steps", "1"]), tmp_path / "run", say=said.append)
    assert not (tmp_path / "run" / "wandb").exists()
    assert not [line for line in said if "W&B" in line]
