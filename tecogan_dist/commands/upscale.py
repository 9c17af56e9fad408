"""``tecogan upscale``: a video or a folder of images, as many times as large as the weights were trained for.

Decoding, the network and encoding run at the same time, each in a thread of its own with a short queue between them.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.progress import Progress
from tecogan_dist.config.degradations import Degradation, is_centred
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.runs.find import load_upscaler
from tecogan_dist.upscaling.panels import panels
from tecogan_dist.upscaling.pipeline import Images, WriteBehind, read_ahead
from tecogan_dist.upscaling.recurrence import Upscaled, to_host, to_image, upscale_float
from tecogan_dist.video.open import open_video
from tecogan_dist.video.writer import FrameWriter


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`."""
    options = _options(argv)
    _check_outputs(options)
    device = _device(options.device)
    torch.backends.cudnn.allow_tf32 = options.precision == "tf32"  # cuDNN's own default would not be fp32
    source = open_video(options.input)
    start = options.start_frame
    if source.count is not None and start >= source.count:
        raise UserError(f"{options.input} has {source.count} frames: --start-frame must be below that.")
    stop = None if options.frames is None else start + options.frames
    total = None if source.count is None else min(source.count, stop or source.count) - start
    names = source.names[start:stop] if source.names else itertools.repeat(None)
    model = load_upscaler(options.weights, device)
    height, width = source.height, source.width
    if not options.degrade:
        height, width = model.scale * height, model.scale * width
    centred = is_centred(options.degrade) if options.degrade else model.centred

    truths: deque[Images] = deque()  # the inputs of the frames that are under way

    def frames() -> Iterator[Tensor]:
        for frame in read_ahead(source.frames(start, stop)):
            if options.side_by_side and options.degrade:
                truths.append(frame)
            yield torch.tensor(frame)  # a copy: arrays of images are read-only

    def images(upscaled: Upscaled) -> tuple[Tensor, ...]:
        model_image = to_image(upscaled.sr_frame)
        if not options.side_by_side:
            return (model_image,)
        bicubic = resize_bicubic(upscaled.lr_frame.unsqueeze(0), model.scale, centred=centred)
        return model_image, to_image(bicubic[0])

    results = to_host(
        images(upscaled)
        for upscaled in upscale_float(
            model,
            frames(),
            device=device,
            degrade=options.degrade or False,
            precision="bf16" if options.precision == "bf16" else "fp32",
        )
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(_explain_write_errors(options))
        progress = stack.enter_context(Progress(total))
        output = stack.enter_context(FrameWriter(options.output, rate=source.rate, crf=options.crf))
        outputs: WriteBehind[tuple[Images, str | None]] = WriteBehind(
            lambda image_and_name: output.write(*image_and_name)
        )
        stack.enter_context(outputs)
        if options.side_by_side:
            comparison = stack.enter_context(FrameWriter(options.side_by_side, rate=source.rate, crf=options.crf))
            comparisons: WriteBehind[dict[str, Images]] = WriteBehind(lambda shown: comparison.write(panels(shown)))
            stack.enter_context(comparisons)
        for result, name in zip(results, names, strict=False):
            model_image, *bicubic = [image.numpy()[:height, :width] for image in result]
            outputs.put((model_image, name))
            if options.side_by_side:
                truth = {"truth": truths.popleft()} if options.degrade else {}
                comparisons.put({"bicubic": bicubic[0], "model": model_image, **truth})
            progress.advance()


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tecogan upscale",
        description="Upscale a video or a folder of images with trained weights, by the factor they were trained for.",
    )
    parser.add_argument("input", type=Path, help="a video file or a folder of images")
    parser.add_argument("output", type=Path, help="the video file or folder to make; images keep their input's names")
    parser.add_argument(
        "--weights", type=Path, required=True, help="a .safetensors file, a checkpoint's folder or a run's folder"
    )
    parser.add_argument(
        "--degrade",
        nargs="?",
        choices=get_args(Degradation),
        const="BD",
        help="the input is high resolution: shrink it first and upscale that to its size. BD (default): blur (sigma "
        "1.5), keep every 4th pixel, or 2nd for weights that double; BI: MATLAB's bicubic imresize",
    )
    parser.add_argument(
        "--side-by-side",
        type=Path,
        metavar="FILE",
        help="also make a video of bicubic and model beside each other, with --degrade of the truth too",
    )
    parser.add_argument("--start-frame", type=_whole(0), default=0, metavar="N", help="first input frame (default 0)")
    parser.add_argument("--frames", type=_whole(1), metavar="N", help="input frames to upscale (default all)")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto (default) takes CUDA where there is one"
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "tf32", "bf16"],
        default="fp32",
        help="on CUDA tf32 is 3 times as fast as fp32 (default) and within a level of it, bf16 faster and coarser",
    )
    parser.add_argument("--crf", type=_whole(0), default=16, help="quality of videos, lower is better (default 16)")
    parser.add_argument("--overwrite", action="store_true", help="replace videos that exist")
    return parser.parse_args(_spelled_out(sys.argv[1:] if argv is None else argv))


def _spelled_out(words: list[str]) -> list[str]:
    """With BD after a plain ``--degrade``: argparse would take an INPUT that follows for its value."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    return ["--degrade=BD" if a == "--degrade" and b not in get_args(Degradation) else a for a, b in pairs]


def _whole(minimum: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, not {value}")
        return value

    return whole_number


def _check_outputs(options: argparse.Namespace) -> None:
    outputs = [path for path in (options.output, options.side_by_side) if path]
    paths = [path.resolve() for path in (options.input, *outputs)]
    if len(set(paths)) < len(paths):
        raise UserError("input and outputs must be different files or folders: name others.")
    for path in outputs:  # folders are FrameWriter's to refuse
        if path.is_file() and not options.overwrite:
            raise UserError(f"{path} exists: name another output, or replace it with --overwrite.")


@contextlib.contextmanager
def _explain_write_errors(options: argparse.Namespace) -> Iterator[None]:
    """A full disk and its like as a :class:`UserError`; reading raises none of these itself."""
    try:
        yield
    except OSError as error:
        outputs = " or ".join(str(path) for path in (options.output, options.side_by_side) if path)
        raise UserError(f"{outputs} cannot be written ({error.strerror}): make room or name another place.") from error


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here: use --device cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
