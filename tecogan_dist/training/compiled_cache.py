"""Where torch and triton keep what they compile: code that is loaded and run, in no folder that others can write."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from tecogan_dist.base.atomic import reported_local
from tecogan_dist.base.errors import UserError

CACHE = "TORCHINDUCTOR_CACHE_DIR"
TRITON_CACHE = "TRITON_CACHE_DIR"
WRITABLE = stat.S_IWGRP | stat.S_IWOTH


def keep_private_cache() -> Path:
    """Have torch and triton keep what they compile where nobody else can put anything: it is code that is loaded and
    run.

    That is ``$TORCHINDUCTOR_CACHE_DIR``, else a folder of the user's in the system's one for temporary files; triton's
    is ``$TRITON_CACHE_DIR``, else below it. What torch has chosen itself is neither: a name in /tmp that anybody could
    make first. The workers of a machine share it. Raises :class:`UserError` for a folder that others could have
    written.
    """
    given, tritons = _named_by(CACHE), _named_by(TRITON_CACHE)
    # Only now: they write what torch chooses to the first variable, the current folder where it is empty.
    from torch._inductor import codecache
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    torchs_own = Path(default_cache_dir()).absolute()
    if given is None or given == torchs_own:
        given = Path(tempfile.gettempdir()) / f"tecogan_compiled_{os.getuid()}"
    folder = _private_folder(given, CACHE)
    if tritons is None or tritons.is_relative_to(torchs_own):
        tritons = folder / "triton"
    os.environ[CACHE], os.environ[TRITON_CACHE] = str(folder), str(_private_folder(tritons, TRITON_CACHE))
    # Headers that are read by every kernel of a CPU: torch keeps them in its own folder, whatever the variable says.
    codecache._HEADER_DIR = str(folder / "precompiled_headers")
    codecache._HEADER_LOCK_DIR = str(folder / "precompiled_headers" / "locks")
    return folder


def _named_by(variable: str) -> Path | None:
    name = os.environ.get(variable, "").strip()
    return Path(name).absolute() if name else None


def _private_folder(wanted: Path, variable: str) -> Path:
    """The folder, made if it is missing, by its path without links above it. Raises :class:`UserError` where others can
    write it or put another one in its place."""
    folder = Path(os.path.realpath(wanted.parent)) / wanted.name
    advice = f"name a folder of your own in {variable}"
    try:
        with reported_local(folder):
            for path in (*reversed(folder.parents), folder):
                if not os.path.lexists(path):
                    with contextlib.suppress(FileExistsError):  # another worker's
                        path.mkdir(mode=0o700)
            status = os.lstat(folder)
            above = {path: os.lstat(path).st_mode for path in folder.parents}
    except FileNotFoundError as error:
        raise UserError(f"{folder} cannot be made: {advice}.") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & WRITABLE:
        raise UserError(
            f"{folder} can be written by others, and what torch compiles would be loaded from there: {advice}, or set "
            "cluster.compile to off."
        )
    for path, mode in above.items():
        if mode & WRITABLE and not mode & stat.S_ISVTX:
            raise UserError(
                f"{path} can be written by others, who could replace {folder}, and what torch compiles would be loaded "
                f"from there: {advice}, or set cluster.compile to off."
            )
    return folder
