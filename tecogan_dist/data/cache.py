"""Frames of a scene for training: from its clip, or from what this machine keeps of it.

A machine keeps the clips of a remote store, each fetched once, and on request (``data.decoded_cache``) the decoded
frames of scenes as memory-mapped files: raw bytes, of which a window reads only its crop. Both are named after the
checksum of the clip, so that stores share them and a clip that was made again is never confused with the old one. Any
number of processes may use one folder; it may be removed between runs. What is removed here has a name that the cache
gave, in a folder that it has marked as its own (:mod:`tecogan_dist.data.cache_folder`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import math
import os
import random
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from tecogan_dist.base.atomic import replacing, reported_local
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location, UnreachableError
from tecogan_dist.config.schema import DataConfig
from tecogan_dist.data.cache_folder import CLIPS, DECODED, LOCKS, cache_folder, entries, entry_name
from tecogan_dist.data.clips import Scene, clip_files, open_clip, open_clip_file
from tecogan_dist.video.source import FrameSource, Picture

FETCH_PAUSES = (2.0, 8.0, 30.0)
"""Seconds before each further try to fetch a clip: a run of days survives a network that is down for a moment."""
ADMISSION = 1 / 16
"""Fraction of the scenes that may evict others from a full cache. Scenes are used in turn, each once a pass: if all
were admitted, a cache with room for half of them would drop most of them just before their next use (15% hits instead
of 47%), and would be written to for every decode. A few are enough to replace another store's scenes in ten passes."""
ABANDONED_SECONDS = 3600.0
"""Age of an incomplete file that no process can be writing any more."""
T = TypeVar("T")


def scene_frames(
    store: str | Path | Location,
    scene: Scene,
    positions: Iterable[int],
    data: DataConfig,
    *,
    low_resolution: bool = False,
) -> Iterator[Picture]:
    """The scene's frames at these increasing positions, each (height, width, 3) uint8 RGB; ends where the clip ends.

    Take what is wanted of a frame before asking for the next; frames from the cache cannot be written to. The pixels
    are the same whatever ``data`` says about the cache. ``low_resolution``: the scene's own low-resolution frames.
    Raises :class:`UserError`, which names the clip, for one that is missing or damaged, and for a full disk.
    """
    location = Location.of(store)
    if location.is_local and not data.decoded_cache:
        yield from open_clip(location.path, scene, low_resolution=low_resolution).pictures_at(positions)
        return
    cache = Cache.of(data)
    if data.decoded_cache:
        frames = cache.decoded(location, scene, low_resolution=low_resolution)
        if frames is not None:
            yield from (frames[position] for position in positions if position < len(frames))
            return
    with cache.clip(location, scene, low_resolution=low_resolution) as clip:
        yield from clip.pictures_at(positions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """A folder of clips and decoded frames, of ``limit`` bytes at most."""

    folder: Path
    limit: int

    @classmethod
    def of(cls, data: DataConfig) -> Cache:
        """Raises :class:`UserError` if the folder cannot be used."""
        folder = cache_folder(data.cache_dir)
        return cls(folder=folder, limit=int(data.cache_gigabytes * 1e9))

    @contextlib.contextmanager
    def clip(self, store: Location, scene: Scene, *, low_resolution: bool = False) -> Iterator[FrameSource]:
        """The opened clip; that of a remote store is fetched and verified unless it is here, and kept for the block."""
        file, sha256 = clip_files(scene)[int(low_resolution)]
        if store.is_local:
            yield open_clip(store.path, scene, low_resolution=low_resolution)
            return
        entry = self.folder / CLIPS / entry_name(CLIPS, sha256, Path(file).suffix)
        while True:
            with _held(entry) as is_there:
                if is_there:
                    yield open_clip_file(entry, scene, low_resolution=low_resolution)
                    return
            with self._locked(f"clips_{sha256[:2]}"):
                if not _is_there(entry):  # another process may have fetched it meanwhile
                    self._fetch(store / file, entry, sha256)

    def decoded(self, store: Location, scene: Scene, *, low_resolution: bool = False) -> np.ndarray | None:
        """All frames of a scene, memory-mapped (N, H, W, 3) uint8, decoded unless they are here; None: no room."""
        _, sha256 = clip_files(scene)[int(low_resolution)]
        entry = self.folder / DECODED / entry_name(DECODED, sha256, ".npy")
        frames = _mapped(entry, scene.frames)
        if frames is None:
            with self._locked(f"decoded_{sha256[:2]}"):
                frames = _mapped(entry, scene.frames)
                if frames is None and self._decode(store, scene, entry, low_resolution=low_resolution):
                    frames = _mapped(entry, scene.frames)
        return frames

    def _fetch(self, clip: Location, entry: Path, sha256: str) -> None:
        try:
            with replacing(entry) as partial:
                self._reserve(partial, _patiently(clip.size), always=True)
                _patiently(lambda: clip.fetch(partial))
                _verify(Location.of(partial), sha256, named=clip)
        except FileNotFoundError as error:
            raise UserError(f"{clip} does not exist: make it again with 'tecogan prepare'.") from error

    def _decode(self, store: Location, scene: Scene, entry: Path, *, low_resolution: bool) -> bool:
        """Write a scene's frames to ``entry``; False if there is no room for them."""
        file, sha256 = clip_files(scene)[int(low_resolution)]
        with self.clip(store, scene, low_resolution=low_resolution) as clip:
            shape = (scene.frames, clip.height, clip.width, 3)
            try:
                with replacing(entry) as partial:
                    self._reserve(partial, math.prod(shape), always=False)
                    if store.is_local:  # a damaged clip's frames must not be kept under the intact one's checksum
                        _verify(store / file, sha256, named=store / file)
                    with reported_local(entry), open(partial, "r+b") as target:
                        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(target, header)
                        count = 0
                        for frame in clip.frames():
                            target.write(np.ascontiguousarray(frame).data)
                            count += 1
                    if count != scene.frames:
                        raise UserError(
                            f"{store / file} has {count} frames and not the {scene.frames} of its index entry: "
                            "make it again."
                        )
            except _NoRoomError:
                return False
        return True

    def _reserve(self, partial: Path, size: int, *, always: bool) -> None:
        """Make ``partial`` a file of ``size`` bytes, evicting the least recently used entries to make room.

        Raises :class:`_NoRoomError` if it is too large, or not among the few that may evict others; with ``always`` it
        gets its room whatever the limit.
        """
        with self._locked("room"):
            with reported_local(self.folder):
                found = [*entries(self.folder / CLIPS), *entries(self.folder / DECODED)]
            excess = sum(status.st_size for _, status, _ in found) + size - self.limit
            if excess > 0 and not always and (size > self.limit or random.random() >= ADMISSION):
                raise _NoRoomError
            for entry, status, is_incomplete in sorted(found, key=lambda item: item[1].st_mtime):
                if is_incomplete and time.time() - status.st_mtime < ABANDONED_SECONDS:
                    continue
                if (is_incomplete or excess > 0) and _remove_unused(entry):
                    excess -= status.st_size
            if excess > 0 and not always:
                raise _NoRoomError
            with reported_local(partial), open(partial, "wb") as file:
                file.truncate(size)  # counted from now on

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One process at a time; when a process ends its lock is released."""
        path = self.folder / LOCKS / name
        with contextlib.ExitStack() as stack:
            with reported_local(path):
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, file)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


class _NoRoomError(Exception):
    """The cache is full."""


def _mapped(entry: Path, count: int) -> np.ndarray | None:
    """The array of an entry with so many frames, marked as used; it outlives the entry's removal.

    None if there is none, or one that was damaged: it is decoded again.
    """
    try:
        with _opened(entry) as file:
            frames = np.asarray(np.load(entry, mmap_mode="r"))
            os.utime(file.fileno())
    except FileNotFoundError:
        return None
    except OSError:
        raise
    except Exception:  # numpy reads the header as Python's literals, which fails in as many ways
        return None
    is_whole = frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[0] == count and frames.shape[3] == 3
    return frames if is_whole else None


@contextlib.contextmanager
def _held(entry: Path) -> Iterator[bool]:
    """Whether there is such an entry; if so it is marked as used, and not removed inside the block."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_opened(entry))
            fcntl.flock(file, fcntl.LOCK_SH)
            os.utime(file.fileno())
            is_there = os.path.samestat(os.fstat(file.fileno()), os.lstat(entry))
        except FileNotFoundError:
            is_there = False
        yield is_there


def _remove_unused(entry: Path) -> bool:
    try:
        with _opened(entry) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), os.lstat(entry)):
                return False
            entry.unlink()
    except (FileNotFoundError, BlockingIOError):
        return False
    return True


def _is_there(entry: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(entry).st_mode)
    except FileNotFoundError:
        return False


def _opened(entry: Path) -> BinaryIO:
    """An entry, opened. Raises ``FileNotFoundError`` if none is there: a link or a FIFO of that name is none."""
    try:
        file = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileNotFoundError(str(entry)) from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileNotFoundError(str(entry))
    return os.fdopen(file, "rb")


def _verify(file: Location, sha256: str, *, named: Location) -> None:
    if file.sha256() != sha256:
        raise UserError(f"{named} is damaged: find all damaged clips with 'tecogan prepare --verify'.")


def _patiently(action: Callable[[], T]) -> T:
    """What ``action`` returns; tried again after a while if nothing answers."""
    for pause in FETCH_PAUSES:
        with contextlib.suppress(UnreachableError):
            return action()
        time.sleep(pause)
    return action()
