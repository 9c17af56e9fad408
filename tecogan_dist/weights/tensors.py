"""safetensors files: named tensors and text about them, where every number is checked before it is believed.

A file is eight bytes with the length of its header, the header (a JSON object of name -> type, shape and place, and
``__metadata__``), and the values one after the other. Ours carry a checksum of all of that in ``__metadata__``: a copy
of a checkpoint's file can be verified too. Files without one, as others and earlier versions wrote them, are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from tecogan_dist.base.atomic import replacing
from tecogan_dist.base.console import printable
from tecogan_dist.base.documents import parse_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import advice, open_regular
from tecogan_dist.base.memory import in_words, machine_memory

CHECKSUM = "sha256"
"""The entry of the metadata with the checksum of everything else."""
LARGEST_HEADER = 4 << 20
_MOST_TENSORS = 20_000
_MOST_DIMENSIONS = 8
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""What float32 holds without rounding."""
_OTHER_BYTES = {"F64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_ITEM_BYTES = {name: dtype.itemsize for name, dtype in _DTYPES.items()} | _OTHER_BYTES


class _Damaged(Exception):
    """The bytes are not what the format says; the text says where."""


@dataclass(frozen=True, kw_only=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Of its values, counted from the first value of the file."""
    end: int


class TensorFile:
    """An open file of tensors: what it says it holds, before any value is read."""

    def __init__(self, file: BinaryIO, name: object) -> None:
        self._file, self._name = file, name
        self._start, self._entries, self.metadata = _read_header(file)

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The shape of each tensor."""
        return {name: torch.Size(entry.shape) for name, entry in self._entries.items()}

    def read(self) -> dict[str, Tensor]:
        """All tensors, in float32 on the CPU; verifies the checksum, if the file has one.

        Raises :class:`UserError` for a wrong checksum, tensors that are not floating-point numbers that float32 can
        hold, and more of them than this machine has memory for.
        """
        for name, entry in self._entries.items():
            if entry.dtype not in _DTYPES:
                raise UserError(
                    f"{self._name} holds {short(name)} in the type {entry.dtype}: weights are float32 here (float16 "
                    "and bfloat16 are read too), store them so."
                )
        needed = sum(4 * math.prod(entry.shape) for entry in self._entries.values())
        if 2 * needed > machine_memory():
            raise _too_large(self._name, needed)
        digest = _begin_digest(
            self.metadata, {name: (entry.dtype, entry.shape) for name, entry in self._entries.items()}
        )
        try:
            tensors = {name: self._read_one(self._entries[name], digest) for name in sorted(self._entries)}
        except (MemoryError, RuntimeError) as error:  # numpy's way to say it, and torch's
            if isinstance(error, RuntimeError) and "allocate" not in str(error):
                raise
            raise _too_large(self._name, needed) from error
        if self.metadata.get(CHECKSUM, digest.hexdigest()) != digest.hexdigest():
            raise UserError(
                f"{self._name} is damaged: its content is not what was written (its checksum is wrong), take another "
                "copy."
            )
        return {name: tensors[name] for name in self._entries}

    def _read_one(self, entry: _Entry, digest: Any) -> Tensor:
        self._file.seek(self._start + entry.begin)
        values = np.fromfile(self._file, np.uint8, count=entry.end - entry.begin)
        if values.size != entry.end - entry.begin:
            raise _Damaged("its values end too early")
        if not values.size:
            return torch.zeros(entry.shape)
        digest.update(values.data)
        return torch.from_numpy(values).view(_DTYPES[entry.dtype]).reshape(entry.shape).float()


@contextlib.contextmanager
def open_tensors(path: Path, *, name: object = None) -> Iterator[TensorFile]:
    """A local safetensors file, its header checked. ``name``: what messages call it. Raises :class:`UserError`."""
    name = path if name is None else name
    try:
        with open_regular(path, what="weights file") as file:
            yield TensorFile(file, name)
    except OSError as error:
        raise UserError(f"the weights file {name} cannot be read ({error.strerror}): {advice(error)}.") from error
    except _Damaged as error:
        raise UserError(
            f"{name} is not a safetensors file, or is damaged or cut short ({error}): take another copy."
        ) from error


def read_tensors(path: Path, *, name: object = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors (float32, on the CPU) and the metadata of a safetensors file. Raises :class:`UserError`."""
    with open_tensors(path, name=name) as file:
        return file.read(), file.metadata


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, half: bool = False
) -> None:
    """Write a safetensors file with a checksum, whole or not at all; all tensors become float32, or ``half`` of that.

    Raises :class:`UserError` if it cannot be written.
    """
    # A clone: state dicts may be views into one large buffer (DeepSpeed) or in channels_last order.
    kind = "F16" if half else "F32"
    stored = {
        name: tensor.detach().to("cpu", _DTYPES[kind]).clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    digest = _begin_digest(metadata, {name: (kind, tuple(tensor.shape)) for name, tensor in stored.items()})
    for _, tensor in sorted(stored.items()):
        digest.update(tensor.numpy().reshape(-1).view(np.uint8).data)
    try:
        with replacing(path) as partial:
            partial.write_bytes(safetensors.torch.save(stored, {**metadata, CHECKSUM: digest.hexdigest()}))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): {advice(error)}.") from error


def _begin_digest(metadata: Mapping[str, str], tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Any:
    """SHA-256 of what a file says; the values follow, by the tensors' names in order."""
    said = {name: text for name, text in metadata.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps([said, tensors], sort_keys=True).encode())


def _read_header(file: BinaryIO) -> tuple[int, dict[str, _Entry], dict[str, str]]:
    """Where the values begin, what they are, and the metadata."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise _Damaged("it is shorter than its header")
    if length > LARGEST_HEADER:
        raise _Damaged(f"its header has {in_words(length)}")
    try:
        header = parse_json(file.read(length).decode(), source="its header")
    except UnicodeDecodeError as error:
        raise _Damaged("its header is not text") from error
    except UserError as error:
        raise _Damaged(str(error).rstrip(".")) from error
    if not isinstance(header, dict) or len(header) > _MOST_TENSORS:
        raise _Damaged("its header is not a list of tensors")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _Damaged("its metadata are not texts")
    entries = {name: _entry(name, value) for name, value in header.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise _Damaged(f"the values of {short(name)} do not begin where those before them end")
        end = entry.end
    if end != size - 8 - length:
        raise _Damaged(f"it has {size - 8 - length} bytes of values where its header says {end}")
    return 8 + length, entries, metadata


def _entry(name: str, value: Any) -> _Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _Damaged(f"its header does not describe {short(name)}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise _Damaged(f"{short(name)} has a type that is not known")
    if not _are_sizes(shape) or len(shape) > _MOST_DIMENSIONS or not _are_sizes(offsets) or len(offsets) != 2:
        raise _Damaged(f"{short(name)} has an impossible shape or place")
    begin, end = offsets
    # Also where a dimension is 0, the others have to be numbers that a tensor can have.
    if math.prod(size or 1 for size in shape) >= 1 << 48 or end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise _Damaged(f"the values of {short(name)} do not fill its shape")
    return _Entry(dtype=dtype, shape=tuple(shape), begin=begin, end=end)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _too_large(name: object, needed: int) -> UserError:
    return UserError(
        f"{name} holds {in_words(needed)} of weights, too much for the {in_words(machine_memory())} of memory here: "
        "take other weights, or a machine with more memory."
    )


def short(name: str) -> str:
    """A tensor's name from a file, fit for a sentence."""
    return printable(name, limit=80)
