"""The READMEs name every file once where it lives, and name nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

FOLDERS = "tecogan_dist", "scripts", "tests", "cluster", "tune_spaces"
CAPTIONED = ".py", ".sh", ".yaml", ".sbatch", ""
"""Endings of files that a folder's README names."""
READMES = sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("README.md"))


def readme_of(module: Path) -> Path:
    """The nearest README of a module's folder or one above."""
    return next(folder / "README.md" for folder in module.parents if (folder / "README.md").exists())


MODULES = sorted(path for path in (REPOSITORY / "tecogan_dist").rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_module_has_a_caption(module: Path) -> None:
    readme = readme_of(module)
    assert re.search(rf"(?<![\w.]){re.escape(module.name)}(?!\w)", readme.read_text("utf-8")), f"missing in {readme}"


@pytest.mark.parametrize("readme", [REPOSITORY / "README.md", *READMES], ids=lambda path: str(path.parent.name))
def test_what_a_readme_names_is_there(readme: Path) -> None:
    text = readme.read_text("utf-8")
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) + re.findall(r"^\[[^]]+\]: (\S+)$", text, re.MULTILINE)
    for target in links:
        if "://" not in target:
            assert (readme.parent / target).exists(), target
    here = {path.name for path in REPOSITORY.rglob("*.py") if ".venv" not in path.parts}
    for name in re.findall(r"`(?:[\w./]+/)?(\w+\.py)`", text):
        assert name in here | {"metrics.py", "main.py", "runGan.py", "dataPrepare.py"}, name


@pytest.mark.parametrize("folder", ["cluster", "tune_spaces", "scripts"])
def test_every_file_of_a_folder_is_named(folder: str) -> None:
    readme = (REPOSITORY / folder / "README.md").read_text("utf-8")
    names = {path.name for path in (REPOSITORY / folder).iterdir() if path.suffix in CAPTIONED}
    assert not {name for name in names if name not in readme}


def test_the_first_page_stays_short() -> None:
    assert len((REPOSITORY / "README.md").read_text("utf-8").splitlines()) <= 170
