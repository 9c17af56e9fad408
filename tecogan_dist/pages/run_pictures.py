"""What the same held-out frames looked like over a run, or in several runs: pictures for a page, as data URIs.

They are the run's own files (:mod:`tecogan_dist.runs.previews`), as they are, of some of its steps. A picture that is
missing or of another size than the index says is left out: ``notes`` say so.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.pages.data_uris import data_uri
from tecogan_dist.pages.pictures import Picture
from tecogan_dist.pages.run_records import RunRecords, reason_of
from tecogan_dist.pages.values import LABEL, UNIT, format_value
from tecogan_dist.runs import previews
from tecogan_dist.runs.previews import PreviewIndex, View, read_previews

MOST_STEPS = 16
"""Of one run's, about 500 KB each; of several runs together not many more."""
FEWEST_STEPS = 5
PICTURE_BYTES = 16 * 2**20
LOW, BICUBIC, TARGET = "LR", "bicubic", "HR"
PROFILE_GAP = 8
"""White pixels between the two halves of a temporal profile."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """A run's pictures by step: frames side by side, and temporal profiles with the truth at their right."""

    number: int
    """Of the run, among the page's."""
    name: str
    strips: dict[int, str]
    profiles: dict[int, Picture]
    best: int | None


@dataclass(frozen=True, kw_only=True)
class Worst:
    """The worst frames that a run's last preview knows of: each as generated, truth and difference, in one picture."""

    name: str
    step: int
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """What can be seen; ``stills`` are the strips that do not change, by their names."""

    view: View
    stills: dict[str, str]
    films: tuple[Film, ...]
    worst: tuple[Worst, ...]

    @property
    def steps(self) -> list[int]:
        """Of all runs, in order."""
        return sorted({step for film in self.films for step in film.strips})

    @property
    def zoom(self) -> int:
        """By which a frame is enlarged where there is room: to about 500 pixels."""
        return max(1, min(8, 512 // max(self.view.crop.width, 1)))


def gallery_of(runs: Sequence[RunRecords]) -> tuple[Gallery | None, list[str]]:
    """The pictures of the runs that show the same frames as the first that has any, and notes about the others."""
    notes: list[str] = []
    found: list[tuple[int, RunRecords, PreviewIndex]] = []
    for number, run in enumerate(runs):
        index = _index(run, notes)
        if index is None or not index.steps:
            continue
        if found and index.view != found[0][2].view:
            notes.append(
                f"the previews of {run.name} show other frames than those of {found[0][1].name} (scene "
                f"{index.view.scene}, not {found[0][2].view.scene}, or another part of it): they cannot be laid over "
                "each other."
            )
            continue
        found.append((number, run, index))
    if not found:
        return None, notes
    view = found[0][2].view
    stills: dict[str, str] = {}
    for _, run, _ in found:
        stills = stills or _stills(run.place, view, notes)
    count = max(FEWEST_STEPS, MOST_STEPS // len(found))
    films = [_film(number, run, index, count, notes) for number, run, index in found]
    films = [film for film in films if film.strips]
    worst = [one for _, run, index in found if (one := _worst(run, index, notes)) is not None]
    if not films:
        return None, notes
    return Gallery(view=view, stills=stills, films=tuple(films), worst=tuple(worst)), notes


def chosen_steps(steps: Iterable[int], best: int | None, count: int) -> list[int]:
    """Up to ``count`` of the steps, evenly spread by their order: the first, the last and ``best`` are among them."""
    there = sorted(steps)
    if len(there) <= count:
        return there
    places = {round(place) for place in np.linspace(0, len(there) - 1, count).tolist()}
    if best in there and there.index(best) not in places:
        inner = sorted(places - {0, len(there) - 1})
        places.discard(min(inner, key=lambda place: abs(place - there.index(best))))
        places.add(there.index(best))
    return [there[place] for place in sorted(places)]


def _index(run: RunRecords, notes: list[str]) -> PreviewIndex | None:
    try:
        return read_previews(run.place)
    except UserError as error:
        file = run.place / previews.FOLDER / previews.INDEX_FILE
        notes.append(f"{previews.FOLDER}/{file.name} of {run.name} is left out: {reason_of(str(error), file)}.")
        return None


def _stills(run: Location, view: View, notes: list[str]) -> dict[str, str]:
    """The reference's three rows, each as a strip of its own."""
    size = (view.crop.width * len(view.strip_frames), 3 * view.crop.height)
    image = _read(run / previews.FOLDER / previews.REFERENCE_FILE, size, notes)
    if image is None:
        return {}
    rows = [image[1].crop((0, row * size[1] // 3, size[0], (row + 1) * size[1] // 3)) for row in range(3)]
    return {name: data_uri(row, "PNG") for name, row in zip((LOW, BICUBIC, TARGET), rows, strict=True)}


def _film(number: int, run: RunRecords, index: PreviewIndex, count: int, notes: list[str]) -> Film:
    view, folder = index.view, run.place / previews.FOLDER
    strip = (view.crop.width * len(view.strip_frames), view.crop.height)
    profile = (2 * view.crop.width + PROFILE_GAP, view.profile_zoom * len(view.profile_frames))
    strips: dict[int, str] = {}
    profiles: dict[int, Picture] = {}
    for step in chosen_steps(index.steps, run.best, count):
        found = _read(folder / previews.strip_file(step), strip, notes)
        if found is None:
            continue
        strips[step] = _uri(found[0])
        found = _read(folder / previews.profile_file(step), profile, notes)
        if found is not None:
            profiles[step] = Picture(f"step {step}", _uri(found[0]), *profile)
    return Film(number=number, name=run.name, strips=strips, profiles=profiles, best=run.best)


def _worst(run: RunRecords, index: PreviewIndex, notes: list[str]) -> Worst | None:
    """Those of the last preview."""
    step = max(index.steps)
    frames = index.steps[step]
    if not frames:
        return None
    found = _read(run.place / previews.FOLDER / previews.worst_file(step), None, notes)
    if found is None:
        return None
    image = found[1]
    height = image.height // len(frames)
    pictures = []
    for row, worst in enumerate(frames):
        value = "no value" if math.isnan(worst.value) else format_value(worst.value, worst.metric) + UNIT[worst.metric]
        caption = f"frame {worst.frame}: {LABEL[worst.metric].partition(' ')[0]} {value}"
        picture = image.crop((0, row * height, image.width, (row + 1) * height))
        pictures.append(Picture(caption, data_uri(picture, "PNG"), picture.width, picture.height))
    return Worst(name=run.name, step=step, pictures=tuple(pictures))


def _read(file: Location, size: tuple[int, int] | None, notes: list[str]) -> tuple[bytes, Image.Image] | None:
    """A PNG file and its picture; None, and a note, if it is none or has another size (width, height)."""
    try:
        data = file.read_bytes(limit=PICTURE_BYTES)
        # Bounded by the file's size limit and this: a header may say anything.
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if (image.size != size) if size is not None else (image.width * image.height > 2**24):
                raise UserError(f"it has {image.width}x{image.height} pixels")
            return data, image.convert("RGB")
    except FileNotFoundError:
        notes.append(f"{file} is missing.")
    except (UserError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).rstrip(".") if isinstance(error, UserError) else "it is not a PNG picture"
        notes.append(f"{file} is left out: {reason}.")
    return None


def _uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
