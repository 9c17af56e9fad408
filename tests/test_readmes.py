"""The READMEs name every file once where it lives, and name nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

READMES = sorted(
    path for folder in ("tecogan_dist", "scripts", "tests") for path in (REPOSITORY / folder).rglob("README.md")
)


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
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (readme.parent / target).exists(), target
    here = {path.name for path in REPOSITORY.rglob("*.py") if ".venv" not in path.parts}
    for name in re.findall(r"`(?:[\w./]+/)?(\w+\.py)`", text):
        assert name in here | {"metrics.py", "main.py", "runGan.py", "dataPrepare.py"}, name


def test_the_first_page_stays_short() -> None:
    assert len((REPOSITORY / "README.md").read_text("utf-8").splitlines()) <= 170
