"""Every command line of ours in ``cluster/``, in its READMEs and in the top one is one that its command understands."""

from __future__ import annotations

import contextlib
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tecogan_dist.cli import COMMANDS, module_of
from tests.support.paths import REPOSITORY

FILES = [
    REPOSITORY / "README.md",
    REPOSITORY / "tune_spaces" / "README.md",
    *sorted(path for path in (REPOSITORY / "cluster").iterdir() if path.is_file()),
]
NAMES = "|".join(COMMANDS)
BEGINS = re.compile(rf"(?:^|[\s\"'(])(?:tecogan |\S*python3? -m tecogan_dist\.)(?P<words>(?:{NAMES}) .*)")
"""What stands before the words of a command."""
ENDS = {"&&", "||", "|", ";", "&", ")", "}", ">", ">>", "2>&1"}
ARGUMENTS = "--config frvsr --data s3://films/store --output s3://films/frvsr"
"""For a script that takes a command's options as its own."""


def texts(path: Path) -> Iterator[str]:
    """Pieces of a file in which commands stand: its lines, and in YAML the values, which may fold lines."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        yield from re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        yield from (span for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text) if "..." not in span)
        return
    if path.suffix == ".yaml":
        # The values hold what the lines without comments do.
        yield "\n".join(line for line in text.splitlines() if line.lstrip().startswith("#"))
        for document in yaml.safe_load_all(text):
            yield from values(document)
        return
    yield text


def values(node: Any) -> Iterator[str]:
    """All texts of a YAML document."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from values(value)
    elif isinstance(node, list):
        if all(isinstance(value, str) for value in node):
            yield shlex.join(node)  # a command in words
        for value in node:
            yield from values(value)


def commands(path: Path) -> list[list[str]]:
    """The words after ``tecogan``, of each command line in a file."""
    found = []
    for text in texts(path):
        joined = re.sub(r"\\\n\s*#?\s*", " ", text).replace('"$@"', ARGUMENTS)
        for name, value in re.findall(r'^\s*(\w+)="([^"$]*)"$', joined, re.MULTILINE):
            joined = re.sub(rf"\${name}\b", value, joined)
        for line in joined.splitlines():
            match = BEGINS.search(line.lstrip("# "))
            if match:
                found.append(words_of(match["words"]))
    return found


def words_of(text: str) -> list[str]:
    """As the shell would split them, up to the end of the command."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if word in ENDS:
            break
        words.append(word)
    return words


CASES = [(path.name, words) for path in FILES for words in commands(path)]


def test_commands_are_found() -> None:
    """That the search above sees what it should, whatever way a file writes its commands."""
    of_files = {name for name, _ in CASES}
    assert {path.name for path in FILES} - of_files <= {"Dockerfile", "Dockerfile.dockerignore"}
    assert {"train", "submit", "doctor", "prepare"} <= {word for _, words in CASES for word in words}


@pytest.mark.parametrize("words", [pytest.param(words, id=f"{name}: {words[0]}") for name, words in CASES])
def test_a_command_is_understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)  # for files that commands name: spaces, presets
    understood(words)


def understood(words: list[str]) -> None:
    """Read the command line as its command would; of ``submit`` also the command that is submitted."""
    name, *rest = words
    parse = importlib.import_module(f"tecogan_dist.commands.{module_of(name)}").parse
    if name == "submit":
        cut = rest.index("--")
        understood(rest[cut + 1 :])
        rest = rest[:cut]
    with contextlib.suppress(SystemExit):  # --help
        parse(rest)


def test_a_planted_mistake_is_found() -> None:
    with pytest.raises(ValueError, match="did you mean"):
        understood(words_of("submit -- train --config frvsr --data s3://a/b --output s3://a/c --cluster.wrokers 2"))
    with pytest.raises(ValueError, match="--batch-size cannot be"):
        understood(words_of("train --config frvsr --data s3://a/b --output s3://a/c --batch-size two"))
