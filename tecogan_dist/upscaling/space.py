"""Whether a disk has room for what is to come: refused where it certainly has not, said where it probably has not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.memory import in_words

DEFLATED = 1032
"""Times that PNG's compression makes the emptiest picture smaller, at most (zlib's technical notes)."""


def free_bytes(place: Path) -> int:
    """Of the disk that ``place``, or the nearest folder above it that exists, is on."""
    folder = place.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_room(place: Path, needed: int, *, what: str) -> None:
    """Raise :class:`UserError` unless ``needed`` bytes are free there; ``what`` needs them."""
    free = free_bytes(place)
    if needed > free:
        raise UserError(
            f"{what} needs at least {in_words(needed)} beside {place}, and {in_words(free)} are free there: free some, "
            "and give the same command again, or name an output elsewhere."
        )


def images_bytes(height: int, width: int, *, frames: int, deep: bool) -> int:
    """The fewest bytes that so many PNGs of this size may have, whatever they show."""
    return frames * height * width * (6 if deep else 3) // DEFLATED


def can_link(folder: Path) -> bool:
    """Whether files of this folder can have a second name, which takes no room."""
    probe, second = folder / ".so_far.probe", folder / ".so_far.probe2"
    try:
        probe.touch()
        os.link(probe, second)
    except OSError:
        return False
    finally:
        for path in (probe, second):
            path.unlink(missing_ok=True)
    return True
