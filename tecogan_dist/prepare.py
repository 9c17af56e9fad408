"""``tecogan prepare``: cut videos, or the original's scene folders, into a clip store for training."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tecogan_dist.data.clips import ClipStoreWriter, Scene
from tecogan_dist.errors import UserError, run_command
from tecogan_dist.video import READABLE_SUFFIXES, FrameSource, image_files, open_video

SCENE_FOLDER = re.compile(r".*_(\d+)")
DESCRIPTION = """
Cut videos into scenes of a fixed length and store them as short clips for training. INPUT is a video file, a folder of
videos, or the original's form: a folder that holds scene_2000/col_high_0000.png ..., or one such scene folder, whose
scene keeps its number. Cuts are not looked for: a video must have none inside a scene, so that every --scene-length
frames it may cut and nowhere else. Running the same command again goes on where it stopped.
"""


@dataclasses.dataclass(kw_only=True)
class Input:
    """One video or scene folder, and what became of it."""

    path: Path
    number: int | None
    """Scene number of a scene folder; None for a video, which takes the next free ones."""
    source: FrameSource | None = None
    made: int = 0
    there: int = 0
    problem: str = ""
    note: str = ""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="tecogan prepare", description=DESCRIPTION)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="video, folder of videos, scene folder")
    parser.add_argument("--output", required=True, type=Path, metavar="STORE", help="folder of the clip store")
    parser.add_argument("--scene-length", type=int, default=120, help="frames of a scene (default 120)")
    parser.add_argument("--first-scene", type=int, default=2000, help="number of the first video's first scene (2000)")
    parser.add_argument("--downscale", type=int, default=1, metavar="F", help="average F x F pixels; 2 hides softness")
    parser.add_argument("--start-frame", type=int, default=0, metavar="A", help="first frame of every input to use")
    parser.add_argument("--end-frame", type=int, metavar="B", help="frame to stop before (default: the end)")
    arguments = parser.parse_args(argv)
    if min(arguments.scene_length, arguments.downscale) < 1 or min(arguments.start_frame, arguments.first_scene) < 0:
        raise UserError("--scene-length and --downscale must be at least 1, --start-frame and --first-scene 0.")
    if arguments.end_frame is not None and arguments.end_frame <= arguments.start_frame:
        raise UserError("--end-frame must be above --start-frame.")

    inputs = [found for path in arguments.inputs for found in find_inputs(path)]
    for item in inputs:
        if not item.problem:
            try:
                item.source = open_video(item.path)
            except UserError as error:
                item.problem = str(error)
    with ClipStoreWriter(arguments.output) as store:
        preparation = Preparation(
            store=store,
            scene_length=arguments.scene_length,
            downscale=arguments.downscale,
            start=arguments.start_frame,
            end=arguments.end_frame,
            progress=Progress(_frames_to_come(inputs, arguments.start_frame, arguments.end_frame)),
        )
        try:
            preparation.run(inputs, first_number=arguments.first_scene)
        finally:
            preparation.progress.close()
            print_table(inputs, store)
    damaged = [item for item in inputs if item.problem]
    if damaged:
        raise UserError(f"{len(damaged)} of {len(inputs)} inputs could not be used in full, see the table.")
    if not any(item.made + item.there for item in inputs):
        raise UserError("no scene was made: the inputs hold too few frames.")


def find_inputs(path: Path) -> list[Input]:
    """The videos and scene folders that one argument stands for; one with a problem if there are none."""
    if not path.is_dir():
        return [Input(path=path, number=None)]
    if image_files(path):
        return [Input(path=path, number=_scene_number(path))]
    found = []
    for entry in sorted(path.iterdir()):
        if entry.is_file() and entry.suffix.lower() in READABLE_SUFFIXES and entry.name[0] != ".":
            found.append(Input(path=entry, number=None))
        elif entry.is_dir() and _scene_number(entry) is not None and image_files(entry):
            found.append(Input(path=entry, number=_scene_number(entry)))
    return found or [Input(path=path, number=None, problem=f"{path} holds no videos, images or scene folders.")]


def _scene_number(folder: Path) -> int | None:
    match = SCENE_FOLDER.fullmatch(folder.resolve().name)
    return int(match[1]) if match else None


def _frames_to_come(inputs: list[Input], start: int, end: int | None) -> int:
    counts = [item.source.count for item in inputs if item.source is not None]
    return sum(max(0, min(count, end or count) - start) for count in counts if count is not None)


class Progress:
    """Frames done, their rate and the time left: a bar on a terminal, a line for each scene in a log."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._encoded, self._began = total, 0, 0, time.monotonic()
        self._bar = tqdm(total=total or None, unit="frame", disable=not sys.stderr.isatty())

    def frame(self) -> None:
        self._done += 1
        self._encoded += 1
        self._bar.update()

    def skip(self, frames: int) -> None:
        self._done += frames
        self._bar.update(frames)

    def scene(self, scene: Scene) -> None:
        if self._bar.disable:
            rate = self._encoded / (time.monotonic() - self._began)
            left = max(0, self._total - self._done) / rate
            print(
                f"scene {scene.number}: {scene.frames} frames {scene.width}x{scene.height} of {scene.source} "
                f"from frame {scene.source_start} ({rate:.0f} frames/s, {left:.0f} s left)",
                flush=True,
            )

    def close(self) -> None:
        self._bar.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """Cuts inputs into scenes of a store."""

    store: ClipStoreWriter
    scene_length: int
    downscale: int
    start: int
    end: int | None
    progress: Progress

    def run(self, inputs: list[Input], *, first_number: int) -> None:
        """Numbers of videos follow each other; a damaged one keeps those that it promised, for when it is repaired."""
        number = first_number
        for item in inputs:
            if item.source is None:
                continue
            length = self.scene_length if item.number is None else sys.maxsize
            try:
                self._cut(item, item.source, number if item.number is None else item.number, length)
            except _DamagedInput as error:
                item.problem = str(error)
            if item.number is None:
                promised = self._available(item.source) // self.scene_length
                number += max(item.made + item.there, promised)

    def _available(self, source: FrameSource) -> int:
        count = source.count or 0
        return max(0, min(count, self.end or count) - self.start)

    def _cut(self, item: Input, source: FrameSource, number: int, length: int) -> None:
        if min(source.height, source.width) < self.downscale:
            raise _DamagedInput(f"{item.path} is smaller than --downscale {self.downscale}.")
        name, start = str(item.path.resolve()), self.start
        while self._is_there(number, name, start, length, source):
            there = self.store.scenes[number].frames
            item.there, number, start = item.there + 1, number + 1, start + there
            self.progress.skip(there)
            if item.number is not None or there < length:
                return
        remaining = self._available(source) - (start - self.start)
        if source.count is not None and item.there and remaining < length:
            self._note_rest(item, remaining)
            return
        frames_left = self._frames(source, start)
        for first in frames_left:
            whole = start == self.start
            piece = _Piece(itertools.chain([first], frames_left), length)
            frames = piece.frames(may_be_short=whole)
            try:
                if number in self.store.scenes:
                    collections.deque(frames, maxlen=0)  # a piece too short to be a scene claims no number
                    raise self._clash(self.store.scenes[number], name)
                scene = self.store.add(
                    number,
                    frames,
                    rate=source.rate,
                    source=name,
                    source_start=start,
                    downscale=self.downscale,
                )
            except _ShortPiece:
                self._note_rest(item, piece.count)
                return
            item.made, number, start = item.made + 1, number + 1, start + scene.frames
            self.progress.scene(scene)
        if not item.made + item.there:
            item.note = f"has no frames from {self.start} on"

    def _is_there(self, number: int, source_name: str, start: int, length: int, source: FrameSource) -> bool:
        scene = self.store.scenes.get(number)
        if scene is None:
            return False
        if (scene.source, scene.downscale, scene.source_start) != (source_name, self.downscale, start):
            return False  # perhaps another video's, if this one has no further scene
        if source.names is not None and start == self.start:
            length = min(length, self._available(source))
        # A whole video may be shorter than a scene; its container need not know by how much.
        elif start == self.start and (source.count is None or self._available(source) < length):
            length = min(length, scene.frames)
        if scene.frames != length:
            raise UserError(
                f"scene {number} is there with {scene.frames} frames instead of {length}: use the --scene-length of "
                "the first run, another --first-scene or a new store."
            )
        return True

    def _clash(self, scene: Scene, source_name: str) -> UserError:
        return UserError(
            f"scene {scene.number} of the store is from frame {scene.source_start} of {scene.source}, downscaled by "
            f"{scene.downscale}, and not what is to be made of {source_name}: use another --first-scene or a new store."
        )

    def _note_rest(self, item: Input, frames: int) -> None:
        if frames:
            item.note = f"the last {frames} frames are less than a scene: dropped"

    def _frames(self, source: FrameSource, start: int) -> Iterator[np.ndarray]:
        frames = source.frames(start, self.end)
        while True:
            try:
                frame = next(frames, None)
            except UserError as error:
                raise _DamagedInput(str(error)) from error
            if frame is None:
                return
            self.progress.frame()
            yield shrink(frame, self.downscale)


class _DamagedInput(Exception):
    """An input cannot be read further; the others go on."""


class _ShortPiece(Exception):
    """The frames ended before the scene was full."""


class _Piece:
    """The next ``length`` frames; raises :class:`_ShortPiece` from inside the encoder's loop if they are fewer."""

    def __init__(self, frames: Iterator[np.ndarray], length: int) -> None:
        self._frames, self._length, self.count = frames, length, 0

    def frames(self, *, may_be_short: bool) -> Iterator[np.ndarray]:
        for frame in itertools.islice(self._frames, self._length):
            self.count += 1
            yield frame
        if self.count < self._length and not may_be_short:
            raise _ShortPiece


def shrink(frame: np.ndarray, factor: int) -> np.ndarray:
    """Average ``factor`` x ``factor`` pixels of a (H, W, 3) uint8 frame, rounded; odd rows and columns are dropped."""
    if factor == 1:
        return frame
    height, width = frame.shape[0] // factor, frame.shape[1] // factor
    blocks = frame[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    area = factor * factor
    return ((blocks.sum(axis=(1, 3), dtype=np.uint32) + area // 2) // area).astype(np.uint8)


def print_table(inputs: list[Input], store: ClipStoreWriter) -> None:
    print(f"{'made':>5} {'there':>5}  input")
    for item in inputs:
        remark = item.problem or item.note
        print(f"{item.made:>5} {item.there:>5}  {item.path}{': ' + remark if remark else ''}")
    print(f"{store.path} holds {len(store.scenes)} scenes.", flush=True)


if __name__ == "__main__":
    run_command(main)
