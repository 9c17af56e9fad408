"""``tecogan evaluate``: PSNR, SSIM, LPIPS, tOF and tLP of results against their targets."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import ray
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.progress import Progress
from tecogan_dist.cluster.connect import cluster_address, connected
from tecogan_dist.metrics.measuring import (
    Mapping,
    OpenSequence,
    Settings,
    chunk_size,
    different_counts,
    in_this_process,
    measure_sequences,
)
from tecogan_dist.metrics.perceptual import TRUNK_FILES, WEIGHTS_VARIABLE, find_trunk
from tecogan_dist.metrics.protocol import PROTOCOLS, Protocol, check_sizes
from tecogan_dist.metrics.ray_tasks import by_ray_tasks
from tecogan_dist.metrics.sequence import COLUMN, METRICS, NEED_WEIGHTS
from tecogan_dist.metrics.summary import Evaluation
from tecogan_dist.pages.evaluation import render_report
from tecogan_dist.video.open import open_video
from tecogan_dist.video.source import FrameSource

DESCRIPTION = """
Compare results with their targets, frame by frame. Both are video files or folders of PNG or JPG images; several are
given with commas between them, the first of the results with the first of the targets. DIR gets metrics.csv (the
original's layout), metrics.json (everything, in full precision) and report.html.
"""
FILES = ("metrics.csv", "metrics.json", "report.html")


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    metrics = _metrics(options.metrics)
    protocol = PROTOCOLS[options.protocol]
    sequences = open_sequences(options.results.split(","), options.targets.split(","), protocol)
    trunk = find_trunk(options.lpips_net, options.lpips_weights) if set(metrics) & set(NEED_WEIGHTS) else None
    _make_folder(options.output)
    settings = Settings(protocol, metrics, trunk, options.device)

    counts = [sequence.targets.count for sequence in sequences]
    total = sum(count for count in counts if count) if all(counts) else None
    largest = max(3 * sequence.targets.height * sequence.targets.width for sequence in sequences)
    with _mapping(settings, options.workers, options.address) as (mapping, workers), Progress(total) as progress:
        values = measure_sequences(
            sequences,
            mapping,
            chunk=chunk_size(largest, total=total, workers=workers),
            metrics=metrics,
            advance=progress.advance,
        )
    evaluation = Evaluation(protocol, metrics, values)
    note = f"tecogan_dist {version('tecogan_dist')}, OpenCV {version('opencv-python-headless')}"
    if trunk is not None:
        note += f", LPIPS {version('lpips')} v0.1 {trunk.net} with {trunk.path.name}"
    report = render_report(
        evaluation,
        [sequence.profile() for sequence in sequences],
        [(sequence.results, sequence.targets) for sequence in sequences],
        note=note,
    )
    content = json.dumps({**evaluation.to_json(), "measured_with": note}, indent=2) + "\n"
    write_all(options.output, dict(zip(FILES, (evaluation.to_csv(), content, report), strict=True)))
    print_table(evaluation)
    print(f"written: {', '.join(str(options.output / name) for name in FILES)}")


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tecogan evaluate", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--results", required=True, metavar="A[,B...]", help="videos or image folders to be measured")
    parser.add_argument("--targets", required=True, metavar="A[,B...]", help="what each of them should look like")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the three files")
    parser.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        default="official",
        help="; ".join(f"{protocol.name}: {protocol.description}" for protocol in PROTOCOLS.values()),
    )
    parser.add_argument(
        "--metrics",
        default=",".join(METRICS),
        metavar="LIST",
        help=f"some of {','.join(METRICS)} (default all); {' and '.join(NEED_WEIGHTS)} need network weights",
    )
    parser.add_argument("--lpips-net", choices=list(TRUNK_FILES), default="alex", help="default alex, the paper's")
    parser.add_argument(
        "--lpips-weights",
        type=Path,
        metavar="FILE",
        help=f"the network's torchvision state dict (default: ${WEIGHTS_VARIABLE}, else torch's cache)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes; 1: this one (default: as many as CPUs)")
    parser.add_argument("--address", help="Ray cluster to use (default: $RAY_ADDRESS, else this machine)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where LPIPS runs (default cpu)")
    options = parser.parse_args(argv)
    if options.workers is not None and options.workers < 1:
        raise UserError("--workers must be at least 1.")
    return options


def _metrics(text: str) -> tuple[str, ...]:
    """The chosen metrics, each once, in our order."""
    chosen = {name.strip().lower() for name in text.split(",") if name.strip()}
    unknown = sorted(chosen - set(METRICS))
    if unknown or not chosen:
        raise UserError(f"--metrics {text!r}: choose from {', '.join(METRICS)}.")
    return tuple(metric for metric in METRICS if metric in chosen)


def open_sequences(results: Sequence[str], targets: Sequence[str], protocol: Protocol) -> list[OpenSequence]:
    """Open each result with its target, and check what can be known before reading. Raises :class:`UserError`."""
    if len(results) != len(targets):
        raise UserError(
            f"{len(results)} results and {len(targets)} targets are given: give one target for each result."
        )
    for path in results:
        if results.count(path) > 1:
            raise UserError(f"{path} is given twice in --results: give each result once.")
    names = [Path(path).resolve().stem for path in targets]
    if len(set(names)) < len(names):
        names = [Path(path).resolve().stem for path in results]
    opened = []
    for name, result, target in zip(names, results, targets, strict=True):
        if Path(result).resolve() == Path(target).resolve():
            raise UserError(
                f"{result} is given as a result and as its own target: give what it is to be compared with."
            )
        sequence = OpenSequence(name, open_video(result), open_video(target), protocol)
        ours, theirs = sequence.results, sequence.targets
        check_sizes((ours.height, ours.width), (theirs.height, theirs.width), f"{result} against {target}")
        protocol.region(theirs.height, theirs.width)
        if ours.count != theirs.count and ours.count is not None and theirs.count is not None:
            # A container's count can be wrong; but if they differ, better to count now than after an hour of measuring.
            counts = [_count(source) for source in (ours, theirs)]
            if counts[0] != counts[1]:
                raise different_counts(ours, counts[0], theirs, counts[1])
        opened.append(sequence)
    return opened


def _count(source: FrameSource) -> int:
    return len(source.names) if source.names is not None else sum(1 for _ in source.frames())


@contextlib.contextmanager
def _mapping(settings: Settings, workers: int | None, address: str | None) -> Iterator[tuple[Mapping, int]]:
    """How chunks are measured, and by how many processes."""
    if settings.device == "cuda" and not cluster_address(address) and not torch.cuda.is_available():
        raise UserError("no CUDA device is here: use --device cpu.")
    if not cluster_address(address) and not ray.is_initialized() and (workers or os.cpu_count()) == 1:
        yield in_this_process(settings), 1
        return
    with connected(address, cpus=workers or 1):
        resources = ray.cluster_resources()
        workers = workers or int(resources["CPU"])
        gpus = resources.get("GPU", 0) if settings.device == "cuda" else 0
        if settings.device == "cuda" and not gpus:
            raise UserError("the cluster has no GPU: use --device cpu.")
        # Optical flow keeps a CPU busy longer than a network keeps a GPU: several tasks share one.
        share = min(1.0, int(gpus / workers * 1e4) / 1e4)
        yield by_ray_tasks(settings, workers=workers, gpus_each=share), workers


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be made ({error.strerror}): give a folder.") from error


def write_all(folder: Path, contents: dict[str, str]) -> None:
    """Write files that replace their predecessors together, when all are complete. Raises :class:`UserError`."""
    partial = {name: folder / f".{name}.partial" for name in contents}
    try:
        for name, text in contents.items():
            partial[name].write_text(text, encoding="utf-8")
        for name, path in partial.items():
            path.replace(folder / name)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): make space or give another folder.") from error
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


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
