"""The index of a store as a whole: ``index.parquet`` and, beside it, the scenes that were entered since it was written.

Nothing can be appended to a file of an object store, and an index that is written anew for every scene costs the square
of their number. So a scene is entered into the newest of a few small files, ``index_parts/part_INDEX_NUMBER.parquet``,
which is written anew with up to ``PART_ROWS`` rows; then the next begins. A row of a part replaces the one of that
number in the index and in earlier parts. When there are ``MOST_PARTS``, and when a writer opens and closes the store,
all become the new index: that costs a row no more than its part did, up to the largest index, and a reader meets few
files. Versions that know no parts see the scenes of the index.

INDEX is the index's checksum: a part counts only as long as the index is the one that it was begun for. With a new
index all its parts are void at once, before they are removed, and so they are with one that an older version's writer
has put there: what it did not see is missing then, and is made again; nothing comes back that it has taken out. When a
writer opens the store it removes void parts.

A reader takes no lock. It lists the parts, then reads the index, then the index's parts of its list. If a new index
appears before it reads the index, that holds all of them; if it appears later, the parts are still there or, which is
noticed, gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from tecogan_dist.base.atomic import reported_local, sync_folder
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location, UnreachableError
from tecogan_dist.data.index import INDEX_NAME, MOST_BYTES, MOST_SCENES, packed, unpacked
from tecogan_dist.data.scenes import Scene, SceneMap, Scenes

PARTS = "index_parts"
PART_ROWS = 128
MOST_PARTS = 64
MOST_PART_BYTES = 2**24
"""With two texts a row of the greatest length."""
TRIES = 5
"""To read an index that is replaced meanwhile. Between two times thousands of scenes are made."""
_PART = re.compile(r"part_([0-9a-f]{16})_([0-9]{4})\.parquet")
_LEFT = re.compile(rf"\.({re.escape(INDEX_NAME)}|{_PART.pattern})\.[0-9a-f]{{8}}\.partial")


def part_name(index: str, number: int) -> str:
    """The path below the store of a part; ``number`` is from 1 on."""
    return f"{PARTS}/part_{index}_{number:04d}.parquet"


def read_index(location: Location) -> Scenes | None:
    """The scenes of a store; None if it has no index.

    Raises :class:`UserError` for any other file in the place of one of ours, and for one that is damaged.
    """
    found = _read(location)
    return None if found is None else found.scenes


@dataclasses.dataclass(frozen=True)
class _Found:
    """What was read of a store."""

    scenes: Scenes
    index: str
    """The index's checksum."""
    parts: int
    """That were read besides."""


def _read(location: Location) -> _Found | None:
    for left in reversed(range(TRIES)):
        listed = _listed(location)
        try:
            return _read_listed(location, listed)
        except (FileNotFoundError, _ChangedError):
            continue
        except UserError as error:
            # An object that is replaced while it is read may end too early; a local file never does.
            if location.is_local or isinstance(error, UnreachableError) or not left:
                raise
    raise UserError(
        f"{location / PARTS} has too few or too many files, or they change all the time: try again, or remove it; then "
        "'tecogan prepare' makes again what is missing."
    )


def _read_listed(location: Location, listed: Sequence[tuple[str, int]]) -> _Found | None:
    """None without an index. Raises ``FileNotFoundError`` or :class:`_ChangedError` if there is a new one."""
    file = location / INDEX_NAME
    try:
        data = file.read_bytes(MOST_BYTES)
    except FileNotFoundError:
        return None
    # An object is read piece by piece, and may have been replaced between two of them.
    if not location.is_local and file.size() != len(data):
        raise _ChangedError
    index = _checksum(data)
    numbers = sorted(number for of_index, number in listed if of_index == index)
    if numbers != list(range(1, len(numbers) + 1)) or len(numbers) > MOST_PARTS:
        raise _ChangedError
    parts = [location / part_name(index, number) for number in numbers]
    contents = [part.read_bytes(MOST_PART_BYTES) for part in parts]
    later = [unpacked(rows, part, most_scenes=PART_ROWS) for rows, part in zip(contents, parts, strict=True)]
    return _Found(unpacked(data, file).merged(*later), index, len(parts))


class _ChangedError(Exception):
    """The index is not the one of the listed parts any more, or its parts are others than a writer makes."""


def _listed(location: Location) -> list[tuple[str, int]]:
    """(checksum of its index, number) of every part, void or not."""
    matches = map(_PART.fullmatch, (location / PARTS).names())
    return [(match[1], int(match[2])) for match in matches if match is not None]


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


class IndexWriter:
    """The index of a store that only this process writes. ``check`` is called before every write, and may raise.

    Makes the index if there is none. Raises :class:`UserError` for what cannot be written; the store and ``scenes`` are
    then as they were.
    """

    def __init__(self, location: Location, check: Callable[[], None]) -> None:
        self._location, self._check = location, check
        self._scenes, self._index = Scenes.of(()), ""
        self._added: dict[int, Scene] = {}
        self._newest: dict[int, Scene] = {}
        self._parts = 0
        if location.is_local:
            _remove_left(location.path)
        found = _read(location)
        if found is None or found.parts:
            self._write(Scenes.of(()) if found is None else found.scenes)
        else:
            self._begin(found.scenes, found.index)
            self._remove_parts()

    @property
    def scenes(self) -> SceneMap:
        """By number."""
        return SceneMap(self._scenes, self._added)

    def enter(self, scene: Scene) -> None:
        """Name a finished clip; a row of the same number is replaced."""
        if scene.number not in self._added and len(self._scenes) + len(self._added) >= MOST_SCENES:
            raise self._full()
        rows = {**self._newest, scene.number: scene}
        number = max(self._parts, 1)
        if len(rows) > PART_ROWS:
            rows, number = {scene.number: scene}, number + 1
            if number > MOST_PARTS:
                self.compact()
                number = 1
        self._check()
        (self._location / part_name(self._index, number)).write_bytes(packed(Scenes.of(rows.values())))
        self._newest, self._parts = rows, number
        self._added[scene.number] = scene

    def enter_all(self, scenes: Iterable[Scene]) -> None:
        """:meth:`enter` for many, of different numbers, in one go."""
        together = self.scenes.all().merged(Scenes.of(scenes))
        if len(together) > MOST_SCENES:
            raise self._full()
        self._write(together)

    def remove(self, numbers: Collection[int]) -> None:
        """Take these out."""
        self.compact()
        self._remove_parts()  # the index without these scenes may be one that there was before, and had parts
        self._write(self._scenes.without(list(numbers)))

    def compact(self) -> None:
        """Make the parts one with the index."""
        if self._parts:
            self._write(self.scenes.all())

    def _full(self) -> UserError:
        return UserError(f"{self._location} has no room for more than {MOST_SCENES} scenes: begin another store.")

    def _begin(self, scenes: Scenes, index: str) -> None:
        """Go on from this index, which has no parts yet."""
        self._scenes, self._index = scenes, index
        self._added, self._newest, self._parts = {}, {}, 0

    def _write(self, scenes: Scenes) -> None:
        self._check()
        data = packed(scenes)
        (self._location / INDEX_NAME).write_bytes(data)
        if self._location.is_local:
            with reported_local(self._location.path):
                sync_folder(self._location.path)  # before its parts are removed, also for a machine that loses power
        self._begin(scenes, _checksum(data))
        self._remove_parts()

    def _remove_parts(self) -> None:
        """The last one first: what is left after a kill has no gaps."""
        for index, number in sorted(_listed(self._location), reverse=True):
            self._check()
            with contextlib.suppress(FileNotFoundError):
                (self._location / part_name(index, number)).delete()
        (self._location / PARTS).delete_folder()


def _remove_left(store: Path) -> None:
    """Remove what killed writers have left of files that they were writing. Failures are not reported."""
    for folder in (store, store / PARTS):
        with contextlib.suppress(OSError):
            for entry in [entry for entry in os.scandir(folder) if _LEFT.fullmatch(entry.name)]:
                os.unlink(entry)
