"""What the same held-out frames looked like at each validation of a run: the folder ``RUN/previews/``, to be read.

:mod:`tecogan_dist.tracking.previews` writes it, and says what is in each file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tecogan_dist.base.documents import parse_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.metrics.names import METRICS

FOLDER = "previews"
INDEX_FILE, REFERENCE_FILE = "index.json", "reference.png"
INDEX_BYTES = 2**22
VIDEO_NAME, ANIMATION_NAME, PROFILE_NAME = "previews/video", "previews/animation", "previews/profile"
"""What they are called in W&B (video, profile) and TensorBoard (animation, profile)."""
VERSION = 1
MAX_STEP = 2**63


def strip_file(step: int) -> str:
    """The generated frames side by side."""
    return f"{step:08d}.png"


def video_file(step: int) -> str:
    """All panels over time, H.264."""
    return f"{step:08d}.mp4"


def profile_file(step: int) -> str:
    """One row of pixels over time, generated beside HR."""
    return f"{step:08d}_profile.png"


def worst_file(step: int) -> str:
    """The worst frames, one below the other, each as generated, HR and difference."""
    return f"{step:08d}_worst.png"


def files_of(step: int) -> tuple[str, ...]:
    """All files of a step."""
    return strip_file(step), video_file(step), profile_file(step), worst_file(step)


@dataclass(frozen=True)
class PreviewFiles:
    """A step's files on the first worker's machine: what the tracker hands to ``WandbRecords.preview(step, files)``.

    They stay for two more previews at least, also where the output is not local.
    """

    video: Path
    profile: Path
    animation: bytes
    """A GIF of the strip's frames: generated beside HR. For TensorBoard, which plays no videos."""


@dataclass(frozen=True)
class Crop:
    """A part of the measured frame, in high-resolution pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Worst:
    """One of the worst frames of a scene: its index from 0, and what its ``metric`` was."""

    frame: int
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class View:
    """What all previews of a run show. Frames are counted from the scene's first, 0."""

    scene: int
    """Its number in the clip store."""
    scale: int
    height: int
    """Of the frames that are measured: the scene's centre, 512 pixels at most."""
    width: int
    crop: Crop
    strip_frames: tuple[int, ...]
    """From left to right in ``reference.png`` and in each strip, every one as wide as the crop."""
    video_frames: tuple[int, ...]
    profile_frames: tuple[int, ...]
    """From top to bottom in the temporal profiles, each ``profile_zoom`` pixels high."""
    profile_zoom: int
    profile_row: int
    """The row of the crop, from 0, that the profiles show."""


@dataclass(frozen=True)
class PreviewIndex:
    """``index.json``: what there is."""

    view: View
    steps: Mapping[int, tuple[Worst, ...]]
    """The steps that have files, in their order, each with its worst frames, in the order of its picture's rows."""

    def to_json(self) -> bytes:
        """For :func:`read_previews`."""
        view, crop = self.view, self.view.crop
        content = {
            "version": VERSION,
            "scene": view.scene,
            "scale": view.scale,
            "size": [view.height, view.width],
            "crop": {"top": crop.top, "left": crop.left, "height": crop.height, "width": crop.width},
            "strip_frames": list(view.strip_frames),
            "video_frames": list(view.video_frames),
            "profile": {"row": view.profile_row, "zoom": view.profile_zoom, "frames": list(view.profile_frames)},
            "steps": {
                str(step): [
                    {
                        "frame": worst.frame,
                        "metric": worst.metric,
                        "value": worst.value if math.isfinite(worst.value) else None,
                    }
                    for worst in found
                ]
                for step, found in sorted(self.steps.items())
            },
        }
        return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def read_previews(run: Location) -> PreviewIndex | None:
    """What a run's folder has of previews; None where it has none. Raises :class:`UserError` for a damaged index."""
    file = run / FOLDER / INDEX_FILE
    try:
        return _index(parse_json(file.read_bytes(limit=INDEX_BYTES), source=file))
    except FileNotFoundError:
        return None
    except UserError as error:  # which is a ValueError
        raise UserError(f"{file} is damaged ({str(error).rstrip('.')}): move the folder {FOLDER} away.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is damaged (at {str(error)[:100]}): move the folder {FOLDER} away.") from error


def _index(content: Any) -> PreviewIndex:
    """Raises ``KeyError``, ``TypeError`` or ``ValueError`` for what is none."""
    if content["version"] != VERSION:
        raise ValueError("version")
    (height, width), crop, profile = content["size"], content["crop"], content["profile"]
    view = View(
        scene=_whole(content["scene"]),
        scale=_whole(content["scale"]),
        height=_whole(height),
        width=_whole(width),
        crop=Crop(*(_whole(crop[name]) for name in ("top", "left", "height", "width"))),
        strip_frames=_frames(content["strip_frames"]),
        video_frames=_frames(content["video_frames"]),
        profile_frames=_frames(profile["frames"]),
        profile_zoom=_whole(profile["zoom"]),
        profile_row=_whole(profile["row"]),
    )
    if view.crop.top + view.crop.height > view.height or view.crop.left + view.crop.width > view.width:
        raise ValueError("crop")
    steps = {}
    for step, found in content["steps"].items():
        if not (step.isascii() and step.isdecimal() and len(step) <= 19):
            raise ValueError("steps")
        steps[_whole(int(step))] = tuple(_worst(item) for item in found)
    return PreviewIndex(view, dict(sorted(steps.items())))


def _worst(item: Any) -> Worst:
    metric, value = item["metric"], item["value"]
    is_number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    if metric not in METRICS or not is_number:
        raise ValueError("worst frames")
    return Worst(_whole(item["frame"]), metric, math.nan if value is None else float(value))


def _frames(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not values:
        raise ValueError("frames")
    return tuple(map(_whole, values))


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_STEP:
        raise ValueError(repr(value)[:40])
    return value
