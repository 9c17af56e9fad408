"""``tecogan upscale``: a video or a folder of images, as many times as large as the weights were trained for."""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import sys
from typing import get_args

import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import output_lock
from tecogan_dist.base.progress import Progress
from tecogan_dist.commands.parser import CommandParser, input_path, output_path, whole_number
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.runs.find import load_upscaler
from tecogan_dist.upscaling.pipeline import Precision, upscale_video
from tecogan_dist.video.numbering import GapError
from tecogan_dist.video.open import open_video
from tecogan_dist.video.source import FrameSource
from tecogan_dist.video.writer import MOST_CRF, FrameWriter

EXAMPLES = (
    "tecogan upscale film.mp4 film_x4.mp4 --weights runs/tecogan",
    "tecogan upscale sharp/ result/ --weights tecogan.safetensors --degrade --side-by-side comparison.mp4",
)

KEPT = "nothing was written, and an older output is as it was; the same command begins anew"
"""What an interruption leaves."""


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`."""
    options = parse(argv)
    _check_outputs(options)
    device = _device(options.device)
    source = _open(options)
    start = options.start_frame
    if source.count is not None and start >= source.count:
        raise UserError(f"{options.input} has {source.count} frames: --start-frame must be below that.")
    stop = None if options.frames is None else start + options.frames
    total = None if source.count is None else min(source.count, stop or source.count) - start
    model = load_upscaler(options.weights, device)
    with contextlib.ExitStack() as stack:
        for path in filter(None, (options.output, options.side_by_side)):
            stack.enter_context(output_lock(path))
        _check_outputs(options)  # once more: another process may have ended in between
        progress = stack.enter_context(Progress(total))
        writer = functools.partial(FrameWriter, rate=source.rate, crf=options.crf)
        output = stack.enter_context(writer(options.output))
        comparison = stack.enter_context(writer(options.side_by_side)) if options.side_by_side else None
        upscale_video(
            model,
            source,
            output,
            device=device,
            start=start,
            stop=stop,
            degrade=options.degrade,
            precision=options.precision,
            comparison=comparison,
            advance=progress.advance,
        )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser(
        "upscale",
        description="Upscale a video or a folder of images with trained weights, by the factor they were trained for.",
        examples=EXAMPLES,
    )
    add = parser.add_argument
    add("input", metavar="INPUT", type=input_path, help="a video file or a folder of PNG or JPG images")
    add("output", metavar="OUTPUT", type=output_path, help="the video file or folder to make; images keep their names")
    add(
        "--weights",
        required=True,
        metavar="PATH",
        help="a .safetensors file, a checkpoint's folder or a run's folder, also on s3:// or gs://",
    )
    add(
        "--degrade",
        nargs="?",
        choices=get_args(Degradation),
        const="BD",
        help="the input is of high resolution: shrink it first, and upscale that to its size. BD (default): blur "
        "(sigma 1.5), keep every 4th pixel, or every 2nd for weights that double; BI: MATLAB's bicubic imresize",
    )
    add(
        "--side-by-side",
        type=output_path,
        metavar="FILE",
        help="also make a video of bicubic and model beside each other, with --degrade of the truth too",
    )
    add("--start-frame", type=whole_number(0), default=0, metavar="N", help="first input frame (default 0)")
    add("--frames", type=whole_number(1), metavar="N", help="number of input frames to upscale (default: all)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto (default): CUDA if there is a device")
    add(
        "--precision",
        choices=get_args(Precision),
        default="fp32",
        help="on CUDA tf32 is 3 times as fast as fp32 (default) and within a level of it, bf16 faster and coarser",
    )
    add(
        "--crf",
        type=whole_number(0, MOST_CRF),
        default=16,
        metavar="N",
        help=f"quality of videos, from 0, the best, to {MOST_CRF} (default 16)",
    )
    add("--allow-gaps", action="store_true", help="take a folder's images in their order though numbers are missing")
    add("--overwrite", action="store_true", help="replace videos that exist, when the new ones are complete")
    return parser.parse_args(_spelled_out(sys.argv[1:] if argv is None else argv))


def _spelled_out(words: list[str]) -> list[str]:
    """With BD after a plain ``--degrade``: argparse would take an INPUT that follows for its value."""
    pairs = zip(words, [*words[1:], ""], strict=False)  # without words there is one too many
    return ["--degrade=BD" if a == "--degrade" and b not in get_args(Degradation) else a for a, b in pairs]


def _open(options: argparse.Namespace) -> FrameSource:
    try:
        return open_video(options.input, allow_gaps=options.allow_gaps)
    except GapError as error:
        raise UserError(f"{str(error).rstrip('.')}, or take the images as they are with --allow-gaps.") from error


def _check_outputs(options: argparse.Namespace) -> None:
    """Before anything is read. Folders that are not empty are FrameWriter's to refuse."""
    outputs = [path for path in (options.output, options.side_by_side) if path]
    given = (options.input, *outputs)
    for first, second in itertools.combinations(given, 2):
        is_one_file = first.exists() and second.exists() and first.samefile(second)
        if is_one_file or first.resolve() == second.resolve():
            raise UserError("input and outputs must be different files or folders: give them different names.")
    for path in outputs:
        for folder in given:
            if folder.resolve() in path.resolve().parents and (folder.is_dir() or folder is not options.input):
                raise UserError(f"{path} is inside {folder}, with which it would be mixed: name an output elsewhere.")
        if os.path.lexists(path) and not path.is_dir() and not options.overwrite:
            raise UserError(f"{path} exists: name another output, or replace it with --overwrite.")


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here: use --device cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
