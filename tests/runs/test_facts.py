"""What a run runs on, as it is found out and kept."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tecogan_dist.base.storage import Location
from tecogan_dist.runs.facts import (
    Facts,
    environment,
    facts_of_command,
    git_state,
    read_environment,
    with_nodes,
    write_environment,
)


def _git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_git_state_of_a_working_folder(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    _git(tmp_path, "init", "-q")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    _git(tmp_path, "add", "a")
    _git(tmp_path, "commit", "-q", "-m", "first")
    _git(tmp_path, "remote", "add", "origin", "https://me:password@example.com/code.git")
    (tmp_path / "untracked").write_text("does not count")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    found = git_state(tmp_path)
    assert found == {"commit": commit, "is_dirty": False, "remote": "https://example.com/code.git"}
    (tmp_path / "a").write_text("2")
    (tmp_path / "folder").mkdir()
    assert git_state(tmp_path / "folder") == {**found, "is_dirty": True}


def test_git_runs_nothing_that_the_repository_names(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    _git(tmp_path, "add", "a")
    _git(tmp_path, "commit", "-q", "-m", "first")
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\n")
    program.chmod(0o755)
    _git(tmp_path, "config", "core.fsmonitor", str(program))
    assert git_state(tmp_path) is not None
    assert not (tmp_path / "executed").exists()


def test_command_has_no_secrets_and_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    facts = facts_of_command("train", ["--output", "a b", "--data", "https://me:secret@host/x?token=abc", "new\nline"])
    assert facts.command.startswith("tecogan train --output 'a b' --data ")
    assert "secret" not in facts.command
    assert "abc" not in facts.command
    assert "\n" not in facts.command
    assert facts.git is None


def test_environment_is_kept_without_addresses_of_measurements(tmp_path: Path) -> None:
    node = {"name": "head", "cpus": 4, "gpus": 1, "gpu_model": "A100", "metrics": "http://10.0.0.1:8080/metrics"}
    tree = environment(with_nodes(Facts(command="tecogan train"), [node]), first_step=5, workers=2, device="cpu")
    output = Location.of(tmp_path)
    assert read_environment(output) == {}
    write_environment(output, tree)
    found = read_environment(output)
    assert found == tree
    assert found["nodes"] == [{"name": "head", "cpus": 4, "gpus": 1, "gpu_model": "A100"}]
    assert (found["first_step"], found["workers"], found["command"]) == (5, 2, "tecogan train")
    assert found["versions"].keys() >= {"tecogan_dist", "python", "torch", "ray", "deepspeed"}
    (tmp_path / "environment.json").write_text("[1")
    assert read_environment(output) == {}
