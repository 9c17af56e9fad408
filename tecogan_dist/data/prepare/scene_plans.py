"""What is to become of an input: the scenes that will be made of it, and under which numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tecogan_dist.base.errors import UserError
from tecogan_dist.data.clips import Encoding, Scene
from tecogan_dist.data.prepare.download import is_archive
from tecogan_dist.data.prepare.sources import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedScene:
    """A scene that is to be made."""

    number: int
    video: str = ""
    """Name of the video or folder within an archive; "" if the input is not an archive."""
    start: int
    """Its first frame in the video."""
    frames: int
    encoding: Encoding = "lossy"
    is_all: bool = False
    """The only scene of its video: it may have fewer frames than the container says."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InputPlan:
    """An input, and the scenes that it is to become. Equal to itself only: a key that costs the same however many."""

    source: Source
    name: str
    """What the index calls it."""
    path: str
    """URL, or absolute path of a video, a folder of frames or an archive."""
    lr_path: str | None = None
    """Of a pair, the absolute path of the low-resolution frames."""
    numbers: range = range(0)
    """Scene numbers that no other input may use."""
    scenes: tuple[PlannedScene, ...] | None = None
    """None: not known before the input is read."""
    problem: str = ""
    """Why nothing can be made of it."""
    note: str = ""
    """What of it is not used."""

    def name_of(self, planned: PlannedScene) -> str:
        """What the index calls the source of one of its scenes."""
        return f"{self.name}#{planned.video}" if planned.video else self.name

    def is_there(self, planned: PlannedScene, scenes: Mapping[int, Scene]) -> bool:
        """Whether the store has the scene. Raises :class:`UserError` if it has another one of this number."""
        scene = scenes.get(planned.number)
        if scene is None:
            return False
        name = self.name_of(planned)
        wanted = (name, planned.start, self.source.downscale, planned.encoding, self.lr_path is not None)
        has = (scene.source, scene.source_start, scene.downscale, scene.encoding, scene.lr_file is not None)
        is_full = scene.frames == planned.frames or (planned.is_all and scene.frames < planned.frames)
        if has == wanted and is_full:
            return True
        raise self.clash(scene, name)

    def holds(self, scene: Scene) -> bool:
        """Whether a scene of the store was made of this input, of whatever was in it then."""
        return scene.source == self.name or (is_archive(self.path) and scene.source.startswith(f"{self.name}#"))

    def clash(self, scene: Scene, name: str) -> UserError:
        """The error for a number under which the store has another scene."""
        return UserError(
            f"scene {scene.number} of the store is {scene.frames} frames from frame {scene.source_start} of "
            f"{scene.source} (downscale {scene.downscale}, {scene.encoding}) and not what is to be made of {name}: use "
            "the options of the first run, another --first-scene or a new store."
        )
