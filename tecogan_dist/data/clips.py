"""The clip store: what ``prepare`` writes and training reads.

A store is a folder with ``clips/scene_2000.mp4 ...``, one short H.264 clip a scene, and ``index.parquet``, one row a
scene. A clip is complete before the index names it, and the index is replaced as a whole: whatever happens while a
store is written, it stays a valid store of the scenes that were finished.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tecogan_dist.errors import UserError
from tecogan_dist.video import FrameSource, FrameWriter, open_video

INDEX_NAME = "index.parquet"
LOCK_NAME = ".lock"
# Visually lossless at full colour resolution: 0.7 of 255 mean error and 10 KB a frame at 720p. A keyframe a second
# keeps a damaged or partly read clip usable.
CLIP_CRF = 10
CLIP_KEYFRAME_INTERVAL = 24
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
    ]
)


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
    """Position in the source of the scene's first frame."""
    downscale: int
    """Factor by which the source's frames were reduced."""
    sha256: str
    """Of the clip's bytes."""


@dataclasses.dataclass(frozen=True)
class ClipStore:
    """A store opened for reading; ``scenes`` are in order of their numbers."""

    path: Path
    scenes: tuple[Scene, ...]

    @classmethod
    def open(cls, path: str | Path) -> ClipStore:
        """Read and check the index. Raises :class:`UserError` if this is no store, or an empty or incomplete one."""
        path = Path(path)
        if not (path / INDEX_NAME).is_file():
            what = "is not a clip store" if path.exists() else "does not exist"
            raise UserError(f"{path} {what}: make one with 'tecogan prepare INPUT --output {path}'.")
        scenes = _read_index(path)
        if not scenes:
            raise UserError(f"the clip store {path} is empty: add scenes with 'tecogan prepare'.")
        missing = [scene.file for scene in scenes if not (path / scene.file).is_file()]
        if missing:
            raise UserError(f"the clip store {path} lacks {len(missing)} of its clips, the first is {missing[0]}.")
        return cls(path, scenes)

    def select(self, first: int, last: int) -> tuple[Scene, ...]:
        """Scenes with numbers from ``first`` to ``last``, both included; empty where there are none."""
        return tuple(scene for scene in self.scenes if first <= scene.number <= last)


def open_clip(store_path: str | Path, scene: Scene) -> FrameSource:
    """The frames of a scene, decoded in one thread. Raises :class:`UserError`, which names the clip."""
    clip = Path(store_path) / scene.file
    source = open_video(clip, threads=1)
    if (source.height, source.width) != (scene.height, scene.width):
        raise UserError(f"{clip} is not the clip that the index of its store describes: make the store anew.")
    return source


class ClipStoreWriter:
    """Adds scenes to a store, one at a time; the store is made if it does not exist.

    Use it as a context manager: one writer at a time is allowed. Raises :class:`UserError` if there is another one,
    or if the folder holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.scenes: dict[int, Scene] = {}
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        is_store = (self.path / INDEX_NAME).exists() or (self.path / LOCK_NAME).exists()
        try:
            if self.path.exists() and not is_store and any(self.path.iterdir()):
                raise UserError(f"{self.path} is not empty and not a clip store: give a new folder.")
            (self.path / "clips").mkdir(parents=True, exist_ok=True)
            # The system releases this lock however the process ends.
            self._lock = open(self.path / LOCK_NAME, "wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is writing to the clip store {self.path}: wait for its end.") from error
        except OSError as error:
            raise UserError(f"the clip store {self.path} cannot be written ({error.strerror}).") from error
        if (self.path / INDEX_NAME).exists():
            self.scenes = {scene.number: scene for scene in _read_index(self.path)}
        else:
            self._write_index()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        self._lock.close()

    def add(
        self,
        number: int,
        frames: Iterable[np.ndarray],
        *,
        rate: Fraction,
        source: str,
        source_start: int,
        downscale: int,
    ) -> Scene:
        """Encode (height, width, 3) uint8 frames as a new scene and enter it into the index.

        An error while ``frames`` are produced leaves the store as it was.
        """
        assert number not in self.scenes, f"scene {number} exists"
        file = f"clips/scene_{number:04d}.mp4"
        height = width = 0
        with FrameWriter(
            self.path / file,
            rate=rate,
            pix_fmt="yuv444p",
            crf=CLIP_CRF,
            preset="fast",
            keyframe_interval=CLIP_KEYFRAME_INTERVAL,
        ) as writer:
            for frame in frames:
                height, width, _ = frame.shape
                writer.write(frame)
        with open(self.path / file, "rb") as clip:
            digest = hashlib.file_digest(clip, "sha256").hexdigest()
        scene = Scene(
            number=number,
            file=file,
            frames=writer.count,
            height=height,
            width=width,
            rate=f"{rate.numerator}/{rate.denominator}",
            source=source,
            source_start=source_start,
            downscale=downscale,
            sha256=digest,
        )
        self.scenes[number] = scene
        self._write_index()
        return scene

    def _write_index(self) -> None:
        rows = [dataclasses.asdict(self.scenes[number]) for number in sorted(self.scenes)]
        partial = self.path / f".{INDEX_NAME}.partial"
        with open(partial, "wb") as file:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path / INDEX_NAME)


def _read_index(path: Path) -> tuple[Scene, ...]:
    try:
        table = pq.read_table(path / INDEX_NAME)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path / INDEX_NAME} cannot be read ({str(error).splitlines()[0]}).") from error
    if not table.schema.equals(SCHEMA):
        raise UserError(f"{path / INDEX_NAME} is not the index of a clip store of this version: make the store anew.")
    return tuple(Scene(**row) for row in table.to_pylist())
