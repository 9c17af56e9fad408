"""An input from a sample: which file of it is changed, and how. The same seed gives the same input."""

from __future__ import annotations

import functools
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import PurePath
from random import Random

import yaml

from fuzzing import answers, formats, raw, trees
from fuzzing.samples import Files

BY_SUFFIX: dict[str, Callable[[bytes, Random], bytes]] = {
    ".png": formats.png,
    ".jpeg": formats.jpeg,
    ".mp4": formats.mp4,
    ".safetensors": formats.safetensors,
    ".parquet": formats.parquet,
}
PICTURES = ".png", ".jpeg", ".zip", ".mp4", ".mkv", ".avi"


def mutated(kind: str, samples: Sequence[Files], *, seed: int, number: int) -> Files:
    """Input ``number`` of a kind. Number 0 to ``len(samples)`` - 1 are the samples as they are."""
    if number < len(samples):
        return dict(samples[number])
    random = Random(f"{seed} {kind} {number}")
    files = dict(random.choice(samples))
    if kind == "http":
        return answers.changed(files, random)
    if kind == "words":
        return {name: _words(data, random) for name, data in files.items()}
    name = random.choice(sorted(files))
    other = random.choice(samples)
    if len(files) > 1 and random.random() < 0.03:
        del files[name]
    elif len(files) > 1 and random.random() < 0.03:
        files[name] = files[random.choice(sorted(files))]
    else:
        files[name] = changed(PurePath(name).suffix, files[name], random, other=other.get(name, b""))
    return files


def changed(suffix: str, data: bytes, random: Random, *, other: bytes = b"") -> bytes:
    """The content of a file, changed as suits its suffix."""
    choice = random.random()
    if suffix in (".yaml", ".json", ".jsonl"):
        if choice < 0.6:
            return _document(suffix, data, random)
        return raw.changed_text(data, random) if choice < 0.85 else raw.changed(data, random, other=other)
    if suffix in PICTURES and choice < 0.04:
        return random.choice(formats.DISGUISED)
    if suffix == ".zip" and choice < 0.4:
        return formats.archive(_members(data), random)
    if suffix in BY_SUFFIX and choice < 0.5:
        return BY_SUFFIX[suffix](data, random)
    return raw.changed(data, random, other=other)


def _document(suffix: str, data: bytes, random: Random) -> bytes:
    if suffix == ".jsonl":
        lines = data.decode().splitlines()
        at = random.randrange(len(lines))
        lines[at] = trees.text_of(trees.changed(json.loads(lines[at]), random))
        return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")
    if suffix == ".json":
        return trees.text_of(trees.changed(json.loads(data), random)).encode("utf-8", "surrogatepass")
    if random.random() < 0.03:
        return (trees.bomb() + data.decode()).encode()
    if random.random() < 0.4:  # one value of the text as it was written
        lines = data.decode().splitlines()
        at = random.choice([i for i, line in enumerate(lines) if ":" in line])
        lines[at] = f"{lines[at].partition(':')[0]}: {random.choice(trees.SNIPPETS)}"
        return "\n".join(lines).encode()
    tree = yaml.safe_load(data)
    return trees.text_of(trees.changed(tree, random)).encode("utf-8", "surrogatepass")


def _words(data: bytes, random: Random) -> bytes:
    command, *words = json.loads(data)
    options = [word for word in words if word.startswith("--")] or ["--help"]
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(words) + 1)
        value = trees.hostile(random)
        hostile = str(value) if isinstance(value, str | int | float) else trees.text_of(value)[:100]
        match random.randrange(6):
            case 0:
                words.insert(at, hostile)
            case 1 if words:
                words[at - 1] = hostile
            case 2 if words:
                del words[at - 1]
            case 3:
                words.insert(at, f"{random.choice(options)}={hostile}")
            case 4:
                words.insert(at, "--" + hostile)
            case _:
                words.insert(at, random.choice(options)[: random.randrange(2, 12)])
    return json.dumps([command, *words]).encode()


@functools.lru_cache(maxsize=4)
def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
