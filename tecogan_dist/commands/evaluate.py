"""``tecogan evaluate``: PSNR, SSIM, LPIPS, tOF and tLP of results against their targets."""

from __future__ import annotations

import argparse
from pathlib import Path

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.progress import Progress
from tecogan_dist.commands.parser import CommandParser, whole_number
from tecogan_dist.metrics.measuring import Settings, measure_sequences, measured_with, open_sequences, total_frames
from tecogan_dist.metrics.names import COLUMN, METRICS, NEED_WEIGHTS
from tecogan_dist.metrics.perceptual import TRUNK_FILES, WEIGHTS_VARIABLE, find_trunk
from tecogan_dist.metrics.protocol import PROTOCOLS
from tecogan_dist.metrics.ray_tasks import measuring
from tecogan_dist.metrics.summary import Evaluation
from tecogan_dist.pages.evaluation import write_evaluation

DESCRIPTION = """
Compare results with their targets, frame by frame. Both are video files or folders of PNG or JPG images; several are
given with commas between them, the first of the results with the first of the targets. DIR gets metrics.csv (the
original's layout), metrics.json (everything, in full precision) and report.html.
"""
EXAMPLES = (
    "tecogan evaluate --results upscaled.mp4 --targets film.mp4 --output scores --lpips-weights alexnet.pth",
    "tecogan evaluate --results ours/walk,ours/city --targets hr/walk,hr/city --output scores --metrics psnr,ssim,tof",
)


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`."""
    options = parse(argv)
    metrics = _metrics(options.metrics)
    protocol = PROTOCOLS[options.protocol]
    sequences = open_sequences(options.results.split(","), options.targets.split(","), protocol)
    trunk = find_trunk(options.lpips_net, options.lpips_weights) if set(metrics) & set(NEED_WEIGHTS) else None
    _make_folder(options.output)
    settings = Settings(protocol, metrics, trunk, options.device)
    with (
        measuring(settings, workers=options.workers, address=options.address) as (measure_chunks, processes),
        Progress(total_frames(sequences)) as progress,
    ):
        values = measure_sequences(
            sequences, measure_chunks, processes=processes, metrics=metrics, advance=progress.advance
        )
    evaluation = Evaluation(protocol, metrics, values)
    written = write_evaluation(options.output, evaluation, sequences, note=measured_with(trunk))
    print_table(evaluation)
    print(f"written: {', '.join(map(str, written))}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser("evaluate", description=DESCRIPTION, examples=EXAMPLES)
    add = parser.add_argument
    add("--results", required=True, metavar="A[,B...]", help="videos or image folders to be measured")
    add("--targets", required=True, metavar="A[,B...]", help="what each of them should look like")
    add("--output", required=True, type=Path, metavar="DIR", help="folder for the three files")
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
        type=Path,
        metavar="FILE",
        help=f"the network's torchvision state dict (default: ${WEIGHTS_VARIABLE}, else torch's cache)",
    )
    add(
        "--workers",
        type=whole_number(1),
        metavar="N",
        help="processes that measure; 1: only this one (default: as many as CPUs)",
    )
    add("--address", help="Ray cluster to use (default: $RAY_ADDRESS, else this machine)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where LPIPS runs (default cpu)")
    return parser.parse_args(argv)


def _metrics(text: str) -> tuple[str, ...]:
    """The chosen metrics, each once, in our order."""
    chosen = {name.strip().lower() for name in text.split(",") if name.strip()}
    unknown = sorted(chosen - set(METRICS))
    if unknown or not chosen:
        raise UserError(f"--metrics {text!r}: choose from {', '.join(METRICS)}.")
    return tuple(metric for metric in METRICS if metric in chosen)


def _make_folder(folder: Path) -> None:
    """Before hours of measuring, not after them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be made ({error.strerror}): give a folder.") from error


def print_table(evaluation: Evaluation) -> None:
    """Averages of each sequence and of all, under the protocol's name."""
    protocol = evaluation.protocol
    print(f"{protocol.name} protocol: {protocol.description}")
    labels = [*(sequence.name for sequence in evaluation.sequences), "average of sequences", "average of frames"]
    width = max(map(len, labels))
    print(" " * width + "".join(f"{COLUMN[metric]:>10}" for metric in evaluation.metrics) + "    frames")
    for sequence in evaluation.sequences:
        averages = [sequence.average(metric) for metric in evaluation.metrics]
        print(
            f"{sequence.name:{width}}" + "".join(f"{value:>10.4f}" for value in averages) + f"{len(sequence.frames):10}"
        )
    for label, average in (
        ("average of sequences", evaluation.sequence_average),
        ("average of frames", evaluation.frame_average),
    ):
        print(f"{label:{width}}" + "".join(f"{average(metric):>10.4f}" for metric in evaluation.metrics))
