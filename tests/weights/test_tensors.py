"""The container of weights files: any bytes are tensors or a sentence, in bounded time and memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.weights import tensors as module
from tecogan_dist.weights.tensors import CHECKSUM, LARGEST_HEADER, read_tensors, write_tensors
from tests.support.properties import EXAMPLES, mutated

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor(-0.5),
    "none": torch.zeros(0, 4),
    "wide": torch.linspace(-1, 1, 50),
}
Header = dict[str, Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.safetensors"


def taken_apart(path: Path) -> tuple[Header, bytes]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_together(path: Path, header: object, values: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + values)


def test_what_is_written_comes_back_and_safetensors_agrees(path: Path) -> None:
    write_tensors(path, TENSORS, {"about": "ünïcode"})
    found, metadata = read_tensors(path)
    theirs = safetensors.torch.load_file(path)
    assert found.keys() == theirs.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor)
        assert torch.equal(theirs[name], tensor)
    assert metadata["about"] == "ünïcode"
    assert len(metadata[CHECKSUM]) == 64


def test_files_of_others_carry_no_checksum_and_are_read(path: Path) -> None:
    halves = {"h": torch.tensor([1.5, -2]).half(), "b": torch.tensor([0.5]).bfloat16(), "a": torch.ones(1)}
    safetensors.torch.save_file(halves, path)
    found, metadata = read_tensors(path)
    assert metadata == {}
    for name, tensor in halves.items():
        assert torch.equal(found[name], tensor.float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.int8, torch.bool])
def test_types_that_float32_would_round_are_refused(path: Path, dtype: torch.dtype) -> None:
    safetensors.torch.save_file({"x": torch.ones(3).to(dtype)}, path)
    with pytest.raises(UserError, match=r"w\.safetensors holds x in the type .*: weights are float32 here"):
        read_tensors(path)


def test_every_changed_bit_of_values_and_metadata_is_found(path: Path) -> None:
    write_tensors(path, TENSORS, {"step": "12"})
    whole = path.read_bytes()
    name = whole.index(CHECKSUM.encode())  # under another name it is an entry that readers of weights do not know
    for position in {*range(8, len(whole), 7)} - {*range(name, name + len(CHECKSUM))}:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        with pytest.raises(UserError, match="take another copy"):
            read_tensors(path)


def changed(**changes: object) -> Callable[[Header], None]:
    return lambda header: header["a"].update(changes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed(data_offsets=[0, 2**62]), "do not fill its shape"),
        (changed(data_offsets=[-24, 0]), "impossible shape or place"),
        (changed(data_offsets=[4, 28]), "do not begin where"),
        (changed(data_offsets=[0]), "impossible shape or place"),
        (changed(shape=[2**62, 2**62]), "do not fill its shape"),
        (changed(shape=[0, 2**62]), "do not fill its shape"),
        (changed(shape=[True, 6]), "impossible shape or place"),
        (changed(shape=[2.0, 3.0]), "impossible shape or place"),
        (changed(shape=[1] * 100), "impossible shape or place"),
        (changed(dtype="F99"), "a type that is not known"),
        (changed(dtype=["F32"]), "a type that is not known"),
        (changed(more=1), "does not describe a"),
        (lambda header: header.update(a=None), "does not describe a"),
        (lambda header: header.update(__metadata__=[]), "are not texts"),
        (lambda header: header.update(__metadata__={"step": 1}), "are not texts"),
        (lambda header: header.pop("wide"), "bytes of values where its header says"),
        (lambda header: header.update({f"t{i}": header["none"] for i in range(21_000)}), "not a list of tensors"),
    ],
)
def test_impossible_headers(path: Path, change: Callable[[Header], Any], reason: str) -> None:
    write_tensors(path, TENSORS, {})
    header, values = taken_apart(path)
    change(header)
    put_together(path, header, values)
    with pytest.raises(UserError, match=rf"is not a safetensors file, or is damaged or cut short \(.*{reason}"):
        read_tensors(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\1",
        b"\xff" * 8,
        (2**63).to_bytes(8, "little") + b"{}",
        (LARGEST_HEADER + 1).to_bytes(8, "little") + b" " * (LARGEST_HEADER + 1),
        (400_000).to_bytes(8, "little") + b'{"a":' * 80_000,
        (5).to_bytes(8, "little") + b"[1,2]",
        (4).to_bytes(8, "little") + "{}".encode("utf-16-le"),
        (9).to_bytes(8, "little") + b'{"a":NaN}',
    ],
    ids=range(9),
)
def test_other_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a safetensors file"):
        read_tensors(path)


def test_more_than_the_memory_is_refused_before_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file of 4 GB, on a machine of 1 GB."""
    entry = {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}
    put_together(path, {"a": entry}, b"")
    os.truncate(path, path.stat().st_size + 4 * 10**9)
    monkeypatch.setattr(module, "machine_memory", lambda: 10**9)
    with pytest.raises(UserError, match=r"holds 4\.0 GB of weights, too much for the 1\.0 GB of memory here"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("kind", "word"), [("fifo", "a FIFO"), ("folder", "a folder"), ("device", "a device"), ("loop", "in a circle")]
)
def test_what_is_not_a_file(path: Path, kind: str, word: str) -> None:
    {
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path),
    }[kind]()
    with pytest.raises(UserError, match=word):
        read_tensors(path)


@EXAMPLES
@given(data=st.data())
def test_any_changes_end_in_tensors_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    safetensors.torch.save_file(TENSORS, path, {"step": "1"})
    path.write_bytes(mutated(path.read_bytes(), data))
    try:
        found, _ = read_tensors(path)
    except UserError:
        return
    assert all(isinstance(tensor, Tensor) and tensor.dtype == torch.float32 for tensor in found.values())
