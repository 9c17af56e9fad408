"""The clip store: what ``prepare`` writes and training reads.

A store is a folder, local or on s3:// or gs://, with ``clips/scene_2000.mp4 ...``, one short clip a scene, and
``index.parquet``, one row a scene. A clip is complete before the index names it, and the index is replaced as a whole:
whatever happens while a store is written, it stays a valid store of the scenes that were finished.

Clips may be written by many processes at a time, on any machine (:func:`write_clip`); the index is one process's
(:class:`ClipStoreWriter`), which enters what they return.
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
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tecogan_dist.data.lock import LOCK_NAME, WriterLock
from tecogan_dist.errors import UserError
from tecogan_dist.storage import Location, reported_local
from tecogan_dist.video import READABLE_SUFFIXES, FrameSource, FrameWriter, open_video

INDEX_NAME = "index.parquet"
CLIPS = "clips"
PARTIAL_PREFIX = ".partial_"
# Visually lossless at full colour resolution: 42 dB, about 1/100 of raw for Big Buck Bunny's 720p, 1/60 for its half,
# which is sharper. fastdecode leaves out what makes decoding slow (1.5 times faster, 0.6 dB less). A keyframe a second
# keeps a damaged or partly read clip usable.
CLIP_CRF = 17
CLIP_KEYFRAME_INTERVAL = 24
ENCODINGS: dict[str, dict[str, Any]] = {
    "lossy": {"pix_fmt": "yuv444p", "crf": CLIP_CRF, "tune": "fastdecode"},
    "lossless": {"pix_fmt": "rgb24", "crf": 0},
}
Encoding = Literal["lossy", "lossless", "original"]
FIRST_SCHEMA = pa.schema(
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
    ]
)
# Columns that a store of the first version lacks; its scenes have the defaults of Scene.
ADDED_COLUMNS = (("encoding", pa.string()), ("lr_file", pa.string()), ("lr_sha256", pa.string()))
SCHEMA = pa.schema([*FIRST_SCHEMA, *ADDED_COLUMNS])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """A row of the index: a span of ``frames`` frames without a cut, and where it came from."""

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
    """Position in the source of the scene's first frame: where it was cut."""
    downscale: int
    """Factor by which the source's frames were reduced."""
    sha256: str
    """Of the clip's bytes."""
    encoding: Encoding = "lossy"
    """lossy: visually lossless H.264. lossless: H.264 that gives back every bit. original: the source's own bytes."""
    lr_file: str | None = None
    """Path below the store of the clip of the scene's own low-resolution frames, always lossless; None: it has none."""
    lr_sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class ClipStore:
    """A store opened for reading; ``scenes`` are in order of their numbers."""

    location: Location
    scenes: tuple[Scene, ...]

    @classmethod
    def open(cls, store: str | Path | Location) -> ClipStore:
        """Read and check the index. Raises :class:`UserError` if this is no store, or an empty or incomplete one."""
        location = Location.of(store)
        scenes = _read_index(location)
        if scenes is None:
            what = "is not a clip store" if location.exists() else "does not exist"
            raise UserError(f"{location} {what}: make one with 'tecogan prepare INPUT --output {location}'.")
        if not scenes:
            raise UserError(f"the clip store {location} is empty: add scenes with 'tecogan prepare'.")
        there = {f"{CLIPS}/{entry.base_name}" for entry in (location / CLIPS).entries()}
        missing = [file for scene in scenes for file, _ in clip_files(scene) if file not in there]
        if missing:
            raise UserError(
                f"the clip store {location} lacks {len(missing)} of its clips, the first is {missing[0]}: "
                "make them anew with 'tecogan prepare'."
            )
        return cls(location, scenes)

    @property
    def path(self) -> Path:
        """The folder of a local store."""
        return self.location.path

    def select(self, first: int, last: int) -> tuple[Scene, ...]:
        """Scenes with numbers from ``first`` to ``last``, both included; empty where there are none."""
        return tuple(scene for scene in self.scenes if first <= scene.number <= last)


def clip_files(scene: Scene) -> list[tuple[str, str]]:
    """(path below the store, sha256) of the scene's clip and, if it has one, of its low-resolution clip."""
    files = [(scene.file, scene.sha256)]
    if scene.lr_file is not None:
        assert scene.lr_sha256 is not None
        files.append((scene.lr_file, scene.lr_sha256))
    return files


def open_clip(store_path: str | Path, scene: Scene, *, low_resolution: bool = False) -> FrameSource:
    """The frames of a scene of a local store, decoded in one thread. Raises :class:`UserError`, which names the clip.

    ``low_resolution``: the scene's own low-resolution frames. Training reads through
    :func:`tecogan_dist.data.cache.scene_frames`, which knows remote stores too.
    """
    file, _ = clip_files(scene)[int(low_resolution)]
    return open_clip_file(Path(store_path) / file, scene, low_resolution=low_resolution)


def open_clip_file(path: Path, scene: Scene, *, low_resolution: bool = False) -> FrameSource:
    """:func:`open_clip` for a clip that may lie elsewhere."""
    clip = open_video(path, threads=1)
    scale = scene.height // clip.height if low_resolution else 1
    if (clip.height * scale, clip.width * scale) != (scene.height, scene.width):
        raise UserError(f"{path} is not the clip that the index of its store describes: make the store anew.")
    return clip


def verify(store: str | Path | Location) -> Iterator[tuple[Scene, str | None]]:
    """Each scene of a store, and what is wrong with its clips: missing, or other bytes than were written.

    Reads everything. Raises :class:`UserError` for what is no store.
    """
    location = Location.of(store)
    scenes = _read_index(location)
    if scenes is None:
        raise UserError(f"{location} is not a clip store: give the folder that 'tecogan prepare' wrote.")
    for scene in scenes:
        problem = None
        for file, sha256 in clip_files(scene):
            try:
                if (location / file).sha256() != sha256:
                    problem = f"{file} is damaged: its bytes are not those that were written."
            except FileNotFoundError:
                problem = f"{file} is missing."
        yield scene, problem


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
    the same number is replaced. With ``encoding`` "original" the bytes of the local video ``original`` become the clip;
    ``frames`` are all of its frames, which are only counted. ``lr_frames``: own low-resolution frames, one for each of
    ``frames``, kept without loss.

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
    with _workplace(location) as folder:
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
def _workplace(location: Location) -> Iterator[Path]:
    """A temporary folder, on the store's own disk if it is local."""
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
    """The one process that enters scenes into a store's index; the store is made if it does not exist.

    Use it as a context manager. Raises :class:`UserError` if another process is writing, or if the folder holds
    something else.
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
                for left_over in (self.location.path / CLIPS).glob(f"{PARTIAL_PREFIX}*"):  # of a killed process
                    shutil.rmtree(left_over, ignore_errors=True)
            scenes = _read_index(self.location)
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

    def add(
        self,
        number: int,
        frames: Iterable[np.ndarray],
        *,
        rate: Fraction,
        source: str,
        source_start: int,
        downscale: int,
        encoding: Encoding = "lossy",
    ) -> Scene:
        """:func:`write_clip` and :meth:`enter` in one."""
        assert number not in self.scenes, f"scene {number} exists"
        scene = write_clip(
            self.location,
            number,
            frames,
            rate=rate,
            source=source,
            source_start=source_start,
            downscale=downscale,
            encoding=encoding,
        )
        self.enter(scene)
        return scene

    def _write_index(self, scenes: dict[int, Scene]) -> None:
        self._lock.check()
        rows = [dataclasses.asdict(scenes[number]) for number in sorted(scenes)]
        table = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), table)
        (self.location / INDEX_NAME).write_bytes(table.getvalue())


def _read_index(location: Location) -> tuple[Scene, ...] | None:
    """The rows, in order; None if there is no index."""
    index = location / INDEX_NAME
    try:
        table = pq.read_table(io.BytesIO(index.read_bytes()))
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{index} cannot be read ({str(error).splitlines()[0]}).") from error
    if not any(table.schema.equals(schema) for schema in (SCHEMA, FIRST_SCHEMA)):
        raise UserError(f"{index} is not the index of a clip store of this version: make the store anew.")
    return tuple(Scene(**row) for row in table.to_pylist())
