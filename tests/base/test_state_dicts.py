"""State dicts of others: plain tensors or a sentence; nothing is executed, nothing explodes."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.state_dicts import not_finite, read_state_dict, select
from tests.support.properties import EXAMPLES, mutated

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2), "count": torch.tensor(7)}


def read(path: Path) -> dict[str, Any]:
    return read_state_dict(path, how_to_get="download it")


def rezipped(path: Path, change: Callable[[str, bytes], bytes], *, compression: int = zipfile.ZIP_STORED) -> None:
    """Rewrite a file of torch.save with changed records."""
    source = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in source.namelist():
            archive.writestr(name, change(name, source.read(name)))


def with_pickle(path: Path, content: bytes) -> None:
    torch.save(STATE, path)
    rezipped(path, lambda name, old: content if name.endswith("data.pkl") else old)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_read(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "s.pth"
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)).half()
    contents: list[dict[str, Any]] = [STATE, dict(module.state_dict()), {"epoch": 3, "state_dict": STATE, "rate": 0.1}]
    contents.append({"p": torch.nn.Parameter(torch.ones(2)), "names": ["x", ("y", 2**70)]})
    for content in contents:
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert read(path).keys() == content.keys()
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=zipped)  # an OrderedDict with _metadata
    assert torch.equal(read(path)["0.weight"], module.state_dict()["0.weight"])


class _Call:
    """Unpickled, it calls."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_named_and_not_executed(tmp_path: Path, zipped: bool) -> None:
    path, made = tmp_path / "s.pth", tmp_path / "made"
    for call, name in ((_Call(os.mkdir, str(made)), r"posix\.mkdir"), (_Call(bytearray, 1 << 40), "bytearray")):
        torch.save({"a": call}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=rf"{name}, which is never executed\): download it"):
            read(path)
    assert not made.exists()


def nested_tuples(*, shared: bool) -> bytes:
    """A dictionary whose key is a tuple of tuples: its hash takes 2 ** 1000 steps, or a stack without an end."""
    step = b"q\0h\0\x86" if shared else b"\x85"
    return b"\x80\x02})" + step * (1000 if shared else 50_000) + b"K\1s."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (nested_tuples(shared=True), "tuples of tuples"),
        (nested_tuples(shared=False), "tuples of tuples"),
        (b"\x80\x02" + b"K\1" * 250_000 + b".", "far more than tensors"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "STACK_GLOBAL"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged"),
        (b"\x80\x02}K\1", "damaged"),
        (b"\x80\x02(((0.", "POP"),
        (b"", "damaged"),
    ],
)
def test_descriptions_that_only_an_attacker_writes(tmp_path: Path, content: bytes, reason: str) -> None:
    with_pickle(tmp_path / "s.pth", content)
    with pytest.raises(UserError, match=rf"is not a state dict of plain tensors, .*{reason}.*: download it"):
        read(tmp_path / "s.pth")


def test_archives_that_explode(tmp_path: Path) -> None:
    path = tmp_path / "s.pth"
    torch.save({"a": torch.zeros(1 << 20)}, path)
    rezipped(path, lambda _, old: old, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="compressed or encrypted"):
        read(path)
    for copies, length, reason in ((20_001, 5, "too many records"), (15_000, 250, "list of records is too long")):
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(copies):
                archive.writestr(zipfile.ZipInfo(f"a/data/{number:0{length}d}"), b"")
        with pytest.raises(UserError, match=reason):
            read(path)
    # A tensor that is larger than its record.
    torch.save({"a": torch.arange(4.0)}, path)
    wider = (b"cpuq\x06K\x04", b"cpuq\x06J\x00\x00\x00\x40"), (b"K\x00K\x04\x85", b"K\x00J\x00\x00\x00\x40\x85")
    rezipped(path, lambda name, old: old.replace(*wider[0]).replace(*wider[1]) if name.endswith("pkl") else old)
    with pytest.raises(UserError, match="is not a state dict"):
        read(path)


def test_what_is_not_a_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "s.pth"
    for content in (b"", b"PK", b"PK\3\4" + bytes(100), b"\x80", pickle.dumps({"a": 1}), os.urandom(1000)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not a state dict of plain tensors, or is damaged or cut short"):
            read(path)
    for other in ([1, 2], torch.zeros(2), None):
        torch.save(other, path)
        with pytest.raises(UserError, match="does not hold a state dict"):
            read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is a FIFO"):
        read(path)


def test_only_plain_finite_tensors_are_selected() -> None:
    shapes = {name: tensor.shape for name, tensor in STATE.items() if name != "count"}

    def chosen(**changes: Any) -> dict[str, Any]:
        return select(STATE | changes, shapes, kind="x.pth is not a file of them", advice="take another")

    assert chosen().keys() == shapes.keys()
    assert chosen(**{"a.bias": torch.tensor([0.5, 1]).half()})["a.bias"].dtype == torch.float32
    spoiled = torch.tensor([0.0, float("nan")])
    for bias, reason in (
        (None, "is missing or of a wrong shape"),
        ("text", "is missing or of a wrong shape"),
        (torch.zeros(3), "is missing or of a wrong shape"),
        (torch.zeros(2, dtype=torch.float64), "is not of plain float32 numbers but float64"),
        (torch.zeros(2, dtype=torch.int64), "is not of plain float32 numbers but int64"),
        (torch.zeros(2, device="meta"), "is not of plain float32 numbers"),
        (torch.zeros(2).to_sparse(), "is not of plain float32 numbers but sparse_coo"),
        (spoiled, "1 of the 2 numbers in a.bias are infinite or not a number"),
        (spoiled.nan_to_num() / 0, "in a.bias are infinite or not a number"),
    ):
        with pytest.raises(UserError, match=rf"x\.pth is not a file of them.*{reason}.*; take another"):
            chosen(**{"a.bias": bias})
    assert not_finite({"x": torch.ones(1), "n": torch.tensor(3)}) is None


@EXAMPLES
@given(data=st.data())
def test_any_changes_end_in_a_dictionary_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=data.draw(st.booleans()))
    path.write_bytes(mutated(path.read_bytes(), data))
    try:
        assert isinstance(read(path), dict)
    except UserError:
        return
