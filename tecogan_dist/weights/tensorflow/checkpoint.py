"""TensorFlow checkpoints, V1 and V2, read without TensorFlow: numpy only, and nothing in a file is executed.

V2 (``tf.train.Saver`` since TensorFlow 0.12) is a table ``PREFIX.index`` of BundleEntryProto and files of raw values,
``PREFIX.data-00000-of-00001``. V1, in which TF-slim's ``vgg_19.ckpt`` is, is one table of SavedTensorSlices. Field
numbers are those of tensor_bundle.proto, saved_tensor_slice.proto, tensor.proto and types.proto of TensorFlow.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import advice, check_name, open_regular
from tecogan_dist.base.memory import in_words, machine_memory
from tecogan_dist.weights.tensorflow.table import (
    MOST_ENTRIES,
    TABLE_MAGIC,
    Damaged,
    masked_crc32c,
    message_fields,
    read_varints,
    table_entries,
)
from tecogan_dist.weights.tensors import short

Array = NDArray[np.generic]

LARGEST_INDEX = 16 << 20
LARGEST_CHECKPOINT = 4 << 30
"""Bytes of a V1 file, or of all values of a V2 checkpoint; TF-slim's VGG19, the largest of use here, has 0.55 GB."""

_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    19: np.dtype("<f2"),
}
"""types.proto's numbers of the types that are read; variables of other types (strings ...) are left out."""

_V1_VALUES = {1: 5, 2: 6, 3: 7, 4: 7, 6: 7, 9: 10, 10: 11, 19: 13}
"""The field of TensorProto that holds a type's values."""

_MOST_DIMENSIONS = 8
_MOST_SHARDS = 100
_LARGEST_PACKED = 16 << 20
"""Bytes of numbers of varying length in a V1 file: those are counters, weights are floats."""


def read_checkpoint(source: Path) -> dict[str, Array]:
    """All numeric variables of a checkpoint, by name, as TensorFlow lays them out; verifies every checksum.

    ``source``: the prefix of a V2 checkpoint (``model/TecoGAN``) or its ``.index`` file, or a V1 file. Raises
    :class:`UserError` if there is none, or if it is damaged, partitioned, big-endian or too large.
    """
    check_name(str(source))
    prefix = str(source).removesuffix(".index")
    index = Path(f"{prefix}.index")
    try:
        if os.path.lexists(index):
            with open_regular(index, what="checkpoint index") as file:
                table = _table_bytes(file, LARGEST_INDEX)
            with contextlib.ExitStack() as stack:
                return dict(_read_v2(_Shards(prefix, stack), memoryview(table)))
        if os.path.lexists(source) and not os.path.isdir(source):
            with open_regular(source, what="checkpoint") as file:
                return _read_v1(memoryview(_table_bytes(file, LARGEST_CHECKPOINT)))
    except (Damaged, UnicodeDecodeError) as error:
        raise UserError(
            f"{source} is not a TensorFlow checkpoint, or is damaged or cut short ({error}): copy or download it again."
        ) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(f"{source} cannot be read ({where}{error.strerror or error}): {advice(error)}.") from error
    except MemoryError as error:
        raise UserError(f"{source} does not fit into this machine's memory: convert it on a larger one.") from error
    raise UserError(
        f"no TensorFlow checkpoint is at {source}: give a prefix such as model/TecoGAN (of the files "
        "model/TecoGAN.index and model/TecoGAN.data-00000-of-00001), or a file such as vgg_19.ckpt."
    )


def _table_bytes(file: BinaryIO, limit: int) -> bytes:
    # Look at the end first: a wrong file may be too large to be read at all.
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - len(TABLE_MAGIC)))
    if file.read() != TABLE_MAGIC:
        raise Damaged("it does not end as a table does")
    if size > min(limit, machine_memory() // 2):
        raise Damaged(f"it has {in_words(size)}, far more than one of use here")
    file.seek(0)
    return file.read(size)


class _Shards:
    """The files of values of a V2 checkpoint, opened when they are needed; ``stack`` closes them."""

    def __init__(self, prefix: str, stack: contextlib.ExitStack) -> None:
        self._prefix, self._stack = prefix, stack
        self._files: dict[int, BinaryIO] = {}
        self._unread: dict[int, int] = {}
        self._left = min(LARGEST_CHECKPOINT, machine_memory() // 2)
        self.count: int | None = None

    def read(self, entry: _BundleEntry, name: str) -> NDArray[np.uint8]:
        """The bytes of a variable. Raises :class:`Damaged` if they do not fit, or are others' too."""
        file = self._file(entry.shard)
        if entry.offset + entry.size > os.fstat(file.fileno()).st_size:
            raise Damaged(f"the values of {short(name)} are cut off")
        _check_size(name, entry.size, _DTYPES[entry.dtype], entry.shape)
        # No two variables share their bytes: what is read is bounded by the size of the files.
        self._unread[entry.shard] -= entry.size
        self._left -= entry.size
        if self._unread[entry.shard] < 0:
            raise Damaged(f"the values of {short(name)} overlap others")
        if self._left < 0:
            raise Damaged(f"it holds far more than a checkpoint of use here, {in_words(LARGEST_CHECKPOINT)} or more")
        file.seek(entry.offset)
        content = np.fromfile(file, np.uint8, count=entry.size)
        if content.size != entry.size:
            raise Damaged(f"the values of {short(name)} are cut off")
        return content

    def _file(self, shard: int) -> BinaryIO:
        if shard not in self._files:
            if len(self._files) >= _MOST_SHARDS:
                raise Damaged(f"its values are in more than {_MOST_SHARDS} files")
            path = Path(f"{self._prefix}.data-{shard:05d}-of-{self.count:05d}")
            self._files[shard] = self._stack.enter_context(open_regular(path, what="part of a checkpoint"))
            self._unread[shard] = os.fstat(self._files[shard].fileno()).st_size
        return self._files[shard]


def _read_v2(shards: _Shards, table: memoryview) -> Iterator[tuple[str, Array]]:
    for key, message in table_entries(table):
        if key == b"":
            shards.count = _read_bundle_header(message)
            continue
        if shards.count is None:
            raise Damaged("it has no header")
        if key.startswith(b"\0"):
            raise _partitioned()
        entry = _BundleEntry.parse(message)
        if entry.dtype not in _DTYPES:
            continue
        name = key.decode()
        content = shards.read(entry, name)
        if masked_crc32c(content.data) != entry.crc:
            raise Damaged(f"the checksum of {short(name)} is wrong")
        yield name, content.view(_DTYPES[entry.dtype]).reshape(entry.shape)


def _read_bundle_header(message: memoryview) -> int:
    fields = dict(message_fields(message))
    if _integer(fields, 2) != 0:
        raise UserError(
            "the TensorFlow checkpoint is from a big-endian machine, which is not supported: convert another."
        )
    return _integer(fields, 1)


@dataclass(frozen=True, kw_only=True)
class _BundleEntry:
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int

    @classmethod
    def parse(cls, message: memoryview) -> _BundleEntry:
        fields = dict(message_fields(message))
        if 7 in fields:
            raise _partitioned()
        return cls(
            dtype=_integer(fields, 1),
            shape=_read_shape(_bytes(fields, 2)),
            shard=_integer(fields, 3),
            offset=_integer(fields, 4),
            size=_integer(fields, 5),
            crc=_integer(fields, 6),
        )


def _read_v1(table: memoryview) -> dict[str, Array]:
    described: dict[str, tuple[int, tuple[int, ...]]] = {}
    tensors = {}
    for key, message in table_entries(table):
        fields = dict(message_fields(message))
        if key == b"":
            described = dict(_read_v1_descriptions(_bytes(fields, 1)))
            continue
        saved_slice = dict(message_fields(_bytes(fields, 2)))
        _require_whole(_bytes(saved_slice, 2))
        name = bytes(_bytes(saved_slice, 1)).decode()
        if name not in described:
            raise Damaged(f"{short(name)} is not in its list of variables")
        dtype, shape = described[name]
        if dtype in _DTYPES:
            values = _read_v1_values(_bytes(saved_slice, 3), dtype)
            _check_size(name, values.nbytes, _DTYPES[dtype], shape)
            tensors[name] = values.reshape(shape)
    missing = [name for name, (dtype, _) in described.items() if dtype in _DTYPES and name not in tensors]
    if missing:
        raise Damaged(f"it lacks {short(missing[0])}")
    return tensors


def _read_v1_descriptions(message: memoryview) -> Iterator[tuple[str, tuple[int, tuple[int, ...]]]]:
    """Name, type and shape of each variable (SavedTensorSliceMeta)."""
    for number, variable in message_fields(message, most=MOST_ENTRIES):
        if number != 1:
            continue
        fields = dict(message_fields(_part(variable)))
        _require_whole(_bytes(fields, 4))
        yield bytes(_bytes(fields, 1)).decode(), (_integer(fields, 3), _read_shape(_bytes(fields, 2)))


def _read_v1_values(tensor: memoryview, dtype: int) -> Array:
    """The packed values of a TensorProto: raw for floats, varints for integers, varints of the bits for halves."""
    packed = _bytes(dict(message_fields(tensor)), _V1_VALUES[dtype])
    if dtype in (1, 2):
        if len(packed) % _DTYPES[dtype].itemsize:
            raise Damaged("a list of numbers is cut off")
        return np.frombuffer(packed, _DTYPES[dtype])
    if len(packed) > _LARGEST_PACKED:
        raise Damaged(f"it has {in_words(len(packed))} of whole numbers or halves in one variable")
    whole = read_varints(packed)
    return whole.astype(np.uint16).view(_DTYPES[19]) if dtype == 19 else whole.astype(_DTYPES[dtype])


def _require_whole(tensor_slice: memoryview) -> None:
    """A slice of a whole variable names neither start nor length in any of its extents."""
    if any(extent != b"" for _, extent in message_fields(tensor_slice)):
        raise _partitioned()


def _read_shape(message: memoryview) -> tuple[int, ...]:
    dimensions = [dimension for number, dimension in message_fields(message) if number == 2]
    return tuple(_integer(dict(message_fields(_part(dimension))), 1) for dimension in dimensions)


def _check_size(name: str, size: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Raise :class:`Damaged` unless so many bytes fill a shape that numpy can have."""
    possible = len(shape) <= _MOST_DIMENSIONS and math.prod(length or 1 for length in shape) < 1 << 48
    if not possible or size != math.prod(shape) * dtype.itemsize:
        raise Damaged(f"{short(name)} has {size} bytes, which do not fill its shape {shape[:_MOST_DIMENSIONS]}")


def _integer(fields: Mapping[int, int | memoryview], number: int) -> int:
    """A number of a message; protobuf leaves out what is 0."""
    value = fields.get(number, 0)
    if not isinstance(value, int):
        raise Damaged("a message has a part where a number is expected")
    return value


def _bytes(fields: Mapping[int, int | memoryview], number: int) -> memoryview:
    """A string or message inside a message; protobuf leaves out what is empty."""
    return _part(fields.get(number, memoryview(b"")))


def _part(value: int | memoryview) -> memoryview:
    if not isinstance(value, memoryview):
        raise Damaged("a message has a number where a part is expected")
    return value


def _partitioned() -> UserError:
    return UserError(
        "the TensorFlow checkpoint holds partitioned variables, which is not so for TecoGAN or VGG19: convert theirs."
    )
