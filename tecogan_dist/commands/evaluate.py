"""``tecogan evaluate``: PSNR, SSIM, LPIPS, tOF and tLP of results against their targets."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import output_lock
from tecogan_dist.base.progress import Progress
from tecogan_dist.base.storage import make_folder
from tecogan_dist.base.together import existing
from tecogan_dist.commands.parser import CommandParser, input_path, output_path, whole_number
from tecogan_dist.metrics.measuring import (
    OpenSequence,
    Settings,
    measure_sequences,
    measured_with,
    open_sequences,
    total_frames,
)
from tecogan_dist.metrics.names import COLUMN, METRICS, NEED_WEIGHTS
from tecogan_dist.metrics.perceptual import TRUNK_FILES, WEIGHTS_VARIABLE, Trunk, find_trunk
from tecogan_dist.metrics.protocol import PROTOCOLS
from tecogan_dist.metrics.ray_tasks import MOST_WORKERS, measuring
from tecogan_dist.metrics.summary import Evaluation
from tecogan_dist.pages.evaluation import FILES, write_evaluation
from tecogan_dist.published.names import if_cached, is_name, resolve
from tecogan_dist.video.numbering import GapError

DESCRIPTION = """
Compare results with their targets, frame by frame. Both are video files or folders of PNG or JPG images; several are
given with commas between them, or each with an option of its own, the first of the results with the first of the
targets. A name that has a comma itself is found by what exists. DIR gets metrics.csv (the original's layout),
metrics.json (everything, in full precision; null where a value is infinite or missing) and report.html.
"""
EXAMPLES = (
    "tecogan evaluate --results upscaled.mp4 --targets film.mp4 --output scores --lpips-weights alexnet.pth",
    "tecogan evaluate --results ours/walk,ours/city --targets hr/walk,hr/city --output scores --metrics psnr,ssim,tof",
)

MOST_COMMAS = 50
"""That a name may have itself."""
KEPT = "nothing was written, and older files are as they were; the same command begins anew"
"""What an interruption leaves."""


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`."""
    options = parse(argv)
    metrics = _metrics(options.metrics)
    protocol = PROTOCOLS[options.protocol]
    _check_output(options)
    sequences = _open(options)
    trunk = _trunk(options) if set(metrics) & set(NEED_WEIGHTS) else None
    settings = Settings(protocol, metrics, trunk, options.device)
    with output_lock(options.output):
        make_folder(options.output)  # before hours of measuring, not after them
        _check_output(options)  # once more: another process may have ended in between
        evaluation, written = _evaluate(options, settings, sequences)
    print_table(evaluation)
    for sequence in sequences:
        if sequence.note:
            print(f"note: {printable(sequence.note)}")
    print(f"written: {', '.join(map(printable, written))}")


def _evaluate(
    options: argparse.Namespace, settings: Settings, sequences: list[OpenSequence]
) -> tuple[Evaluation, list[Path]]:
    """The numbers, and the files that they are in."""
    metrics = settings.metrics
    with (
        measuring(settings, workers=options.workers, address=options.address) as (measure_chunks, processes),
        Progress(total_frames(sequences)) as progress,
    ):
        values = measure_sequences(
            sequences, measure_chunks, processes=processes, metrics=metrics, advance=progress.advance
        )
    evaluation = Evaluation(settings.protocol, metrics, values)
    return evaluation, write_evaluation(options.output, evaluation, sequences, note=measured_with(settings.trunk))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser("evaluate", description=DESCRIPTION, examples=EXAMPLES)
    add = parser.add_argument
    several = {"required": True, "action": "append", "metavar": "A[,B...]"}
    add("--results", **several, help="videos or image folders to be measured")
    add("--targets", **several, help="what each of them should look like")
    add("--output", required=True, type=output_path, metavar="DIR", help="folder for the three files")
    add("--overwrite", action="store_true", help="replace the three files of an earlier evaluation, all or none")
    add(
        "--allow-gaps", action="store_true", help="take images in their order though numbers are missing, on both sides"
    )
    add(
        "--protocol",
        choices=list(PROTOCOLS),
        default="official",
        help="; ".join(f"{protocol.name}: {protocol.description}" for protocol in PROTOCOLS.values()),
    )
    add(
        "--metrics",
        default=",".join(METRICS),
        metavar="LIST",
        help=f"some of {','.join(METRICS)} (default: all); {' and '.join(NEED_WEIGHTS)} need network weights",
    )
    add("--lpips-net", choices=list(TRUNK_FILES), default="alex", help="LPIPS's network (default alex, the paper's)")
    add(
        "--lpips-weights",
        type=input_path,
        metavar="FILE|lpips-alex",
        help=f"the network's torchvision state dict, or the name of the published one, which is fetched (default: "
        f"${WEIGHTS_VARIABLE}, else torch's cache, else what 'tecogan fetch lpips-alex' has fetched)",
    )
    add(
        "--workers",
        type=whole_number(1, MOST_WORKERS),
        metavar="N",
        help="processes that measure; 1: only this one (default: as many as CPUs)",
    )
    add("--address", help="Ray cluster to use (default: $RAY_ADDRESS, else this machine)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where LPIPS runs (default cpu)")
    return parser.parse_args(argv)


def _trunk(options: argparse.Namespace) -> Trunk:
    """LPIPS's network. Raises :class:`UserError` if it cannot be had."""
    given = options.lpips_weights
    if is_name(str(given)) and options.lpips_net != "alex":
        raise UserError(f"{given} is AlexNet, and --lpips-net is {options.lpips_net}: give that network's own file.")
    place = None if given is None else resolve(str(given), "lpips")
    return find_trunk(options.lpips_net, place, instead=if_cached("lpips-alex"))


def _metrics(text: str) -> tuple[str, ...]:
    """The chosen metrics, each once, in our order."""
    chosen = {name.strip().lower() for name in text.split(",") if name.strip()}
    unknown = sorted(chosen - set(METRICS))
    if unknown or not chosen:
        raise UserError(f"--metrics {text!r}: choose from {', '.join(METRICS)}.")
    return tuple(metric for metric in METRICS if metric in chosen)


def _open(options: argparse.Namespace) -> list[OpenSequence]:
    results, targets = (split_names(given, option) for given, option in _given(options))
    try:
        return open_sequences(results, targets, PROTOCOLS[options.protocol], allow_gaps=options.allow_gaps)
    except GapError as error:
        raise UserError(f"{str(error).rstrip('.')}, or take the images as they are with --allow-gaps.") from error


def _given(options: argparse.Namespace) -> tuple[tuple[list[str], str], tuple[list[str], str]]:
    return (options.results, "--results"), (options.targets, "--targets")


def split_names(given: Sequence[str], option: str) -> list[str]:
    """Names with commas between them; where a name that exists has commas itself, the longest that exists is taken.

    Raises :class:`UserError`, which names ``option``, for a name of nothing, as after a last comma, and where both a
    name with a comma and the names on either side of it exist.
    """
    names = []
    for text in given:
        parts = text.split(",")
        while parts:
            most = min(len(parts), MOST_COMMAS + 1)
            end = next((end for end in range(most, 1, -1) if os.path.lexists(",".join(parts[:end]))), 1)
            name = ",".join(parts[:end])
            if end > 1 and all(part and os.path.lexists(part) for part in parts[:end]):
                raise UserError(
                    f"{option} {name}: there is one of that name, and one of each part: rename one of them."
                )
            if not name.strip():
                raise UserError(
                    f"{option} {text!r} has an empty name in it: give the names with one comma between two."
                )
            names.append(name)
            parts = parts[end:]
    return names


def _check_output(options: argparse.Namespace) -> None:
    there = existing(options.output, FILES)
    if there and not options.overwrite:
        raise UserError(f"{there[0]} exists: give another --output, or replace it with --overwrite.")
    for path in there:
        if path.is_dir() and not path.is_symlink():
            raise UserError(f"{path} is a folder: rename it, or give another --output.")
        if path.exists() and not os.access(path, os.W_OK):
            raise UserError(f"{path} is protected from writing: change its permissions, or give another --output.")


def print_table(evaluation: Evaluation) -> None:
    """Averages of each sequence and of all, under the protocol's name."""
    protocol = evaluation.protocol
    print(f"{protocol.name} protocol: {protocol.description}")
    names = [printable(sequence.name, limit=60) for sequence in evaluation.sequences]
    labels = [*names, "average of sequences", "average of frames"]
    width = max(map(len, labels))
    print(" " * width + "".join(f"{COLUMN[metric]:>10}" for metric in evaluation.metrics) + "    frames")
    for name, sequence in zip(names, evaluation.sequences, strict=True):
        averages = [sequence.average(metric) for metric in evaluation.metrics]
        print(f"{name:{width}}" + "".join(map(_cell, averages)) + f"{len(sequence.frames):10}")
    for label, average in (
        ("average of sequences", evaluation.sequence_average),
        ("average of frames", evaluation.frame_average),
    ):
        print(f"{label:{width}}" + "".join(_cell(average(metric)) for metric in evaluation.metrics))


def _cell(value: float) -> str:
    """``inf`` for the PSNR of equal frames; a dash where there is no value."""
    return f"{'-' if math.isnan(value) else format(value, '.4f'):>10}"
