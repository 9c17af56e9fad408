"""The options of ``tecogan upscale``, and the request that they make."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import get_args

import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.parser import CommandParser, input_path, output_path, whole_number
from tecogan_dist.commands.upscale_checks import check_together
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.models.tiles import SMALLEST_TILE
from tecogan_dist.upscaling.preview import Span, parse_span
from tecogan_dist.upscaling.recurrence import Precision, default_precision
from tecogan_dist.upscaling.request import Cut, Request, Tile
from tecogan_dist.upscaling.source import SourceOptions
from tecogan_dist.video.codecs import Wishes
from tecogan_dist.video.encoders import CONTAINERS, ENCODERS
from tecogan_dist.video.reader import OnDamage
from tecogan_dist.video.writer import MOST_CRF

EXAMPLES = (
    "tecogan upscale film.mp4 film_x4.mp4",
    "tecogan upscale film.mp4 film_x4.mp4 --preview 5s@1:30",
    "tecogan upscale films/*.mp4 results/ --address HOST:6379",
    "tecogan upscale sharp/ result/ --weights tecogan.safetensors --degrade --side-by-side comparison.mp4",
)
MOST_QUALITY = 63
"""The coarsest of all codecs' own; each has its own limit."""
MOST_WORKERS = 4096
"""Of a cluster."""
LEAST_FOR_TF32 = (8, 0)
"""CUDA's capability of Ampere."""
Add = Callable[..., argparse.Action]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser(
        "upscale",
        description="""Upscale a video or a folder of images with trained weights, by the factor they were trained for.
        Sound, subtitles and all else that a video has are copied. Work is done in segments, kept beside the output in
        OUTPUT.unfinished: after an interruption of any kind the same command goes on.""",
        examples=EXAMPLES,
    )
    add = parser.add_argument
    add(
        "inputs",
        metavar="INPUT",
        nargs="+",
        type=input_path,
        help="a video file or a folder of PNG or JPG images; several of them, a folder of videos, or a list (.txt, one "
        "path a line): then OUTPUT is a folder for all results, and what is complete there is not made again",
    )
    add(
        "output",
        metavar="OUTPUT",
        type=output_path,
        help=f"the video file ({', '.join(CONTAINERS)}) or the folder to make; images keep their names",
    )
    add(
        "--weights",
        metavar="NAME|PATH",
        help="a name ('tecogan fetch --list'), a .safetensors file, a checkpoint's folder or a run's folder, also on "
        "s3:// or gs:// (default: tecogan, fetched once; without network the small model that is in the package)",
    )
    _add_looks(parser.group("looking before and after"))
    _add_frames(parser.group("which frames"))
    _add_network(parser.group("the network"))
    _add_encoding(parser.group("the video that is made"))
    _add_outputs(parser.group("outputs, and going on"))
    _add_workers(parser.group("who does the work"))
    options = parser.parse_args(_spelled_out(list(argv)))
    options.input = options.inputs[0]
    check_together(options)
    return options


def request_of(
    options: argparse.Namespace, device: torch.device, *, capability: tuple[int, int] | None = None
) -> Request:
    """What the options ask for. ``capability``: CUDA's, of other machines' GPUs, where these do the work."""
    return Request(
        source=SourceOptions(
            path=options.input,
            allow_gaps=options.allow_gaps,
            video_stream=options.video_stream,
            on_damage=options.on_damage,
            deinterlace=options.deinterlace,
        ),
        output=options.output,
        comparison=options.side_by_side,
        start=options.start_frame,
        frames=options.frames,
        # Images are one sequence, and so is what the original's evaluation is repeated with.
        cut=options.cut or ("none" if options.input.is_dir() or options.degrade else "detected"),
        segment_frames=options.segment_frames,
        degrade=options.degrade,
        precision=_precision(options, device, capability),
        tile=options.tile,
        wishes=Wishes(
            codec=options.codec,
            quality=options.quality,
            preset=options.preset,
            pix_fmt=options.pix_fmt,
            options=dict(options.encoder_option),
        ),
        png16=options.png16,
    )


def _add_looks(add: Add) -> None:
    add(
        "--preview",
        type=_span,
        metavar="LENGTH@START",
        help="only upscale a part, as 5s@1:30, 2s or 120f@300f, into a video beside its bicubic enlargement, "
        "OUTPUT.preview.mp4; nothing else is made",
    )
    add("--estimate", action="store_true", help="only say how long it will take and how large the result will be")
    add(
        "--page",
        type=output_path,
        metavar="FILE",
        help="also make an HTML page with chosen frames, each to be wiped between bicubic and result",
    )


def _add_frames(add: Add) -> None:
    add("--start-frame", type=whole_number(0), default=0, metavar="N", help="first input frame (default 0)")
    add("--frames", type=whole_number(1), metavar="N", help="number of input frames to upscale (default: all)")
    add(
        "--degrade",
        nargs="?",
        choices=get_args(Degradation),
        const="BD",
        help="the input is of high resolution: shrink it first, and upscale that to its size. BD (default): blur "
        "(sigma 1.5), keep every 4th pixel, or every 2nd for weights that double; BI: MATLAB's bicubic imresize",
    )
    add(
        "--cut",
        choices=get_args(Cut),
        help="detected (default of videos): the network's memory ends where the film is cut; none (default of images, "
        "and with --degrade): all is one scene",
    )
    add("--allow-gaps", action="store_true", help="take a folder's images in their order though numbers are missing")
    add("--video-stream", type=whole_number(0), metavar="N", help="of several video streams the N-th, from 0 (default)")
    add("--deinterlace", action="store_true", help="make full frames of interlaced video, which is refused otherwise")
    add(
        "--on-damage",
        choices=get_args(OnDamage),
        default="stop",
        help="where a video cannot be decoded: stop (default), before any work; repeat the last good frame, and say so",
    )


def _add_network(add: Add) -> None:
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto (default): CUDA if there is a device")
    add(
        "--precision",
        choices=["auto", *get_args(Precision)],
        default="auto",
        help="auto (default): tf32 on CUDA, within a level of fp32 and 3 to 7 times as fast, and fp32 on a CPU; bf16 "
        "is faster and coarser, on a CPU if it has AVX512-BF16 or AMX",
    )
    add("--exact", action="store_true", help="the original's numbers: fp32 everywhere")
    add(
        "--tile",
        type=_tile,
        default="auto",
        metavar="auto|none|N",
        help="the network runs on squares of N input pixels, which need less memory; auto (default): if whole frames "
        "do not fit",
    )
    add(
        "--segment-frames",
        type=whole_number(1),
        metavar="N",
        help="frames of a segment, which is what an interruption may cost (default: by their size, 16 to 1000)",
    )


def _add_encoding(add: Add) -> None:
    add("--codec", metavar="NAME", help=f"{', '.join(ENCODERS)} (default: the usual one of the output's suffix)")
    add(
        "--quality",
        type=whole_number(0, MOST_QUALITY),
        metavar="N",
        help="in the codec's own numbers, smaller is better (default: hardly to be told from lossless, 16 for h264)",
    )
    add(
        "--crf",
        dest="quality",
        type=whole_number(0, MOST_CRF),
        metavar="N",
        help=f"the same for h264 and hevc: from 0, the best, to {MOST_CRF}",
    )
    add("--preset", metavar="NAME", help="the codec's: how much time it may take (default: medium for h264)")
    add("--pix-fmt", metavar="NAME", help="such as yuv420p, yuv444p, yuv420p10le (default: as many bits as the input)")
    add(
        "--encoder-option",
        action="append",
        type=_pair,
        default=[],
        metavar="KEY=VALUE",
        help="one of FFmpeg's options of the encoder, as tune=animation; may be given several times",
    )


def _add_outputs(add: Add) -> None:
    add("--png16", action="store_true", help="images of 16 bits a colour")
    add(
        "--side-by-side",
        type=output_path,
        metavar="FILE",
        help="also make a video of bicubic and model beside each other, with --degrade of the truth too",
    )
    add("--overwrite", action="store_true", help="replace videos that exist, when the new ones are complete")
    add("--restart", action="store_true", help="begin anew where another command left unfinished work")


def _add_workers(add: Add) -> None:
    add(
        "--workers",
        type=workers_number,
        metavar="N|auto",
        help="processes on this machine's CPUs, or actors on a cluster (default: auto, as many as pay: on CPUs that is "
        "measured, on GPUs one each). They make different scenes and films; results are the same bit for bit",
    )
    add(
        "--threads",
        type=whole_number(1, 1024),
        metavar="N",
        help="of the network on CPUs, in each process (default: the best that is measured when the work is planned). "
        "Another number may change the last bit",
    )
    add(
        "--address",
        metavar="ADDRESS",
        help="spread the work over the Ray cluster at HOST:PORT or auto, or over actors on this "
        "machine: local. Input and output are on storage that all nodes share",
    )


def workers_number(text: str) -> int | None:
    """An option's type: a number from 1, or None for "auto"."""
    number: int | None = None if text == "auto" else whole_number(1, MOST_WORKERS)(text)
    return number


def _span(text: str) -> Span:
    try:
        return parse_span(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


def _precision(
    options: argparse.Namespace, device: torch.device, capability: tuple[int, int] | None = None
) -> Precision:
    if options.exact:
        return "fp32"
    if options.precision == "auto":
        if capability is None:
            return default_precision(device)[0]
        return "tf32" if capability >= LEAST_FOR_TF32 else "fp32"
    precision: Precision = options.precision
    return precision


def _tile(text: str) -> Tile:
    words: dict[str, Tile] = {"auto": "auto", "none": "none"}
    if text in words:
        return words[text]
    side: int = whole_number(SMALLEST_TILE)(text)
    return side


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, not {text!r}")
    return key, value


def _spelled_out(words: list[str]) -> list[str]:
    """With BD after a plain ``--degrade``: argparse would take an INPUT that follows for its value."""
    pairs = zip(words, [*words[1:], ""], strict=False)  # without words there is one too many
    return ["--degrade=BD" if a == "--degrade" and b not in get_args(Degradation) else a for a, b in pairs]
