"""Rows of a store's index as a file has them, checked one and all, for the file may come from anywhere.

What is read is bounded before it is unpacked, and a row names only files that are called as ours are: nothing in an
index leads out of its store. All checks are of whole columns.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tecogan_dist.base.addresses import is_url, without_secrets
from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data.scenes import CLIPS, COLUMNS, Encoding, Scene, Scenes, joined_columns
from tecogan_dist.video.formats import READABLE_SUFFIXES
from tecogan_dist.video.source import MOST_PIXELS

__all__ = ["CLIPS", "ENCODINGS", "INDEX_NAME", "MOST_FRAMES", "SCHEMA", "Encoding", "Scene", "packed", "unpacked"]

INDEX_NAME = "index.parquet"
ENCODINGS = ("lossy", "lossless", "original")
MOST_BYTES, MOST_SCENES = 2**29, 1_000_000
"""Of an index. A row has about 100 bytes, and 350 if it is of a pair and of a source of its own."""
MOST_UNPACKED = 2**30
"""Bytes of the columns before they were compressed."""
MOST_FRAMES = 2**31 - 1
"""Of a scene or of a video, and the largest position in one."""
TEXT_CHARACTERS = 32768
ROWS_AT_A_TIME = 2**16
SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("file", pa.string()),
        ("frames", pa.int64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("rate", pa.string()),
        ("source", pa.string()),
        ("source_start", pa.int64()),
        ("downscale", pa.int64()),
        ("sha256", pa.string()),
        ("encoding", pa.string()),
        ("lr_file", pa.string()),
        ("lr_sha256", pa.string()),
        ("content", pa.string()),
    ]
)
"""Columns of the file, the fields of :class:`Scene`."""
OLDER_SCHEMA = pa.schema(list(SCHEMA)[:-1])
"""That of earlier versions, which did not record what a source held."""
CODECS = ("SNAPPY", "UNCOMPRESSED")
"""What we write with. Others unpack a few bytes to gigabytes."""
_CLIP = rf"\A{CLIPS}/scene_(?P<digits>[0-9]{{4,19}})(?P<suffix>{'|'.join(map(re.escape, READABLE_SUFFIXES))})\z"
_LOW_CLIP = rf"\A{CLIPS}/scene_(?P<digits>[0-9]{{4,19}})_lr\.mp4\z"
_SHA256 = r"\A[0-9a-f]{64}\z"
_RATE = r"\A[1-9][0-9]{0,18}/[1-9][0-9]{0,18}\z"


def packed(scenes: Scenes) -> bytes:
    """The file with these rows; the same for the same rows."""
    columns = {name: scenes.columns.column(name) for name in COLUMNS.names}
    low = columns["lr_sha256"]
    low_texts = pa.DictionaryArray.from_arrays(low.indices, _hex(low.dictionary))
    columns |= {
        "file": scenes.files(),
        "sha256": _hex(columns["sha256"]),
        "lr_file": scenes.files(low_resolution=True),
        "lr_sha256": low_texts,
    }
    file = io.BytesIO()
    pq.write_table(pa.table([columns[field.name].cast(field.type) for field in SCHEMA], schema=SCHEMA), file)
    return file.getvalue()


def unpacked(data: bytes, file: Location, *, most_scenes: int = MOST_SCENES) -> Scenes:
    """The rows of ``file``, which has the bytes ``data``. Raises :class:`UserError` for any other, or a damaged one."""
    try:
        scenes = _scenes(data, file, most_scenes)
    except UserError:
        raise
    except Exception as error:  # of hostile bytes pyarrow raises all kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file} cannot be read ({printable(reason, limit=200)}): make the store again.") from error
    numbers = scenes.numbers()
    if (numbers[1:] > numbers[:-1]).all():
        return scenes
    order = np.argsort(numbers, kind="stable")
    if (np.diff(numbers[order]) == 0).any():
        raise damaged(file, "it has two rows of one number")
    return scenes.take(order)


def damaged(file: Location, why: str) -> UserError:
    return UserError(f"{file} is damaged, {why}: make the store again, or put back a copy of it.")


def _scenes(data: bytes, file: Location, most_scenes: int) -> Scenes:
    limits: dict[str, Any] = {"thrift_string_size_limit": 2**24, "thrift_container_size_limit": 2**20}
    with pq.ParquetFile(pa.BufferReader(data), **limits) as table:
        _check_facts(table.metadata, file, most_scenes)
    texts = [field.name for field in SCHEMA if field.type == pa.string() and field.name in table.metadata.schema.names]
    parts = [Scenes.of(()).columns]
    # A text that is repeated a million times stays one text while it is unpacked.
    with pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts, **limits) as table:
        for batch in table.iter_batches(batch_size=ROWS_AT_A_TIME):
            parts.append(_Rows(batch, file).checked())
    return Scenes(joined_columns(parts))


def _check_facts(facts: pq.FileMetaData, file: Location, most_scenes: int) -> None:
    """Raise :class:`UserError` for another table, and for what would become too large when it is unpacked."""
    schema = facts.schema.to_arrow_schema().remove_metadata()
    if not any(schema.equals(known) for known in (SCHEMA, OLDER_SCHEMA)):
        raise UserError(f"{file} is not the index of a clip store of this version: make the store again.")
    if facts.num_rows > most_scenes:
        raise UserError(f"{file} claims {facts.num_rows} scenes, and it has {most_scenes} at most.")
    columns = [
        facts.row_group(group).column(column)
        for group in range(facts.num_row_groups)
        for column in range(facts.num_columns)
    ]
    if any(column.compression not in CODECS for column in columns):
        raise damaged(file, "it is not packed as ours are")
    if sum(max(0, column.total_uncompressed_size) for column in columns) > MOST_UNPACKED:
        raise damaged(file, "it would be unpacked to more than an index ever has")


class _Rows:
    """Some rows of a file, whose texts are dictionaries, on their way to being scenes."""

    def __init__(self, batch: pa.RecordBatch, file: Location) -> None:
        self._batch, self._file = batch, file
        batch.validate(full=True)
        for column in batch.columns:
            if pa.types.is_dictionary(column.type):
                # Before there is a copy of them in every row.
                longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
                if longest > TEXT_CHARACTERS:
                    raise damaged(file, f"it has a text of {longest} bytes")

    def checked(self) -> pa.RecordBatch:
        """The rows, with the columns of scenes. Raises :class:`UserError` for one that cannot be ours."""
        numbers = self._whole("number", 0, 2**63 - 1)
        clips = self._texts("file", functools.partial(pc.match_substring_regex, pattern=_CLIP))
        self._check_digits("file", clips, _CLIP, numbers)
        columns = {
            "number": numbers,
            "suffix": _map_texts(clips, lambda texts: pc.extract_regex(texts, _CLIP).field("suffix")),
            "frames": self._whole("frames", 1, MOST_FRAMES),
            "height": self._whole("height", 1, MOST_PIXELS),
            "width": self._whole("width", 1, MOST_PIXELS),
        }
        self._check("width", pc.less_equal(pc.multiply(columns["height"], columns["width"]), MOST_PIXELS))
        columns["rate"] = self._texts("rate", functools.partial(pc.match_substring_regex, pattern=_RATE))
        # Those of earlier versions kept secrets.
        columns["source"] = _map_texts(self._texts("source"), _without_secrets)
        columns["source_start"] = self._whole("source_start", 0, MOST_FRAMES)
        columns["downscale"] = self._whole("downscale", 1, MOST_PIXELS)
        is_sha256 = functools.partial(pc.match_substring_regex, pattern=_SHA256)
        columns["sha256"] = _map_texts(self._texts("sha256", is_sha256), _bytes).dictionary_decode()
        columns["encoding"] = self._texts("encoding", functools.partial(pc.is_in, value_set=pa.array(ENCODINGS)))
        is_low_clip = functools.partial(pc.match_substring_regex, pattern=_LOW_CLIP)
        low_clips = self._texts("lr_file", is_low_clip, may_lack=True)
        self._check_digits("lr_file", low_clips, _LOW_CLIP, numbers)
        low_sha256 = self._texts("lr_sha256", is_sha256, may_lack=True)
        self._check("lr_sha256", pc.equal(low_clips.is_valid(), low_sha256.is_valid()))
        columns["lr_sha256"] = _map_texts(low_sha256, _bytes)
        if "content" in self._batch.schema.names:
            columns["content"] = self._texts("content", may_lack=True)
        else:
            columns["content"] = pa.array([None] * len(numbers), pa.string()).dictionary_encode()
        arrays = [columns[field.name].cast(field.type) for field in COLUMNS]
        return pa.RecordBatch.from_arrays(arrays, schema=COLUMNS)

    def _check(self, name: str, is_right: pa.Array) -> None:
        """Raise :class:`UserError`, which names the first row of which ``is_right`` is not true."""
        wrong = np.flatnonzero(~pc.fill_null(is_right, False).to_numpy(zero_copy_only=False))
        if len(wrong):
            value, number = (self._batch.column(column)[int(wrong[0])].as_py() for column in (name, "number"))
            raise damaged(self._file, f"{name} of scene {number} is {printable(repr(value), limit=100)}")

    def _whole(self, name: str, least: int, most: int) -> pa.Array:
        """A column of whole numbers between these."""
        column = self._batch.column(name)
        self._check(name, pc.and_(pc.greater_equal(column, least), pc.less_equal(column, most)))
        return column

    def _texts(
        self, name: str, is_right: Callable[[pa.Array], pa.Array] = pc.is_valid, *, may_lack: bool = False
    ) -> pa.DictionaryArray:
        """A column of texts, with those only that its rows have; ``is_right`` judges each of them once."""
        column = self._batch.column(name)
        used = column.indices.unique().drop_null()
        texts = pa.DictionaryArray.from_arrays(pc.index_in(column.indices, used), column.dictionary.take(used))
        self._check(name, pc.fill_null(is_right(texts.dictionary).take(texts.indices), may_lack))
        return texts

    def _check_digits(self, name: str, clips: pa.DictionaryArray, pattern: str, numbers: pa.Array) -> None:
        """Raise :class:`UserError` unless every clip that a row has is called after its number."""
        digits = pc.extract_regex(clips.dictionary, pattern).field("digits").take(clips.indices)
        expected = pc.utf8_lpad(numbers.cast(pa.string()), 4, "0")
        self._check(name, pc.if_else(clips.is_valid(), pc.equal(digits, expected), True))


def _map_texts(column: pa.DictionaryArray, change: Callable[[pa.Array], pa.Array]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(column.indices, change(column.dictionary))


def _without_secrets(sources: pa.Array) -> pa.Array:
    return pa.array(
        [without_secrets(source) if is_url(source) else source for source in sources.to_pylist()], pa.string()
    )


def _bytes(texts: pa.Array) -> pa.Array:
    """What hexadecimal texts of 64 characters say."""
    return _fixed(bytes.fromhex("".join(texts.to_pylist())), 32)


def _hex(values: pa.Array) -> pa.Array:
    """Of values of 32 bytes each."""
    _, data = values.buffers()
    begin = 32 * values.offset
    text = memoryview(data)[begin : begin + 32 * len(values)].hex() if len(values) else ""
    return _fixed(text.encode(), 64).cast(pa.binary()).cast(pa.string())


def _fixed(data: bytes, width: int) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(data) // width, [None, pa.py_buffer(data)])
