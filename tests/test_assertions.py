"""Assertions are for programmers: with ``python -O`` they are gone, so nothing in the package depends on one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tecogan_dist.base.invariants import present, require

PACKAGE = Path(__file__).parents[1] / "tecogan_dist"


def test_the_package_has_none() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Name) and node.id == "__debug__")
    ]
    assert found == []


def test_what_stands_in_their_place() -> None:
    require(True, "all is well")
    assert present(0, "a number is there") == 0
    with pytest.raises(RuntimeError, match="a promise is not kept: all is well"):
        require(False, "all is well")
    with pytest.raises(RuntimeError, match="a promise is not kept: a number is there"):
        present(None, "a number is there")
