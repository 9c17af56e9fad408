"""``OUTPUT.unfinished``: the folder beside an output in which its work stands until it is complete.

| file | what it is |
|---|---|
| ``.tecogan_unfinished`` | that the folder is ours; without it nothing in it is touched |
| ``plan.json`` | what was asked for, what the look at the source found, and the segments |
| ``segment_00012.mkv`` | a segment; for image folders and without a suffix, a folder of PNGs |
| ``beside_00012.mkv`` | its part of ``--side-by-side`` |
| ``state_00013.safetensors`` | the network's memory that segment 13 begins with, kept until that is done |
| ``segment_00012.json`` | that all of segment 12 is there, with checksums: written last |
| ``tile.json`` | that memory ran out, and which tiles of the network then fitted |
| ``so_far.mp4`` | what was done when a command was interrupted |
| ``joined.mp4``, ``joined.json`` | the whole output, and what it is, just before it is put in place |

A file that has its name is whole and on the disk (``fsync`` of the file, then of the folder), whatever happens to the
process or the machine. A segment counts when its json is there and the checksums in it are those of its files.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tecogan_dist.base.atomic import (
    PARTIAL_SUFFIX,
    remove,
    replacing,
    reported_local,
    sync_folder,
    write_text,
)
from tecogan_dist.base.documents import dump_json, read_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import NAME_BYTES
from tecogan_dist.base.invariants import require
from tecogan_dist.models.tiles import SMALLEST_TILE
from tecogan_dist.upscaling.digests import digest_of, synced_digest

SUFFIX = ".unfinished"
MARKER = ".tecogan_unfinished"
MARKER_TEXT = "Work of 'tecogan upscale'. The same command goes on with it; --restart of that command removes it.\n"
PLAN = "plan.json"
PLACED = "joined.json"
TILE = "tile.json"
FORMAT = 1
"""Of plan.json and of the segments' files: another one is another version's work."""
OURS = re.compile(
    r"\.?(?:(?:segment|beside|state)_[0-9]{5,}|joined|joined_beside|so_far|plan|tile)(?:\.[a-z0-9]{1,12}){0,4}"
    rf"|{re.escape(MARKER)}(?:\.partial)?"
)
"""Names that this module and the writers give, also of what a killed process left half done."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a finished segment's json says, verified."""

    frames: int
    means: tuple[float, ...]
    """Of each frame that the network gave, 0..255."""
    deviations: tuple[float, ...]
    """Likewise, the standard deviation."""
    tile: int | None
    """Low-resolution pixels of a side that the network ran at once; None: the whole frame."""
    size: int
    """Bytes of its files."""


class WorkFolder:
    """The folder of one output. That nobody else works in it is the caller's to see to (``output_lock``)."""

    def __init__(self, output: Path) -> None:
        self.path = unfinished_path(output)

    def segment(self, number: int, suffix: str) -> Path:
        """Where a segment is to appear; ``suffix`` as ".mkv", or "" for a folder."""
        return self.path / f"segment_{number:05}{suffix}"

    def beside(self, number: int, suffix: str) -> Path:
        """Where its part of the comparison is to appear."""
        return self.path / f"beside_{number:05}{suffix}"

    def state(self, number: int) -> Path:
        """The memory that segment ``number`` begins with."""
        return self.path / f"state_{number:05}.safetensors"

    def joined(self, number: int, output: Path) -> Path:
        """Where output ``number`` of the job is made before it is put in place."""
        return self.path / f"joined{'_beside' * number}{output.suffix.lower()}"

    def so_far(self, output: Path) -> Path:
        """Where what is done is joined when the command is interrupted."""
        return self.path / f"so_far{output.suffix.lower()}"

    def record(self, number: int) -> Path:
        return self.path / f"segment_{number:05}.json"

    @property
    def is_begun(self) -> bool:
        """Whether work of ours is there, with its plan. Raises as :meth:`check`."""
        self.check()
        return (self.path / MARKER).is_file() and (self.path / PLAN).is_file()

    def check(self) -> None:
        """Raise :class:`UserError` if something else has the folder's name."""
        path = self.path
        if not os.path.lexists(path):
            return
        with reported_local(path, "read"):
            if path.is_symlink() or not path.is_dir():
                raise UserError(f"{path} is in the way of unfinished work, and is not a folder of it: move it away.")
            if not _is_file(path / MARKER) and any(entry.name != f"{MARKER}.partial" for entry in path.iterdir()):
                raise UserError(f"{path} is in the way of unfinished work and holds other things: move it away.")

    def check_there(self) -> None:
        """Raise :class:`UserError` if somebody has removed the folder, or its plan, since it was begun."""
        if not (self.path / PLAN).is_file():
            raise UserError(
                f"{self.path} has been removed while the work was put into it: leave it alone while the command runs, "
                "and start it again."
            )

    def begin(self, plan: dict[str, Any]) -> None:
        """Make the folder, with this plan. What was left of older work of ours goes."""
        self.clear()
        with reported_local(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.path / MARKER, partial=self.path / f"{MARKER}.partial") as partial:
                partial.write_text(MARKER_TEXT, encoding="utf-8")
        self.write_json(self.path / PLAN, {"format": FORMAT, **plan})
        sync_folder(self.path.parent)

    def plan(self) -> dict[str, Any]:
        """Raises :class:`UserError` for one that is damaged or another version's."""
        path = self.path / PLAN
        plan = read_json(path)
        if not isinstance(plan, dict) or plan.get("format") != FORMAT:
            raise UserError(f"{path} is not a plan of this version: begin anew with --restart.")
        return plan

    def write_json(self, path: Path, value: Any) -> None:
        """A file of the folder, whole and on the disk."""
        # Under a name of its own: a worker that was given up may still write, on another machine, beside its successor.
        with reported_local(path), replacing(path) as partial:
            partial.write_text(dump_json(value), encoding="utf-8")
        sync_folder(self.path)

    def finish(self, number: int, *, files: Iterable[Path], **facts: Any) -> int:
        """Record that segment ``number`` is done: these files of the folder are, and stay, as they are now.

        Returns their bytes.
        """
        contents = {}
        for file in files:
            require(file.parent == self.path, "a segment's files are in its folder")
            contents[file.name] = synced_digest(file)
        sync_folder(self.path)
        self.write_json(self.record(number), {"format": FORMAT, "files": contents, **facts})
        return sum(length for _, length in contents.values())

    def finished(self, number: int) -> Finished | None:
        """Segment ``number``, if all of it is there and undamaged; reads its files. None if it has to be made.

        Raises :class:`UserError` only where the disk cannot be read.
        """
        path = self.record(number)
        if not path.is_file():
            return None
        try:
            record = read_json(path)
            names = record["files"]
            size = 0
            for name, (digest, length) in names.items():
                if not OURS.fullmatch(name) or digest_of(self.path / name) != (digest, length):
                    return None
                size += length
            return Finished(
                frames=int(record["frames"]),
                means=tuple(map(float, record["means"])),
                deviations=tuple(map(float, record["deviations"])),
                tile=None if record["tile"] is None else int(record["tile"]),
                size=size,
            )
        except (UserError, FileNotFoundError, KeyError, TypeError, ValueError, AttributeError):
            return None

    def keep_tile(self, tile: int) -> None:
        """Write down that memory has run out with larger tiles, for whoever makes what is left. Any worker may."""
        before = self.tile()
        if before is None or tile < before:
            write_text(self.path / TILE, dump_json({"format": FORMAT, "tile": tile}))

    def tile(self) -> int | None:
        """The smallest of :meth:`keep_tile`; None where memory never ran out."""
        if not (self.path / TILE).is_file():
            return None
        try:
            tile = read_json(self.path / TILE)["tile"]
        except (UserError, FileNotFoundError, KeyError, TypeError):
            return None  # memory will run out once more
        return tile if type(tile) is int and tile >= SMALLEST_TILE else None

    def announce(self, outputs: Mapping[Path, Path]) -> None:
        """Write down which files are about to be put in place as which outputs.

        Outputs that an earlier command has put in place stay written down.
        """
        marks = {name: mark for name, mark in self._announced().items() if self.has_placed(Path(name))}
        marks |= {str(output.absolute()): _mark(joined) for output, joined in outputs.items()}
        self.write_json(self.path / PLACED, marks)

    def has_placed(self, output: Path) -> bool:
        """Whether what stands at ``output`` is what an earlier command has put there, though the folder is still there.

        That command was killed before it had removed the folder.
        """
        return os.path.lexists(output) and self._announced().get(str(output.absolute())) == _mark(output)

    def _announced(self) -> dict[str, Any]:
        """Marks by outputs; none in a folder that is not ours, or if the record is damaged."""
        if not (self.path / MARKER).is_file() or not (self.path / PLACED).is_file():
            return {}
        try:
            marks = read_json(self.path / PLACED)
        except UserError:
            return {}
        return marks if isinstance(marks, dict) else {}

    def discard(self, number: int) -> None:
        """Remove a segment's files, its record first: what is half there has no record."""
        with reported_local(self.path):
            remove(self.record(number))
            sync_folder(self.path)
            for kind in ("segment", "beside"):
                for path in self._ours():
                    if path.name.startswith(f"{kind}_{number:05}"):
                        remove(path)

    def tidy(self, *, states: Iterable[int]) -> None:
        """Remove what killed processes left half done, and all states but those that these segments begin with."""
        kept = {self.state(number).name for number in states}
        for path in self._ours():
            is_partial = path.name.startswith(".") and path.name != MARKER
            if is_partial or (path.name.startswith("state_") and path.name not in kept):
                remove(path)

    def clear(self) -> None:
        """Remove all that is ours, and the folder if nothing else is in it."""
        if not self.path.is_dir() or not (self.path / MARKER).is_file():
            return
        ours = list(self._ours())
        with reported_local(self.path, "removed"):
            # The plan first: what is killed in the middle of this is not taken for work to go on with.
            order = {PLAN: 0, PLACED: 2, MARKER: 3}
            for path in sorted(ours, key=lambda path: order.get(path.name, 1)):
                remove(path)
            if not any(self.path.iterdir()):
                self.path.rmdir()

    def _ours(self) -> Iterator[Path]:
        with reported_local(self.path, "read"):
            entries = list(self.path.iterdir())
        return (entry for entry in entries if OURS.fullmatch(entry.name) and not entry.is_symlink())


def unfinished_path(output: Path) -> Path:
    """The folder of an output's unfinished work; a name that would be too long loses its middle."""
    return output.with_name(_shortened(output.name, SUFFIX))


def beside_path(output: Path) -> Path:
    """A hidden neighbour of an output that has no work folder beside it: what is about to take the output's name."""
    return output.with_name(_shortened(f".{output.name}", f"{SUFFIX}{PARTIAL_SUFFIX}"))


def _shortened(name: str, suffix: str) -> str:
    if len(os.fsencode(name + suffix)) <= NAME_BYTES:
        return name + suffix
    mark = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    room = NAME_BYTES - len(suffix) - len(mark) - 1
    return f"{os.fsencode(name)[:room].decode('utf-8', 'ignore')}.{mark}{suffix}"


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _mark(path: Path) -> list[int]:
    """What a file or folder keeps when it gets another name, and when the machine starts again.

    Not the disk's number, which may be another one then.
    """
    status = path.lstat()
    return [status.st_ino, *((0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns))]
