"""TensorFlow checkpoints, V1 and V2, read without TensorFlow: numpy only, and nothing in a file is executed.

V2 (``tf.train.Saver`` since TensorFlow 0.12) is a table ``PREFIX.index`` of BundleEntryProto and files of raw values,
``PREFIX.data-00000-of-00001``. V1, in which TF-slim's ``vgg_19.ckpt`` is, is one table of SavedTensorSlices. Field
numbers are those of tensor_bundle.proto, saved_tensor_slice.proto, tensor.proto and types.proto of TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tecogan_dist.base.errors import UserError
from tecogan_dist.weights.tensorflow.table import (
    TABLE_MAGIC,
    Damaged,
    masked_crc32c,
    message_fields,
    read_varint,
    table_entries,
)

Array = NDArray[np.generic]

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


def read_checkpoint(source: Path) -> dict[str, Array]:
    """All numeric variables of a checkpoint, by name, as TensorFlow lays them out; verifies every checksum.

    ``source``: the prefix of a V2 checkpoint (``model/TecoGAN``) or its ``.index`` file, or a V1 file. Raises
    :class:`UserError` if there is none, or if it is damaged, partitioned or big-endian.
    """
    prefix = str(source).removesuffix(".index")
    index = Path(f"{prefix}.index")
    try:
        if index.is_file():
            return dict(_read_v2(prefix, memoryview(_table_bytes(index))))
        if source.is_file():
            return _read_v1(memoryview(_table_bytes(source)))
    except (Damaged, UnicodeDecodeError) as error:
        raise UserError(
            f"{source} is not a TensorFlow checkpoint, or is damaged or cut short ({error}): copy or download it again."
        ) from error
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error}): check its files and permissions.") from error
    raise UserError(
        f"no TensorFlow checkpoint is at {source}: give a prefix such as model/TecoGAN (of the files "
        "model/TecoGAN.index and model/TecoGAN.data-00000-of-00001), or a file such as vgg_19.ckpt."
    )


def _table_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        # Look at the end first: a wrong file may be too large to be read at all.
        file.seek(max(0, path.stat().st_size - len(TABLE_MAGIC)))
        if file.read() != TABLE_MAGIC:
            raise Damaged("it does not end as a table does")
        file.seek(0)
        return file.read()


def _read_v2(prefix: str, table: memoryview) -> Iterator[tuple[str, Array]]:
    shards: dict[int, memoryview] = {}
    shard_count = None
    for key, message in table_entries(table):
        if key == b"":
            shard_count = _read_bundle_header(message)
            continue
        if shard_count is None:
            raise Damaged("it has no header")
        if key.startswith(b"\0"):
            raise _partitioned()
        entry = _BundleEntry.parse(message)
        if entry.dtype not in _DTYPES:
            continue
        if entry.shard not in shards:
            shard_path = Path(f"{prefix}.data-{entry.shard:05d}-of-{shard_count:05d}")
            shards[entry.shard] = memoryview(shard_path.read_bytes())
        content = shards[entry.shard][entry.offset : entry.offset + entry.size]
        name = key.decode()
        if len(content) != entry.size:
            raise Damaged(f"the values of {name} are cut off")
        if masked_crc32c(content) != entry.crc:
            raise Damaged(f"the checksum of {name} is wrong")
        yield name, _shaped(name, np.frombuffer(content, np.uint8), _DTYPES[entry.dtype], entry.shape)


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
            raise Damaged(f"{name} is not in its list of variables")
        dtype, shape = described[name]
        if dtype in _DTYPES:
            values = _read_v1_values(_bytes(saved_slice, 3), dtype)
            tensors[name] = _shaped(name, values.view(np.uint8), _DTYPES[dtype], shape)
    missing = [name for name, (dtype, _) in described.items() if dtype in _DTYPES and name not in tensors]
    if missing:
        raise Damaged(f"it lacks {missing[0]}")
    return tensors


def _read_v1_descriptions(message: memoryview) -> Iterator[tuple[str, tuple[int, tuple[int, ...]]]]:
    """Name, type and shape of each variable (SavedTensorSliceMeta)."""
    for number, variable in message_fields(message):
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
    values = []
    position = 0
    while position < len(packed):
        value, position = read_varint(packed, position)
        values.append(value)
    whole = np.array(values, np.uint64)
    return whole.astype(np.uint16).view(_DTYPES[19]) if dtype == 19 else whole.astype(_DTYPES[dtype])


def _require_whole(tensor_slice: memoryview) -> None:
    """A slice of a whole variable names neither start nor length in any of its extents."""
    if any(extent != b"" for _, extent in message_fields(tensor_slice)):
        raise _partitioned()


def _read_shape(message: memoryview) -> tuple[int, ...]:
    dimensions = [dimension for number, dimension in message_fields(message) if number == 2]
    return tuple(_integer(dict(message_fields(_part(dimension))), 1) for dimension in dimensions)


def _shaped(name: str, content: NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if content.size != math.prod(shape) * dtype.itemsize or math.prod(size or 1 for size in shape) >= 1 << 48:
        raise Damaged(f"{name} has {content.size} bytes, which do not fill its shape {shape}")
    return content.view(dtype).reshape(shape)


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
