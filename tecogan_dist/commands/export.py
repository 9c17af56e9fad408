"""``tecogan export``: one recurrent step of a network as a file that needs nothing of this package."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from tecogan_dist.base.console import printable, say
from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.parser import CommandParser, output_path
from tecogan_dist.published.catalogue import find
from tecogan_dist.published.default import DEFAULT, WITHOUT_NETWORK, choose
from tecogan_dist.published.names import is_name
from tecogan_dist.upscaling.export.describing import Kind
from tecogan_dist.upscaling.export.run import KINDS, check_output, export

DESCRIPTION = """
Write one step of the network, with its state as inputs and output, for frames of any size: as ONNX (opset 18, for
onnxruntime, TensorRT and others), or as a .pt2 package, which torch compiles here for this machine's device. The file
says itself how it is used, and is kept only if its results are the network's. scripts/onnx_video.py runs an ONNX file
on a video without torch.
"""
EXAMPLES = (
    "tecogan export tecogan.onnx",
    "tecogan export step.pt2 --to pt2 --weights runs/tecogan --device cuda",
)
KEPT = "nothing was written, and an older output is as it was; the same command begins anew"
"""What an interruption leaves."""
LONGEST_LINE = 2000
"""Characters of a line about what was written, which names a place."""


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`."""
    options = parse(argv)
    kind = _kind(options.to, options.output)
    device = _device(options.device, kind)
    check_output(options.output, kind, overwrite=options.overwrite)  # before weights are fetched
    weights = choose(options.weights)
    done = export(
        weights,
        options.output,
        kind=kind,
        device=device,
        overwrite=options.overwrite,
        licence=_licence(options.weights, weights),
        say=lambda line: say(f"{line} ..."),
    )
    print(printable(done, limit=LONGEST_LINE))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser("export", description=DESCRIPTION, examples=EXAMPLES)
    add = parser.add_argument
    add("output", metavar="OUTPUT", type=output_path, help="the .onnx or .pt2 file to write")
    add("--to", choices=KINDS, help="what to write (default: by the output's ending)")
    add(
        "--weights",
        metavar="PATH|NAME",
        help="a .safetensors file, a checkpoint's folder or a run's folder, also on s3:// or gs://, or the name of "
        f"published ones (default {DEFAULT}, else {WITHOUT_NETWORK})",
    )
    add(
        "--device",
        choices=["auto", "cpu", "cuda"],
        help="what a .pt2 is built for; auto (default): CUDA if there is a device. An ONNX file runs on any",
    )
    add("--overwrite", action="store_true", help="replace the output if it exists")
    return parser.parse_args(argv)


def _kind(to: Kind | None, output: Path) -> Kind:
    """Raises :class:`UserError` for an ending that says nothing, or something else than ``to``."""
    kind = output.suffix.removeprefix(".")
    if to is not None and kind != to:
        raise UserError(f"--to {to} writes a file that ends in .{to}, and {output} does not: change one of the two.")
    if kind not in KINDS:
        raise UserError(f"the output {output} must have a name that ends in {' or '.join(f'.{one}' for one in KINDS)}.")
    return kind


def _device(name: str | None, kind: Kind) -> torch.device:
    if kind == "onnx":
        if name not in (None, "auto"):
            raise UserError("an ONNX file runs on any device: leave out --device, which is for a .pt2.")
        return torch.device("cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here, and a .pt2 is built where it runs: use --device cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _licence(given: str | None, place: str) -> str | None:
    """That of the weights that were chosen, where they are published."""
    if given is not None:
        return find(given).licence if is_name(given, "weights") else None
    small = find(WITHOUT_NETWORK)
    return small.licence if Path(place).name == small.file else find(DEFAULT).licence
