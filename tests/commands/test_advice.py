"""Advice that names an option: each command whose user may read it has that option."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tecogan_dist import cli
from tecogan_dist.config.leaves import leaves
from tecogan_dist.config.schema import Config

PACKAGE = Path(cli.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*[a-z0-9]")
OF_OTHERS = (
    *("--shm-size", "--ulimit", "--num-gpus", "--object-store-memory", "--include-dashboard", "--generate", "--follow"),
    "--name",  # --name value: any
)
"""Options of other programs."""
OF_A_COMMAND = re.compile(r"(?:tecogan (\w+)|(\w+)'s) [^;,]*$")
"""What stands before an option of a command that is named."""
UNREACHED = {
    "cluster.shortage": {"doctor"},  # has names of its own for the settings
    "metrics.perceptual": {"train", "tune", "doctor", "report"},  # without LPIPS, or with a network that they have read
    "runs.folder": {"doctor", "list", "report", "status", "tune"},  # train into new folders; look at what is there
    "runs.owner": {"doctor", "list", "status"},  # likewise
    "training.begin": {"doctor"},  # begins from nothing
    "upscaling.recurrence": {"doctor", "export", "train", "tune"},  # its notes are asked for by upscale alone
    "video.properties": {"doctor", "prepare", "train", "tune"},  # read frames alone, of interlaced videos too, or write
    # Published checkpoints are converted to where nothing is, and what they could become besides is not told.
    "weights.outputs": {"doctor", "fetch", "train", "tune"},
    "weights.tensorflow.convert": {"doctor", "evaluate", "fetch", "report", "train", "tune", "upscale"},
    # Make such a file, train without a perceptual loss, or fetch and read one with an advice of their own.
    "weights.vgg": {"convert", "doctor", "evaluate", "export", "fetch", "report", "upscale"},
}
"""Modules with the commands that import them, but never come to the sentence."""
NO_ADVICE = ("commands.places", "pages.", "diagnosis.inventory")
"""Tables of options, style sheets, and another program's command line."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


TREES = {name_of(path): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


@functools.cache
def imported(name: str) -> list[str]:
    """Modules of this package that a module imports, anywhere in it."""
    found = []
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tecogan_dist"):
            place = str(node.module).removeprefix("tecogan_dist").lstrip(".")
            found += [place, *(f"{place}.{one.name}".lstrip(".") for one in node.names)]
    return found


def reached(command: str) -> set[str]:
    """Modules that a command imports, and those import."""
    seen: set[str] = set()
    todo = [f"commands.{cli.module_of(command)}"]
    while todo:
        name = todo.pop()
        if name in TREES and name not in seen:
            seen.add(name)
            todo += imported(name)
    return seen


def texts(tree: ast.AST) -> Iterator[str]:
    """Strings of a file, without its docstrings; what is filled in is a star."""
    parts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def mentions(name: str) -> Iterator[tuple[str, str | None]]:
    """Options that the texts of a module name, each with the command that is named with it."""
    for text in texts(TREES[name]):
        for option in OPTION.finditer(text):
            if option[0] in OF_OTHERS:
                continue
            before = OF_A_COMMAND.search(text[: option.start()])
            command = before and (before[1] or before[2])
            yield option[0].replace("_", "-"), command if command in cli.COMMANDS else None


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Of each command, by its help."""
    settings = {f"--{name.replace('_', '-')}" for name, _ in leaves(Config())}
    found = {}
    for command in cli.COMMANDS:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            cli.main([command, "--help"])
        found[command] = set(OPTION.findall(shown.getvalue()))
        assert "--version" in found[command]
        if command in ("train", "tune"):
            found[command] |= settings
    return found


def test_no_advice_names_an_option_that_the_command_lacks(options: dict[str, set[str]]) -> None:
    wrong = []
    users = {command: reached(command) for command in cli.COMMANDS}
    for name in TREES:
        if name.startswith(NO_ADVICE):
            continue
        own = name.removeprefix("commands.")
        for option, command in mentions(name):
            readers = {own} if own in cli.COMMANDS else {one for one in users if name in users[one]}
            readers = {command} if command else readers - UNREACHED.get(name, set())
            wrong += [f"{name}: {option} for {reader}" for reader in readers if option not in options[reader]]
    assert not wrong
