"""The network's memory between two segments, in a file: float32 to the last bit, with a checksum."""

from __future__ import annotations

from pathlib import Path

from tecogan_dist.base.atomic import sync_folder
from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling.recurrence import State
from tecogan_dist.weights.tensors import read_tensors, write_tensors

KIND = "tecogan_dist state of a segment"


def write_state(path: Path, state: State) -> None:
    """Whole and on the disk, or not there. Raises :class:`UserError`."""
    write_tensors(path, state._asdict(), {"kind": KIND})
    sync_folder(path.parent)


def read_state(path: Path) -> State:
    """Raises :class:`UserError` for a file that is missing, damaged or something else."""
    tensors, metadata = read_tensors(path)
    if metadata.get("kind") != KIND or set(tensors) != set(State._fields):
        raise UserError(f"{path} is not a segment's state: begin anew with --restart.")
    return State(**tensors)


def is_whole(path: Path) -> bool:
    """Whether :func:`read_state` would give it. Reads it."""
    try:
        read_state(path)
    except (UserError, FileNotFoundError):
        return False
    return True


def state_bytes(height: int, width: int, scale: int) -> int:
    """Of one state: the frame and its enlargement, three colours, four bytes each."""
    return 12 * height * width * (1 + scale * scale)
