"""What travels to a cluster with a job."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.packing import MOST_BYTES, pack


def test_a_package_runs_where_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Path("settings/mine.yaml")
    settings.parent.mkdir()
    settings.write_text("steps: 3\n")
    archive, there = tmp_path / "job.zip", tmp_path / "there"
    assert pack(archive, [settings]) == archive.stat().st_size < 2**21
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        packed.extractall(there)
    assert {name.partition("/")[0] for name in names} == {"tecogan_dist", "settings"}
    assert {Path(name).suffix for name in names} == {".py", ".yaml", ".html", ".safetensors"}
    # Without the checkout: only what was packed can be found.
    code = "import tecogan_dist, tecogan_dist.config.load as load; print(tecogan_dist.__file__, load.preset_names())"
    words = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(there)!r}); {code}"]
    ran = subprocess.run(words, cwd=there, capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.startswith(f"{there}/tecogan_dist/__init__.py ['frvsr'")


@pytest.mark.parametrize("kind", ["fifo", "folder", "link outside", "folder outside", "missing", "grown", "device"])
def test_only_small_ordinary_files_below_the_working_directory_go(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, secret = tmp_path / "here", tmp_path / "secret.yaml"
    here.mkdir()
    secret.write_text("steps: 3\n")
    monkeypatch.chdir(here)
    file = Path("mine.yaml")
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "link outside":
        file.symlink_to(secret)
    elif kind == "folder outside":
        Path("link").symlink_to(tmp_path)
        file = Path("link/secret.yaml")
    elif kind == "grown":
        file.write_bytes(bytes(MOST_BYTES + 1))
    elif kind == "device":
        file.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=str(file)):
        pack(tmp_path / "job.zip", [file])
    assert not (tmp_path / "job.zip").exists()


def test_what_has_not_changed_has_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is uploaded once."""
    monkeypatch.chdir(tmp_path)
    file = Path("mine.yaml")
    file.write_text("steps: 3\n")
    pack(tmp_path / "a.zip", [file])
    os.utime(file, (1, 1))
    pack(tmp_path / "b.zip", [file])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
