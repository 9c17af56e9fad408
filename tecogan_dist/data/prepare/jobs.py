"""FIXME docstring"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tecogan_dist.base.errors import UserError
from tecogan_dist.data.clips import Encoding, Scene
from tecogan_dist.data.prepare.sources import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """A scene to be."""

    number: int
    part: str = ""
    """Name of the video or folder within an archive."""
    start: int
    frames: int
    encoding: Encoding = "lossy"
    is_all: bool = False
    """The only scene of a part: it may have fewer frames than the container says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A source that is to become scenes."""

    source: Source
    name: str
    """What the index calls it."""
    place: str
    """URL, or absolute path of a video, a folder of frames or an archive."""
    lr_place: str | None = None
    numbers: range = range(0)
    pieces: tuple[Piece, ...] | None = None
    """None: not known before the source is read."""
    problem: str = ""
    """Why nothing can be made of it."""
    note: str = ""
    """What of it is not used."""

    def name_of(self, piece: Piece) -> str:
        return f"{self.name}#{piece.part}" if piece.part else self.name

    def is_there(self, piece: Piece, scenes: Mapping[int, Scene]) -> bool:
        """Whether the store has the scene. Raises :class:`UserError` if it has another one of this number."""
        scene = scenes.get(piece.number)
        if scene is None:
            return False
        wanted = (self.name_of(piece), piece.start, self.source.downscale, piece.encoding, self.lr_place is not None)
        has = (scene.source, scene.source_start, scene.downscale, scene.encoding, scene.lr_file is not None)
        if has == wanted and (scene.frames == piece.frames or (piece.is_all and scene.frames < piece.frames)):
            return True
        raise self.clash(scene, self.name_of(piece))

    def clash(self, scene: Scene, name: str) -> UserError:
        return UserError(
            f"scene {scene.number} of the store is {scene.frames} frames from frame {scene.source_start} of "
            f"{scene.source} (downscale {scene.downscale}, {scene.encoding}) and not what is to be made of {name}: use "
            "the options of the first run, another --first-scene or a new store."
        )
