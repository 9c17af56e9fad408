"""The clip store: what ``prepare`` writes and training reads.

A store is a folder, local or on s3:// or gs://, with ``clips/scene_2000.mp4 ...``, one short clip a scene, and
``index.parquet``, one row a scene; while scenes are entered, the newest rows are in ``index_parts/`` beside it. A clip
is complete before a row names it, and each of these files is replaced as a whole: whatever happens while a store is
written, it stays a valid store of the scenes that were finished.

:mod:`tecogan_dist.data.writing` is the other side: how clips and rows come about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.data.index import INDEX_NAME, SCHEMA
from tecogan_dist.data.parts import read_index
from tecogan_dist.data.scenes import CLIPS, Encoding, Scene, Scenes
from tecogan_dist.video.open import open_video
from tecogan_dist.video.source import FrameSource

__all__ = ["CLIPS", "INDEX_NAME", "SCHEMA", "ClipStore", "Encoding", "Scene", "Scenes", "read_index"]


@dataclasses.dataclass(frozen=True)
class ClipStore:
    """A store opened for reading; ``scenes`` are in order of their numbers."""

    location: Location
    scenes: Scenes

    @classmethod
    def open(cls, store: str | Path | Location) -> ClipStore:
        """Read and check the index. Raises :class:`UserError` if this is not a store, or an empty or incomplete one."""
        location = Location.of(store)
        scenes = read_index(location)
        if scenes is None:
            what = "is not a clip store" if location.exists() else "does not exist"
            raise UserError(f"{location} {what}: make one with 'tecogan prepare INPUT --output {location}'.")
        if not scenes:
            raise UserError(f"the clip store {location} is empty: add scenes with 'tecogan prepare'.")
        missing = missing_clips(location, scenes)
        if missing:
            raise UserError(
                f"the clip store {location} lacks {sum(map(len, missing.values()))} of its clips, the first is "
                f"{next(iter(missing.values()))[0]}: "
                "make them again with 'tecogan prepare'."
            )
        return cls(location, scenes)

    @property
    def path(self) -> Path:
        """The folder of a local store."""
        return self.location.path

    def select(self, first: int, last: int) -> Scenes:
        """Scenes with numbers from ``first`` to ``last``, both included; empty where there are none."""
        return self.scenes.between(first, last)


def clip_files(scene: Scene) -> list[tuple[str, str]]:
    """(path below the store, sha256) of the scene's clip and, if it has one, of its low-resolution clip."""
    files = [(scene.file, scene.sha256)]
    if scene.lr_file is not None:
        if scene.lr_sha256 is None:
            raise UserError(f"the index has no checksum of {scene.lr_file}: it is damaged, make the store again.")
        files.append((scene.lr_file, scene.lr_sha256))
    return files


def missing_clips(location: Location, scenes: Scenes) -> dict[int, list[str]]:
    """Of every scene of whose clips the store lacks some, by number, their paths below the store.

    Lists the store's clips, and reads none.
    """
    there = pa.array([f"{CLIPS}/{name}" for name in (location / CLIPS).names()], pa.string())
    missing: dict[int, list[str]] = {}
    for files in (scenes.files(), scenes.files(low_resolution=True)):
        lacks = pc.and_(files.is_valid(), pc.invert(pc.is_in(files, value_set=there)))
        for position in np.flatnonzero(lacks.to_numpy(zero_copy_only=False)).tolist():
            missing.setdefault(int(scenes.numbers()[position]), []).append(files[position].as_py())
    return dict(sorted(missing.items()))


def open_clip(store_path: str | Path, scene: Scene, *, low_resolution: bool = False) -> FrameSource:
    """The frames of a scene of a local store, decoded in one thread. Raises :class:`UserError`, which names the clip.

    ``low_resolution``: the scene's own low-resolution frames. Training reads through
    :func:`tecogan_dist.data.cache.scene_frames`, which handles remote stores too.
    """
    file, _ = clip_files(scene)[int(low_resolution)]
    return open_clip_file(Path(store_path) / file, scene, low_resolution=low_resolution)


def open_clip_file(path: Path, scene: Scene, *, low_resolution: bool = False) -> FrameSource:
    """:func:`open_clip` for a clip that may be elsewhere."""
    clip = open_video(path, threads=1)
    scale = scene.height // clip.height if low_resolution else 1
    if (clip.height * scale, clip.width * scale) != (scene.height, scene.width):
        raise UserError(f"{path} is not the clip that the index of its store describes: make the store again.")
    return clip


def verify(store: str | Path | Location) -> Iterator[tuple[Scene, str | None]]:
    """Each scene of a store, and what is wrong with its clips: missing, or not the bytes that were written.

    Reads everything. Raises :class:`UserError` for what is not a store. By several processes:
    :func:`tecogan_dist.data.prepare.verifying.verified`.
    """
    location = Location.of(store)
    for scene in written_scenes(location):
        yield scene, problem_of(location, scene)


def written_scenes(location: Location) -> Scenes:
    """The scenes of a store, of which clips may be missing. Raises :class:`UserError` for what is not a store."""
    scenes = read_index(location)
    if scenes is None:
        raise UserError(f"{location} is not a clip store: give the folder that 'tecogan prepare' wrote.")
    return scenes


def problem_of(location: Location, scene: Scene) -> str | None:
    """What is wrong with a scene's clips. Reads all of them."""
    problem = None
    for file, sha256 in clip_files(scene):
        try:
            if (location / file).sha256() != sha256:
                problem = f"{file} is damaged: its bytes are not those that were written."
        except FileNotFoundError:
            problem = f"{file} is missing."
    return problem
