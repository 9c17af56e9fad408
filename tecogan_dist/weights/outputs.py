"""The output of a conversion: what may become one, judged before anything is read, and one command at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import check_name
from tecogan_dist.base.lock import output_lock
from tecogan_dist.weights.format import SUFFIX


@contextlib.contextmanager
def new_weights_file(source: Path, output: Path, *, overwrite: bool) -> Iterator[None]:
    """The right to write the weights file ``output`` from ``source`` in the block. Raises :class:`UserError`."""
    _check_file(source, output, overwrite=overwrite)
    with output_lock(output):
        _check_file(source, output, overwrite=overwrite)  # another command may have ended just now
        yield


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[None]:
    """The right to make the folder ``output``, which is not there or empty, in the block. Raises :class:`UserError`."""
    _check_folder(output)
    with output_lock(output):
        _check_folder(output)
        yield


def _check_file(source: Path, output: Path, *, overwrite: bool) -> None:
    check_name(str(output))
    if output.suffix != SUFFIX:
        raise UserError(f"the output {output} must have a name that ends in {SUFFIX}.")
    if os.path.isdir(output):
        raise UserError(f"the output {output} is a folder: name a file.")
    if os.path.lexists(output) and not overwrite:
        raise UserError(f"{output} exists: name another output, or replace it with --overwrite.")
    if os.path.exists(output) and os.path.exists(source) and os.path.samefile(source, output):
        raise UserError(f"{output} is the checkpoint itself: name another output.")
    _check_parent(output)


def _check_folder(output: Path) -> None:
    check_name(str(output))
    if output.suffix == SUFFIX:
        raise UserError(f"a checkpoint is a folder: name one that does not end in {SUFFIX}, not {output}.")
    if os.path.lexists(output) and not (os.path.isdir(output) and not os.path.islink(output)):
        raise UserError(f"{output} exists, and a checkpoint is a folder: name another output.")
    if os.path.isdir(output) and os.listdir(output):
        raise UserError(f"the folder {output} holds something, and a checkpoint replaces nothing: name another output.")
    _check_parent(output)


def _check_parent(output: Path) -> None:
    if os.path.exists(output.parent) and not os.path.isdir(output.parent):
        raise UserError(f"{output.parent} is not a folder: name another output.")
    if not os.path.isdir(output.parent):
        raise UserError(f"the folder {output.parent} does not exist: make it first.")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise UserError(f"no file can be made in the folder {output.parent}: check its permissions, or name another.")
