"""From weights to a file that holds one recurrent step: captured, written, tried against the network, put in place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch

from tecogan_dist.base.atomic import replacing, reported_local
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import check_name
from tecogan_dist.base.lock import output_lock
from tecogan_dist.base.storage import Location
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.runs.find import read_weights, upscaler_of
from tecogan_dist.upscaling.export.checking import FRAMES, LIMIT, SIZES, StepFunction, largest_difference
from tecogan_dist.upscaling.export.describing import Kind, describe
from tecogan_dist.upscaling.export.onnx_file import OnnxStep, check_onnx, write_onnx
from tecogan_dist.upscaling.export.pt2_file import Pt2Step, check_pt2, write_pt2
from tecogan_dist.upscaling.export.step import capture
from tecogan_dist.weights.format import Weights

KINDS: tuple[Kind, ...] = get_args(Kind)


def export(
    weights: str | Path | Location,
    output: Path,
    *,
    kind: Kind,
    device: torch.device,
    overwrite: bool = False,
    licence: str | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> str:
    """Write one recurrent step of ``weights`` (what :func:`read_weights` takes) to ``output``, which ends as ``kind``.

    A pt2 is built for ``device``; an onnx file is for any, and made on the CPU. ``licence`` is that of the weights,
    where it is known. ``say`` gets a line before what takes long.

    Returns a sentence on what was written. Raises :class:`UserError`; then ``output`` is as it was. That is also so if
    the file's results differ from the network's by more than :data:`LIMIT`.
    """
    check_output(output, kind, overwrite=overwrite)
    if kind == "onnx":
        check_onnx()
        device = torch.device("cpu")
    else:
        check_pt2()
    read = read_weights(weights)
    model = upscaler_of(read).to(device)  # in the plain memory order: a graph's is whoever's compiles it
    with output_lock(output):
        check_output(output, kind, overwrite=overwrite)  # another command may have ended just now
        with reported_local(output), replacing(output) as partial:
            difference = _write(partial, read, model, kind=kind, device=device, licence=licence, say=say)
            if not difference <= LIMIT:
                raise UserError(
                    f"{output} is not written: on a few frames its results differ from the network's by "
                    f"{difference:.1e}, more than {LIMIT}: check the weights with 'tecogan upscale', and report this."
                )
    sizes = " and ".join(f"{width}x{height}" for height, width in SIZES)
    return (
        f"{output}: one step of a {model.scale}x upscaler; over {FRAMES} frames of "
        f"{sizes} it differs from the network by {difference:.1e} at most"
    )


def _write(
    path: Path,
    weights: Weights,
    model: RecurrentUpscaler,
    *,
    kind: Kind,
    device: torch.device,
    licence: str | None,
    say: Callable[[str], None],
) -> float:
    """The largest difference between what was written and ``model``."""
    metadata = describe(weights, model, licence=licence)
    say("capturing one step of the network")
    program = capture(model, device)
    step: StepFunction
    if kind == "onnx":
        say("translating it to ONNX")
        write_onnx(program, metadata, path)
        step = OnnxStep(path)
    else:
        say(f"compiling it for this machine ({device.type}): some minutes")
        write_pt2(program, metadata, path, device)
        step = Pt2Step(path)
    say("comparing the file with the network")
    return largest_difference(step, model, device)


def check_output(output: Path, kind: Kind, *, overwrite: bool) -> None:
    """Raise :class:`UserError` if ``output`` cannot be written, or must not be."""
    check_name(str(output))
    if output.suffix != f".{kind}":
        raise UserError(f"the output {output} must have a name that ends in .{kind}.")
    if os.path.isdir(output):
        raise UserError(f"the output {output} is a folder: name a file.")
    if os.path.lexists(output) and not overwrite:
        raise UserError(f"{output} exists: name another output, or replace it with --overwrite.")
    if not os.path.isdir(output.parent):
        if os.path.exists(output.parent):
            raise UserError(f"{output.parent} is not a folder: name another output.")
        raise UserError(f"the folder {output.parent} does not exist: make it first.")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise UserError(f"no file can be made in the folder {output.parent}: check its permissions, or name another.")
