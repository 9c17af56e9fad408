"""The index of a clip store: its rows, checked one by one, for the file may come from anywhere.

What is read is bounded before it is unpacked, and a row names only files that are called as ours are: nothing in an
index leads out of its store.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tecogan_dist.base.addresses import is_url, without_secrets
from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.video.formats import READABLE_SUFFIXES
from tecogan_dist.video.source import MOST_PIXELS

INDEX_NAME = "index.parquet"
CLIPS = "clips"
Encoding = Literal["lossy", "lossless", "original"]
ENCODINGS = ("lossy", "lossless", "original")
MOST_BYTES, MOST_SCENES = 2**28, 1_000_000
"""Of an index. A row has about 100 bytes."""
MOST_UNPACKED = 2**30
"""Bytes of the columns before they were compressed."""
MOST_FRAMES = 2**31 - 1
"""Of a scene or of a video, and the largest position in one."""
TEXT_CHARACTERS = 32768
ROWS_AT_A_TIME = 4096
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
"""Columns of the index, the fields of :class:`Scene`."""
OLDER_SCHEMA = pa.schema(list(SCHEMA)[:-1])
"""That of earlier versions, which did not record what a source held."""
CODECS = ("SNAPPY", "UNCOMPRESSED")
"""What we write with. Others unpack a few bytes to gigabytes."""
_CLIP = re.compile(rf"{CLIPS}/scene_([0-9]{{4,19}})({'|'.join(map(re.escape, READABLE_SUFFIXES))})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RATE = re.compile(r"[1-9][0-9]{0,18}/[1-9][0-9]{0,18}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """A row of the index: ``frames`` frames without a cut, and where they came from."""

    number: int
    file: str
    """Path of the clip below the store."""
    frames: int
    height: int
    width: int
    rate: str
    """Frames a second as a fraction, e.g. ``30000/1001``."""
    source: str
    source_start: int
    """Position of the scene's first frame in the source: where it was cut."""
    downscale: int
    """Factor by which the source's frames were reduced."""
    sha256: str
    """Of the clip's bytes."""
    encoding: Encoding = "lossy"
    """lossy: visually lossless H.264. lossless: H.264 that preserves every bit. original: the source's own bytes."""
    lr_file: str | None = None
    """Path below the store of the clip with the scene's own low-resolution frames, always lossless; None: no such."""
    lr_sha256: str | None = None
    content: str | None = None
    """What the source held when the scene was made (:mod:`tecogan_dist.data.prepare.contents`); None: not recorded."""


def clip_name(number: int, suffix: str) -> str:
    """The path below the store of a scene's clip."""
    return f"{CLIPS}/scene_{number:04d}{suffix}"


def low_clip_name(number: int) -> str:
    """The path below the store of the clip with a scene's own low-resolution frames."""
    return f"{CLIPS}/scene_{number:04d}_lr.mp4"


def read_index(location: Location) -> tuple[Scene, ...] | None:
    """The rows of a store's index, by increasing number; None if there is none.

    Raises :class:`UserError` for any other file, and for one that is damaged.
    """
    index = location / INDEX_NAME
    try:
        data = index.read_bytes(MOST_BYTES)
    except FileNotFoundError:
        return None
    try:
        scenes = _scenes(data, index)
    except UserError:
        raise
    except Exception as error:  # of hostile bytes pyarrow raises all kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{index} cannot be read ({printable(reason, limit=200)}): make the store again.") from error
    numbers = [scene.number for scene in scenes]
    if len(set(numbers)) < len(numbers):
        raise _damaged(index, "it has two rows of one number")
    return tuple(sorted(scenes, key=lambda scene: scene.number))


def _scenes(data: bytes, index: Location) -> list[Scene]:
    parts: dict[str, Any] = {"thrift_string_size_limit": 2**24, "thrift_container_size_limit": 2**20}
    with pq.ParquetFile(pa.BufferReader(data), **parts) as file:
        _check_facts(file.metadata, index)
    texts = [field.name for field in SCHEMA if field.type == pa.string() and field.name in file.metadata.schema.names]
    scenes: list[Scene] = []
    # A text that is repeated a million times stays one text while it is unpacked.
    with pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts, **parts) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_A_TIME):
            _check_lengths(batch, index)
            names, values = batch.schema.names, map(_values, batch.columns)
            scenes += [_scene(dict(zip(names, row, strict=True)), index) for row in zip(*values, strict=True)]
    return scenes


def _check_facts(facts: pq.FileMetaData, index: Location) -> None:
    """Raise :class:`UserError` for another table, and for what would become too large when it is unpacked."""
    schema = facts.schema.to_arrow_schema().remove_metadata()
    if not any(schema.equals(known) for known in (SCHEMA, OLDER_SCHEMA)):
        raise UserError(f"{index} is not the index of a clip store of this version: make the store again.")
    if facts.num_rows > MOST_SCENES:
        raise UserError(f"{index} claims {facts.num_rows} scenes, and a store has {MOST_SCENES} at most.")
    columns = [
        facts.row_group(group).column(column)
        for group in range(facts.num_row_groups)
        for column in range(facts.num_columns)
    ]
    if any(column.compression not in CODECS for column in columns):
        raise _damaged(index, "it is not packed as ours are")
    if sum(max(0, column.total_uncompressed_size) for column in columns) > MOST_UNPACKED:
        raise _damaged(index, "it would be unpacked to more than an index ever has")


def _check_lengths(batch: pa.RecordBatch, index: Location) -> None:
    """Raise :class:`UserError` for texts that are too long, before there is a copy of them in every row."""
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
            if longest > TEXT_CHARACTERS:
                raise _damaged(index, f"it has a text of {longest} bytes")


def _values(column: pa.Array) -> list[Any]:
    """The values of a column, in which a text that is repeated is one and the same."""
    if not pa.types.is_dictionary(column.type):
        return list(column.to_pylist())
    texts = column.dictionary.to_pylist()
    return [None if position is None else texts[position] for position in column.indices.to_pylist()]


def _scene(row: dict[str, Any], index: Location) -> Scene:
    scene = Scene(**row)
    for name, is_right in _RIGHT.items():
        if not is_right(scene):
            value = printable(repr(getattr(scene, name)), limit=100)
            raise _damaged(index, f"{name} of scene {scene.number} is {value}")
    # Those of earlier versions kept them.
    source = _without_secrets(scene.source)
    return scene if source == scene.source else dataclasses.replace(scene, source=source)


@functools.lru_cache(maxsize=1024)
def _without_secrets(source: str) -> str:
    return without_secrets(source) if is_url(source) else source


def _is_clip(scene: Scene) -> bool:
    match = _CLIP.fullmatch(scene.file or "")
    return match is not None and scene.file == clip_name(scene.number, match[2])


def _is_between(name: str, least: int, most: int) -> Callable[[Scene], bool]:
    def judge(scene: Scene) -> bool:
        value = getattr(scene, name)
        return value is not None and least <= value <= most

    return judge


_RIGHT: dict[str, Callable[[Scene], bool]] = {
    "number": _is_between("number", 0, 2**63 - 1),
    "file": _is_clip,
    "frames": _is_between("frames", 1, MOST_FRAMES),
    "height": _is_between("height", 1, MOST_PIXELS),
    "width": lambda scene: bool(scene.width) and 1 <= scene.width * scene.height <= MOST_PIXELS,
    "rate": lambda scene: _RATE.fullmatch(scene.rate or "") is not None,
    "source": lambda scene: scene.source is not None,
    "source_start": _is_between("source_start", 0, MOST_FRAMES),
    "downscale": _is_between("downscale", 1, MOST_PIXELS),
    "sha256": lambda scene: _SHA256.fullmatch(scene.sha256 or "") is not None,
    "encoding": lambda scene: scene.encoding in ENCODINGS,
    "lr_file": lambda scene: scene.lr_file is None or scene.lr_file == low_clip_name(scene.number),
    "lr_sha256": lambda scene: (
        scene.lr_sha256 is None if scene.lr_file is None else _SHA256.fullmatch(scene.lr_sha256 or "") is not None
    ),
}


def _damaged(index: Location, why: str) -> UserError:
    return UserError(f"{index} is damaged, {why}: make the store again, or put back a copy of it.")
