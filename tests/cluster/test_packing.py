"""What travels to a cluster with a job."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tecogan_dist.cluster.packing import pack


def test_a_package_runs_where_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Path("settings/mine.yaml")
    settings.parent.mkdir()
    settings.write_text("steps: 3\n")
    archive, there = tmp_path / "job.zip", tmp_path / "there"
    assert pack(archive, [settings]) == archive.stat().st_size < 2**20
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        packed.extractall(there)
    assert {name.partition("/")[0] for name in names} == {"tecogan_dist", "settings"}
    assert {Path(name).suffix for name in names} == {".py", ".yaml", ".html"}
    # Without the checkout: only what was packed can be found.
    code = "import tecogan_dist, tecogan_dist.config.load as load; print(tecogan_dist.__file__, load.preset_names())"
    words = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(there)!r}); {code}"]
    ran = subprocess.run(words, cwd=there, capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.startswith(f"{there}/tecogan_dist/__init__.py ['frvsr'")


def test_what_has_not_changed_has_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is uploaded once."""
    monkeypatch.chdir(tmp_path)
    file = Path("mine.yaml")
    file.write_text("steps: 3\n")
    pack(tmp_path / "a.zip", [file])
    os.utime(file, (1, 1))
    pack(tmp_path / "b.zip", [file])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
