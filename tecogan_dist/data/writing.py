"""Writing a clip store: clips by many processes at a time, on any machine; the index by one.

:func:`write_clip` makes a clip and returns its row of the index; :class:`ClipStoreWriter` holds the store's lock and
enters the rows.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tecogan_dist.base.atomic import reported_local
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.invariants import present, require
from tecogan_dist.base.lock import WriterLock
from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import clip_files
from tecogan_dist.data.index import INDEX_NAME
from tecogan_dist.data.parts import PARTS, IndexWriter, read_index
from tecogan_dist.data.scenes import CLIPS, Encoding, Scene, SceneMap, clip_name, low_clip_name
from tecogan_dist.video.formats import READABLE_SUFFIXES
from tecogan_dist.video.writer import FrameWriter

MARKER = ".tecogan_store"
"""The file that makes a folder a clip store: in a folder of others nothing is written, replaced or removed."""
MARKER_TEXT = b"""\
This folder is a clip store of tecogan_dist, which replaces clips/scene_*, index.parquet and index_parts/part_* here.
"""
MARKER_START = MARKER_TEXT.partition(b",")[0]
PARTIAL_PREFIX = ".partial_"
_PARTIAL = re.compile(rf"{re.escape(PARTIAL_PREFIX)}[a-z0-9_]{{8}}")
_IN_PARTIAL = re.compile(r"\.?scene_[0-9]{4,19}(_lr)?(\.partial)?\.[a-z0-9]{2,4}")
# Visually lossless at full colour resolution: 42 dB, about 1/100 of raw for Big Buck Bunny's 720p, 1/60 at half the
# size, where it is sharper. fastdecode leaves out what makes decoding slow (1.5 times faster, 0.6 dB less). A keyframe
# a second keeps a damaged or partly read clip usable.
CLIP_CRF = 17
CLIP_KEYFRAME_INTERVAL = 24
ENCODINGS: dict[str, dict[str, Any]] = {
    "lossy": {"pix_fmt": "yuv444p", "crf": CLIP_CRF, "tune": "fastdecode"},
    "lossless": {"pix_fmt": "rgb24", "crf": 0},
}


def write_clip(
    store: str | Path | Location,
    number: int,
    frames: Iterable[np.ndarray],
    *,
    rate: Fraction,
    source: str,
    source_start: int,
    downscale: int,
    encoding: Encoding = "lossy",
    original: Path | None = None,
    lr_frames: Iterable[np.ndarray] | None = None,
    content: str | None = None,
) -> Scene:
    """Put (height, width, 3) uint8 frames into the store as a clip, and return the row that the index needs for it.

    Any process may do this, on any machine that reaches the store: the index and its lock are not touched. A clip of
    the same number is replaced. ``rate`` is frames a second. With ``encoding`` "original" the bytes of the local video
    ``original`` become the clip; ``frames`` are all of its frames, which are only counted. ``lr_frames``: the scene's
    own low-resolution frames, one for each of ``frames``, kept without loss. ``content`` identifies what the source
    holds.

    An error while frames are produced leaves the store as it was. Raises :class:`UserError` if the store cannot be
    written, and for low-resolution frames that do not fit.
    """
    location = Location.of(store)
    require((encoding == "original") == (original is not None), "only an original clip keeps a video's bytes")
    suffix = ".mp4"
    if original is not None:
        suffix = original.suffix.lower()
        require(suffix in READABLE_SUFFIXES, f"{original} is a video")
        require((source_start, downscale) == (0, 1), "an original clip is its whole video")
    file = clip_name(number, suffix)
    lr_file = None if lr_frames is None else low_clip_name(number)
    with _work_folder(location) as folder:
        clip = folder / Path(file).name
        if original is not None:
            with reported_local(clip):
                shutil.copyfile(original, clip)
            count, height, width = _measure(frames)
        else:
            count, height, width = _encode(clip, frames, rate, ENCODINGS[encoding])
        lr_sha256 = None
        if lr_file is not None and lr_frames is not None:
            lr_clip = folder / Path(lr_file).name
            lr_count, lr_height, lr_width = _encode(lr_clip, lr_frames, rate, ENCODINGS["lossless"])
            scale = height // lr_height
            if lr_count != count or (height, width) != (lr_height * scale, lr_width * scale):
                raise UserError(
                    f"the low-resolution frames of {source}, {lr_count} of {lr_width}x{lr_height}, do not fit its "
                    f"{count} frames of {width}x{height}: give one for each, smaller by a whole factor."
                )
            lr_sha256 = Location.of(lr_clip).sha256()
            (location / lr_file).put(lr_clip)
        sha256 = Location.of(clip).sha256()
        (location / file).put(clip)
    return Scene(
        number=number,
        file=file,
        frames=count,
        height=height,
        width=width,
        rate=f"{rate.numerator}/{rate.denominator}",
        source=source,
        source_start=source_start,
        downscale=downscale,
        sha256=sha256,
        encoding=encoding,
        lr_file=lr_file,
        lr_sha256=lr_sha256,
        content=content,
    )


@contextlib.contextmanager
def _work_folder(location: Location) -> Iterator[Path]:
    """A temporary folder, on the store's own disk if the store is local."""
    parent = location.path / CLIPS if location.is_local else Path(tempfile.gettempdir())
    if location.is_local:
        _check_no_link(parent)
    with reported_local(parent):
        parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=parent, ignore_cleanup_errors=True)
    with folder as name:
        yield Path(name)


def _encode(clip: Path, frames: Iterable[np.ndarray], rate: Fraction, settings: dict[str, Any]) -> tuple[int, int, int]:
    """Write a clip; returns its number of frames, height and width."""
    with FrameWriter(clip, rate=rate, preset="fast", keyframe_interval=CLIP_KEYFRAME_INTERVAL, **settings) as writer:
        return _measure(_passing(frames, writer))


def _passing(frames: Iterable[np.ndarray], writer: FrameWriter) -> Iterator[np.ndarray]:
    for frame in frames:
        writer.write(frame)
        yield frame


def _measure(frames: Iterable[np.ndarray]) -> tuple[int, int, int]:
    count = height = width = 0
    for frame in frames:
        count, (height, width, _) = count + 1, frame.shape
    if not count:
        raise UserError("a scene has no frames: its video has fewer than it says, take another copy.")
    return count, height, width


def _check_no_link(clips: Path) -> None:
    """Raise :class:`UserError` for a link: where it leads to, other files of such names may be."""
    if clips.is_symlink():
        raise UserError(f"{clips} is a symbolic link, through which no clip is written: put the folder itself there.")


class ClipStoreWriter:
    """The right to enter scenes into a store's index, one process's at a time; makes the store if it does not exist.

    Use it as a context manager. Only a new or empty folder, and one that is a store already, is ever written to. Raises
    :class:`UserError` if the folder holds something else, before anything of it is touched, or if another process is
    writing.
    """

    def __init__(self, store: str | Path | Location) -> None:
        self.location = Location.of(store)
        self._lock = WriterLock(self.location)
        self._index: IndexWriter | None = None

    def __enter__(self) -> Self:
        if not _is_store(self.location):
            (self.location / MARKER).write_bytes(MARKER_TEXT)
        self._lock.__enter__()
        try:
            if self.location.is_local:
                for name in (CLIPS, PARTS):
                    _check_no_link(self.location.path / name)
                _remove_partial(self.location.path / CLIPS)
            self._index = IndexWriter(self.location, self._lock.check)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with contextlib.suppress(UserError):  # all scenes are entered, and the next writer tries again
                    self._entered.compact()
        finally:
            self._lock.__exit__(kind, error, trace)

    @property
    def scenes(self) -> SceneMap:
        """The store's scenes, by number."""
        return self._entered.scenes

    def enter(self, scene: Scene) -> None:
        """Name a finished clip in the index; a row of the same number is replaced. As quick in a store of any size."""
        self._entered.enter(scene)

    def enter_all(self, scenes: Iterable[Scene]) -> None:
        """Name many finished clips, of different numbers, at once: all of them or, if that fails, none."""
        self._entered.enter_all(scenes)

    def remove(self, numbers: Collection[int]) -> None:
        """Take scenes out of the index, and their clips out of the store."""
        removed = [self.scenes[number] for number in numbers if number in self.scenes]
        self._entered.remove(numbers)
        for scene in removed:
            for file, _ in clip_files(scene):
                with contextlib.suppress(FileNotFoundError):
                    (self.location / file).delete()

    @property
    def _entered(self) -> IndexWriter:
        return present(self._index, "the store is open for writing")


def _is_store(location: Location) -> bool:
    """Whether the folder bears the mark of a store; False for one that may become one: empty, or an earlier version's.

    Raises :class:`UserError` for any other. Writes nothing.
    """
    with contextlib.suppress(FileNotFoundError):
        # Without a list of what is there: on gs:// that is one of all clips.
        if not (location / MARKER).read_bytes(2**16).startswith(MARKER_START):
            raise UserError(f"{location / MARKER} is not the mark of a clip store: give a new folder, or remove it.")
        return True
    names = {name for name in location.names() if name}
    if not names:
        return False
    # The index of a foreign kind is refused by its reader.
    if INDEX_NAME not in names or read_index(location) is None:
        raise UserError(f"{location} is not empty and not a clip store: give a new folder.")
    return False


def _remove_partial(clips: Path) -> None:
    """Remove what killed processes have left: files of our own naming in folders of our own naming, and nothing else.

    Failures are not reported: what is left is in nobody's way.
    """
    with contextlib.suppress(OSError):
        for folder in [entry for entry in os.scandir(clips) if _PARTIAL.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                if not folder.is_dir(follow_symlinks=False):
                    continue
                for entry in os.scandir(folder):
                    if _IN_PARTIAL.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        os.unlink(entry)
                os.rmdir(folder)
