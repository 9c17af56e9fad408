"""What a run runs on: command, revision, versions and machines, kept in ``environment.json`` in the run's folder.

Each attempt writes it anew; whoever shows a run reads it with :func:`read_environment`::

    {"command": "tecogan train --config frvsr ...",        # of the driver, without secrets; "" where it is not known
     "git": {"commit": "2960cf9...", "is_dirty": false, "remote": "https://..."},   # null: no repository
     "host": "...",                                        # of the first worker
     "versions": {"tecogan_dist": "0.1.0", "python": "3.11.7", "torch": "2.14.0", "cuda": "13.0", "driver": "...", ...},
     "workers": 4, "device": "NVIDIA H100 80GB HBM3",      # "cpu" where there is no GPU
     "nodes": [{"name": "...", "address": "10.0.0.1", "cpus": 16, "gpus": 8, "gpu_model": "H100", "memory_gib": 960.0}],
     "time": "2026-11-26T13:00:00+00:00", "first_step": 1}

``nodes`` is empty where a run is not on Ray. Any key may be missing in a file of another version.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tecogan_dist.base.addresses import without_secrets
from tecogan_dist.base.console import printable
from tecogan_dist.base.documents import parse_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location

ENVIRONMENT_FILE = "environment.json"
ENVIRONMENT_BYTES = 2**22
PACKAGES = ("tecogan_dist", "torch", "ray", "deepspeed", "wandb", "numpy")
DRIVER_FILE = Path("/proc/driver/nvidia/version")
GIT_SECONDS = 10.0
COMMAND_CHARACTERS = 4000


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the driver knows of a run and hands to the worker that keeps its records."""

    command: str = ""
    git: Mapping[str, Any] | None = None
    nodes: tuple[Mapping[str, Any], ...] = ()
    """Of the cluster, as :func:`tecogan_dist.cluster.facts.nodes` gives them; ``metrics`` is where Ray serves a node's
    measurements, and is not written."""


def facts_of_command(name: str, words: Sequence[str]) -> Facts:
    """Of ``tecogan NAME WORDS...``, called in the working folder: without secrets that are in URLs."""
    command = without_secrets(shlex.join(["tecogan", name, *words]))
    try:
        folder = Path.cwd()
    except OSError:  # it has been removed
        folder = None
    return Facts(
        command=printable(command, limit=COMMAND_CHARACTERS), git=None if folder is None else git_state(folder)
    )


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, whether tracked files differ from it, and the remote without secrets; None outside of a repository.

    Git is asked for nothing that would run a program that the repository names.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        return None
    changes = _git(folder, "-c", "diff.ignoreSubmodules=all", "status", "-s", "-uno")
    remote = _git(folder, "config", "remote.origin.url")
    return {
        "commit": commit,
        "is_dirty": None if changes is None else bool(changes),
        "remote": None if not remote else printable(without_secrets(remote), limit=300),
    }


def _git(folder: Path, *words: str) -> str | None:
    quiet = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        asked = subprocess.run(
            ["git", *quiet, *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.decode(errors="replace").strip() if asked.returncode == 0 else None


def versions() -> dict[str, str]:
    """Of what a run depends on, as far as it is installed here."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    import torch

    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    try:
        match = re.search(r"(?:Kernel Module|for \w+)\s+([0-9][0-9.]*)", DRIVER_FILE.read_text("utf-8", "replace"))
    except OSError:
        match = None
    if match is not None:
        found["driver"] = match[1]
    return found


def environment(facts: Facts, *, first_step: int, workers: int, device: str) -> dict[str, Any]:
    """The content of ``environment.json``, made in the first worker, of the attempt that begins with ``first_step``."""
    return {
        "command": facts.command,
        "git": None if facts.git is None else dict(facts.git),
        "host": socket.gethostname(),
        "versions": versions(),
        "workers": workers,
        "device": device,
        "nodes": [{name: value for name, value in node.items() if name != "metrics"} for node in facts.nodes],
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "first_step": first_step,
    }


def write_environment(output: Location, tree: Mapping[str, Any]) -> None:
    """Keep it in the run's folder. Raises :class:`UserError` if it cannot be written."""
    (output / ENVIRONMENT_FILE).write_bytes((json.dumps(tree, indent=2, allow_nan=False) + "\n").encode())


def read_environment(output: Location) -> dict[str, Any]:
    """What the newest attempt wrote; empty if there is none, or if it is damaged: it is for people only."""
    file = output / ENVIRONMENT_FILE
    try:
        tree = parse_json(file.read_bytes(limit=ENVIRONMENT_BYTES), source=file)
    except (FileNotFoundError, UserError):
        return {}
    return tree if isinstance(tree, dict) else {}


def with_nodes(facts: Facts, nodes: Sequence[Mapping[str, Any]]) -> Facts:
    """The same with what the cluster is now."""
    return dataclasses.replace(facts, nodes=tuple(nodes))
