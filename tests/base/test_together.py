"""Files that are replaced together: all, or none, also where one of them cannot be replaced."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.together import existing, write_together

NAMES = ("a.csv", "b.json", "c.html")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_files_are_made_and_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    for text in ("first", "second"):
        assert write_together(folder, dict.fromkeys(NAMES, text)) == [folder / name for name in NAMES]
        assert contents(folder) == dict.fromkeys(NAMES, text)
    assert existing(folder, (*NAMES, "d")) == [folder / name for name in NAMES]


def test_a_file_that_cannot_be_replaced_leaves_all(tmp_path: Path) -> None:
    """The last of three cannot be changed, even by root; the first is new, the second is replaced before it."""
    before = {"b.json": "old", "c.html": "old", "other": "mine"}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    if subprocess.run(["chattr", "+i", str(tmp_path / "c.html")], capture_output=True).returncode:
        pytest.skip("files cannot be made immutable here")
    try:
        with pytest.raises(UserError, match=r"c\.html cannot be written \(Operation not permitted\)"):
            write_together(tmp_path, dict.fromkeys(NAMES, "new"))
        assert contents(tmp_path) == before
    finally:
        subprocess.run(["chattr", "-i", str(tmp_path / "c.html")], check=True)


def test_a_folder_in_a_files_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.html").mkdir()
    with pytest.raises(UserError, match=r"c\.html is a folder"):
        write_together(tmp_path, dict.fromkeys(NAMES, "new"))
    assert [path.name for path in tmp_path.iterdir()] == ["c.html"]
