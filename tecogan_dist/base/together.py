"""Several files of a folder that are replaced together or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from tecogan_dist.base.atomic import PARTIAL_SUFFIX, remove, reported_local, sync
from tecogan_dist.base.errors import UserError


def existing(folder: Path, names: Mapping[str, object] | tuple[str, ...]) -> list[Path]:
    """Those of ``names`` that are in ``folder`` already, links to nowhere too."""
    return [folder / name for name in names if os.path.lexists(folder / name)]


def write_together(folder: Path, contents: Mapping[str, str]) -> list[Path]:
    """Make or replace UTF-8 text files by their names in ``folder``, which is made if need be: all, or none.

    All are on the disk before the first takes its name; if one cannot, those before it get their old content back.
    Returns the paths. Raises :class:`UserError` if a file cannot be written, or a folder has its name.
    """
    for path in existing(folder, tuple(contents)):
        if path.is_dir() and not path.is_symlink():
            raise UserError(f"{path} is a folder: rename it, or give another --output.")
    ending = f".{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}"
    with contextlib.ExitStack() as stack:
        with reported_local(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            new, old = folder / f".{name}.new{ending}", folder / f".{name}.old{ending}"
            stack.callback(remove, new)
            stack.callback(remove, old)
            with reported_local(folder / name):
                new.write_text(text, encoding="utf-8")
                sync(new)
                if os.path.lexists(folder / name):
                    shutil.copy2(folder / name, old, follow_symlinks=False)
        with contextlib.ExitStack() as undoing:
            for name in contents:
                path, new, old = folder / name, folder / f".{name}.new{ending}", folder / f".{name}.old{ending}"
                with reported_local(path):
                    os.replace(new, path)
                undoing.callback(_undo, path, old)
            undoing.pop_all()
    return [folder / name for name in contents]


def _undo(path: Path, old: Path) -> None:
    if os.path.lexists(old):
        os.replace(old, path)
    else:
        path.unlink(missing_ok=True)
