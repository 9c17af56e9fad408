"""Files that another machine has just written to a network's disk, and that are not seen here yet."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

VISIBLE_SECONDS = 70.0
"""For what another machine has written to be seen: NFS clients believe for up to 60 s that a file is not there
(``acdirmax`` in nfs(5))."""
LOOK_SECONDS = 0.5


def wait_for(path: Path, *, seconds: float | None = None) -> bool:
    """Whether ``path`` is there, be it after up to ``seconds`` (VISIBLE_SECONDS)."""
    return wait_for_all([path], seconds=seconds)


def wait_for_all(paths: Iterable[Path], *, seconds: float | None = None) -> bool:
    """Whether all are there, be it after up to ``seconds`` for all of them together. Of a folder that is not there at
    all nothing is waited for.
    """
    until = time.monotonic() + (VISIBLE_SECONDS if seconds is None else seconds)
    for path in paths:
        while not path.exists():
            if not path.parent.is_dir() or time.monotonic() > until:
                return False
            time.sleep(LOOK_SECONDS)
            try:
                os.listdir(path.parent)  # has an NFS client ask its server
            except OSError:
                return False
    return True
