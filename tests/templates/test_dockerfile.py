"""cluster/Dockerfile: what hadolint says, what the image promises, and its install steps, executed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

DOCKERFILE = REPOSITORY / "cluster" / "Dockerfile"
IGNORED = REPOSITORY / "cluster" / "Dockerfile.dockerignore"
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["version"]
HADOLINT = str(Path(sys.executable).with_name("hadolint"))
ELSEWHERE = re.compile(r"\b(apt-get|useradd)\b")
"""Steps of the system's own package manager and users, which are not ours to change here."""


@dataclass(frozen=True)
class Step:
    """An instruction: RUN, COPY and so on, and what follows it, on one line."""

    kind: str
    text: str


def steps(text: str) -> list[Step]:
    """The instructions, without comments, continued lines joined as Docker joins them."""
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [Step(*line.split(maxsplit=1)) for line in joined.splitlines()]


STEPS = steps(DOCKERFILE.read_text("utf-8"))


def of(kind: str) -> list[str]:
    return [step.text for step in STEPS if step.kind == kind]


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HADOLINT, "--no-color", str(path)], capture_output=True, text=True, check=False, timeout=60)


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    done = hadolint(DOCKERFILE)
    assert done.returncode == 0, done.stdout + done.stderr

    planted = tmp_path / "Dockerfile"
    text = DOCKERFILE.read_text("utf-8")
    planted.write_text(text.replace("FROM ${BASE}", "FROM nvidia/cuda:latest").replace(" --no-cache-dir", ""), "utf-8")
    done = hadolint(planted)
    assert done.returncode != 0
    assert {"DL3007", "DL3042"} <= set(re.findall(r"DL\d+", done.stdout))


def test_what_the_image_promises() -> None:
    text = DOCKERFILE.read_text("utf-8")
    assert f'org.opencontainers.image.version="{VERSION}"' in of("LABEL")[0]
    assert set(re.findall(r"tecogan-dist:(\d+\.\d+\.\d+)", text)) == {VERSION}
    base = next(argument for argument in of("ARG") if argument.startswith("BASE="))
    assert re.fullmatch(r"BASE=nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu24\.04", base), "not an exact tag"
    assert re.search(r"--build-arg BASE=ubuntu:noble-\d{8}\b", text), "the CPU variant's is not an exact tag"
    assert of("USER") == ["1000:1000"]
    assert not of("ENTRYPOINT")
    packages = next(step for step in of("RUN") if "apt-get" in step)
    assert {"bash", "openssh-client", "python3.12-venv", "rsync", "wget"} <= set(packages.split())
    environment = " ".join(of("ENV"))
    assert "RAY_AUTH_MODE=token" in environment
    assert "RAY_JOB_STOP_WAIT_TIME_S=600" in environment


def test_a_change_of_code_builds_the_last_layers_only() -> None:
    kinds = [(step.kind, step.text) for step in STEPS]
    code = next(i for i, (kind, text) in enumerate(kinds) if kind == "COPY" and "tecogan_dist " in text)
    installs = [i for i, (kind, text) in enumerate(kinds) if kind == "RUN" and "pip install" in text]
    assert [i < code for i in installs] == [True, True, False]
    assert "--no-deps" in kinds[installs[-1]][1]


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    rules = [line for line in IGNORED.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"  # all is left out that is not named
    taken = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {word for text in of("COPY") for word in text.split()[:-1]}
    assert {word.replace("*", "") for word in copied} == taken
    for word in copied:
        assert "*" in word or (REPOSITORY / word).exists(), word


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_install_steps_install() -> None:
    """In a new virtual environment, without a compiler; the image's Python is another one, and its packages too."""
    # Some 7 GB, which pytest would keep.
    with tempfile.TemporaryDirectory(prefix="tecogan_image_") as name:
        folder = Path(name)
        places = {"/opt/venv": str(folder / "venv"), "/opt/tecogan": str(folder / "tecogan")}
        places["python3.12"] = sys.executable
        arguments = dict(text.split("=", 1) for text in of("ARG"))
        path = f"{folder}/venv/bin:/usr/bin:/bin"
        environment = os.environ | arguments | {"PATH": path, "CC": "/bin/false", "CXX": "/bin/false", "TMPDIR": name}
        environment["PIP_COMPILE"] = "0"  # nothing of bytecode is tested
        environment = {key: value.strip('"') for key, value in environment.items() if key not in ("PYTHONPATH",)}
        for step in STEPS:
            if step.kind == "COPY":
                copy(step.text, places)
            elif step.kind == "RUN" and not ELSEWHERE.search(step.text):
                call(["sh", "-c", replaced(step.text, places)], environment, folder)

        venv = folder / "venv" / "bin"
        found = call([str(venv / "python"), "-c", "import tecogan_dist as t; print(t.__file__)"], environment, folder)
        assert found.strip().startswith(str(folder / "venv")), found
        assert "train" in call([str(venv / "tecogan"), "--help"], environment, folder)
        assert "--cluster.workers" in call([str(venv / "tecogan"), "train", "--help"], environment, folder)
        assert "2.60" in call([str(venv / "ray"), "--version"], environment, folder)
        # Nothing of the tests' tools, nor of a cloud's.
        frozen = call([str(venv / "pip"), "freeze"], environment, folder)
        assert not re.search(r"^(pytest|boto3|moto)\b", frozen, re.MULTILINE)


def copy(text: str, places: dict[str, str]) -> None:
    """COPY, without the bytecode that the context leaves out."""
    *sources, target = text.split()
    destination = Path(replaced(target, places))
    for source in sources:
        for path in files(source):
            if path.is_dir():
                shutil.copytree(path, destination, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                destination.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, destination)


def files(source: str) -> Iterator[Path]:
    yield from REPOSITORY.glob(source)


def replaced(text: str, places: dict[str, str]) -> str:
    for there, here in places.items():
        text = text.replace(there, here)
    return text


def call(words: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout
