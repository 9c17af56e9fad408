"""Writing a clip store: clips by many processes at a time, on any machine; the index by one.

:func:`write_clip` makes a clip and returns its row of the index; :class:`ClipStoreWriter` holds the store's lock and
enters the rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tecogan_dist.base.atomic import reported_local
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import LOCK_NAME, WriterLock
from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import CLIPS, INDEX_NAME, SCHEMA, Encoding, Scene, read_index
from tecogan_dist.video.formats import READABLE_SUFFIXES
from tecogan_dist.video.writer import FrameWriter

PARTIAL_PREFIX = ".partial_"
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
) -> Scene:
    """Put (height, width, 3) uint8 frames into the store as a clip, and return the row that the index needs for it.

    Any process may do this, on any machine that reaches the store: the index and its lock are not touched. A clip of
    the same number is replaced. ``rate`` is frames a second. With ``encoding`` "original" the bytes of the local video
    ``original`` become the clip; ``frames`` are all of its frames, which are only counted. ``lr_frames``: the scene's
    own low-resolution frames, one for each of ``frames``, kept without loss.

    An error while frames are produced leaves the store as it was. Raises :class:`UserError` if the store cannot be
    written, and for low-resolution frames that do not fit.
    """
    location = Location.of(store)
    assert (encoding == "original") == (original is not None), (encoding, original)
    suffix = ".mp4"
    if original is not None:
        suffix = original.suffix.lower()
        assert suffix in READABLE_SUFFIXES, original
        assert (source_start, downscale) == (0, 1), (source_start, downscale)
    file = f"{CLIPS}/scene_{number:04d}{suffix}"
    lr_file = None if lr_frames is None else f"{CLIPS}/scene_{number:04d}_lr.mp4"
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
    )


@contextlib.contextmanager
def _work_folder(location: Location) -> Iterator[Path]:
    """A temporary folder, on the store's own disk if the store is local."""
    parent = location.path / CLIPS if location.is_local else Path(tempfile.gettempdir())
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
    assert count, "a scene without frames"
    return count, height, width


class ClipStoreWriter:
    """The right to enter scenes into a store's index, one process's at a time; makes the store if it does not exist.

    Use it as a context manager. ``scenes`` is the index, by number. Raises :class:`UserError` if another process is
    writing, or if the folder holds something else.
    """

    def __init__(self, store: str | Path | Location) -> None:
        self.location = Location.of(store)
        self.scenes: dict[int, Scene] = {}
        self._lock = WriterLock(self.location)

    def __enter__(self) -> Self:
        names = {entry.base_name for entry in self.location.entries()}
        if names and not names & {INDEX_NAME, LOCK_NAME}:
            raise UserError(f"{self.location} is not empty and not a clip store: give a new folder.")
        self._lock.__enter__()
        try:
            if self.location.is_local:
                for left_over in (self.location.path / CLIPS).glob(f"{PARTIAL_PREFIX}*"):  # by a killed process
                    shutil.rmtree(left_over, ignore_errors=True)
            scenes = read_index(self.location)
            if scenes is None:
                self._write_index({})
            else:
                self.scenes = {scene.number: scene for scene in scenes}
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, trace)

    def enter(self, scene: Scene) -> None:
        """Name a finished clip in the index; a row of the same number is replaced."""
        scenes = {**self.scenes, scene.number: scene}
        self._write_index(scenes)
        self.scenes = scenes

    def _write_index(self, scenes: dict[int, Scene]) -> None:
        self._lock.check()
        rows = [dataclasses.asdict(scenes[number]) for number in sorted(scenes)]
        table = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), table)
        (self.location / INDEX_NAME).write_bytes(table.getvalue())
