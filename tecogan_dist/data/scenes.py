"""The scenes of a store, as columns: of hundreds of thousands only a few are ever looked at one by one.

A scene takes some 90 bytes here and 1,000 as an object. Selections are made of whole columns, and what is pickled, on
its way to workers, is columns too.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CLIPS = "clips"
Encoding = Literal["lossy", "lossless", "original"]
SCENES_AT_A_TIME = 1024
_TEXT = pa.dictionary(pa.int32(), pa.string())
COLUMNS = pa.schema(
    [
        ("number", pa.int64()),
        ("suffix", _TEXT),
        ("frames", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("rate", _TEXT),
        ("source", _TEXT),
        ("source_start", pa.int32()),
        ("downscale", pa.int32()),
        ("sha256", pa.binary(32)),
        ("encoding", _TEXT),
        ("lr_sha256", pa.dictionary(pa.int32(), pa.binary(32))),
        ("content", _TEXT),
    ]
)
"""A clip's name follows from the scene's number and its ``suffix``; ``lr_sha256`` is null where there is no second."""


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


class Scenes(Sequence[Scene]):
    """Scenes by increasing number. ``columns`` are those of ``COLUMNS``; nothing of them is checked here."""

    def __init__(self, columns: pa.RecordBatch) -> None:
        self.columns = columns
        self._arrays = columns.columns

    def __reduce__(self) -> tuple[Any, ...]:
        return Scenes, (self.columns,)

    @classmethod
    def of(cls, scenes: Iterable[Scene]) -> Self:
        """Scenes that :func:`tecogan_dist.data.writing.write_clip` has made, in any order, of different numbers."""
        if isinstance(scenes, cls):
            return scenes
        ordered = sorted(scenes, key=lambda scene: scene.number)
        columns: dict[str, list[Any]] = {
            name: [getattr(scene, name) for scene in ordered] for name in COLUMNS.names if name != "suffix"
        }
        columns["suffix"] = [os.path.splitext(scene.file)[1] for scene in ordered]
        columns["sha256"] = [bytes.fromhex(text) for text in columns["sha256"]]
        columns["lr_sha256"] = [None if text is None else bytes.fromhex(text) for text in columns["lr_sha256"]]
        arrays = [_array(columns[field.name], field.type) for field in COLUMNS]
        return cls(pa.RecordBatch.from_arrays(arrays, schema=COLUMNS))

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice) -> Scenes: ...
    def __getitem__(self, index: int | slice) -> Scene | Scenes:
        positions = range(len(self))[index]
        if isinstance(positions, range):
            return self.take(np.arange(positions.start, positions.stop, positions.step))
        return _scene(*(column[positions].as_py() for column in self._arrays))

    def __iter__(self) -> Iterator[Scene]:
        for first in range(0, len(self), SCENES_AT_A_TIME):
            yield from self._objects(first, SCENES_AT_A_TIME)

    def __eq__(self, other: object) -> bool:
        """As a sequence: also with a tuple or a list."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    def numbers(self, name: str = "number") -> np.ndarray:
        """A column of whole numbers."""
        return np.asarray(self.columns.column(name).to_numpy())

    def has_low_resolution(self) -> np.ndarray:
        """Which scenes have low-resolution frames of their own."""
        return np.asarray(self.columns.column("lr_sha256").is_valid().to_numpy(zero_copy_only=False))

    def files(self, *, low_resolution: bool = False) -> pa.Array:
        """The paths below the store of all clips; of all low-resolution ones, null where a scene has none."""
        digits = pc.utf8_lpad(self.columns.column("number").cast(pa.string()), 4, "0")
        if not low_resolution:
            suffixes = _decoded(self.columns.column("suffix"))
            return pc.binary_join_element_wise(f"{CLIPS}/scene_", digits, suffixes, "")
        names = pc.binary_join_element_wise(f"{CLIPS}/scene_", digits, "_lr.mp4", "")
        return pc.if_else(self.columns.column("lr_sha256").is_valid(), names, None)

    def position(self, number: int) -> int | None:
        """Of the scene with this number; None: there is none."""
        numbers = self.numbers()
        position = bisect.bisect_left(numbers, number)
        return position if position < len(numbers) and numbers[position] == number else None

    def take(self, positions: np.ndarray) -> Scenes:
        """Those at these increasing positions, with nothing of the others."""
        taken = self.columns.take(pa.array(positions))
        return Scenes(pa.RecordBatch.from_arrays([_trimmed(column) for column in taken.columns], schema=COLUMNS))

    def between(self, first: int, last: int) -> Scenes:
        """Those with numbers from ``first`` to ``last``, both included."""
        begin, end = self._positions(first, last)
        return self[begin:end]

    def objects_between(self, first: int, last: int) -> Iterator[Scene]:
        """The same, if there are a few of them and columns are not wanted."""
        begin, end = self._positions(first, last)
        return self._objects(begin, end - begin)

    def without(self, numbers: Sequence[int] | np.ndarray) -> Scenes:
        """All but those with these numbers."""
        left_out = np.isin(self.numbers(), numbers)
        return self.take(np.flatnonzero(~left_out)) if left_out.any() else self

    def merged(self, *later: Scenes) -> Scenes:
        """These and others; of those with the same number the last one."""
        if not any(map(len, later)):
            return self
        parts = [self.columns, *(scenes.columns for scenes in later)]
        joined = Scenes(joined_columns(parts))
        numbers = joined.numbers()
        order = np.argsort(numbers, kind="stable")
        ordered = numbers[order]
        return joined.take(order[np.append(ordered[1:] != ordered[:-1], True)])

    def _positions(self, first: int, last: int) -> tuple[int, int]:
        numbers = self.numbers()
        return bisect.bisect_left(numbers, first), bisect.bisect_right(numbers, last)

    def _objects(self, first: int, count: int) -> Iterator[Scene]:
        columns = (_decoded(column.slice(first, count)).to_pylist() for column in self._arrays)
        return itertools.starmap(_scene, zip(*columns, strict=True))


class SceneMap(Mapping[int, Scene]):
    """Scenes by number: ``scenes``, in their place or besides them ``added``, and of all not those ``left_out``."""

    def __init__(
        self, scenes: Scenes, added: Mapping[int, Scene] | None = None, left_out: Collection[int] = frozenset()
    ) -> None:
        self._scenes, self._added, self._left_out = scenes, {} if added is None else added, left_out

    def __getitem__(self, number: int) -> Scene:
        if number in self._left_out:
            raise KeyError(number)
        if number in self._added:
            return self._added[number]
        position = self._scenes.position(number)
        if position is None:
            raise KeyError(number)
        return self._scenes[position]

    def __iter__(self) -> Iterator[int]:
        return map(int, self.all().numbers())

    def __len__(self) -> int:
        return len(self.all())

    def all(self) -> Scenes:
        """All of them, by increasing number."""
        scenes = self._scenes.merged(Scenes.of(self._added.values()))
        return scenes.without(list(self._left_out)) if self._left_out else scenes

    def of(self, numbers: range) -> dict[int, Scene]:
        """Those with these numbers, one after the other: quicker than one by one."""
        found = {scene.number: scene for scene in self._scenes.objects_between(numbers.start, numbers.stop - 1)}
        found |= {number: self._added[number] for number in numbers if number in self._added}
        return {number: scene for number, scene in found.items() if number not in self._left_out}

    def without(self, left_out: Collection[int]) -> SceneMap:
        """The same, as long as ``left_out`` is: without these numbers."""
        return SceneMap(self._scenes, self._added, left_out)


def _scene(number: int, suffix: str, *values: Any) -> Scene:
    """From a row of all columns."""
    row = dict(zip(COLUMNS.names[2:], values, strict=True))
    low = row["lr_sha256"]
    row |= {"file": clip_name(number, suffix), "sha256": row["sha256"].hex()}
    if low is not None:
        row |= {"lr_file": low_clip_name(number), "lr_sha256": low.hex()}
    return Scene(number=number, **row)


def joined_columns(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """One after the other."""
    arrays = [pa.concat_arrays([part.column(name) for part in parts]) for name in COLUMNS.names]
    return pa.RecordBatch.from_arrays(arrays, schema=COLUMNS)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    return (
        pa.array(values, kind.value_type).dictionary_encode()
        if pa.types.is_dictionary(kind)
        else pa.array(values, kind)
    )


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _trimmed(column: pa.Array) -> pa.Array:
    """A column without the texts that no row of it has."""
    if not pa.types.is_dictionary(column.type):
        return column
    used = column.indices.unique().drop_null()
    if len(used) == len(column.dictionary):
        return column
    return pa.DictionaryArray.from_arrays(pc.index_in(column.indices, used), column.dictionary.take(used))
