"""``tecogan doctor``: is this machine, or every node of a cluster, fit for training?"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator

from tecogan_dist.base.console import printable
from tecogan_dist.base.documents import dump_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.connect import cluster_address, connected
from tecogan_dist.commands.parser import CommandParser, input_place, whole_number
from tecogan_dist.config import load as settings
from tecogan_dist.diagnosis.examine import Request, examine, interrupted_by_sigterm
from tecogan_dist.diagnosis.findings import Finding, as_tree, in_order, summary, table, worst
from tecogan_dist.diagnosis.machines import Machines, ThisMachine
from tecogan_dist.diagnosis.nodes import dead_nodes, nodes_of_cluster

DESCRIPTION = """
Examine this machine, or with --address or in a Ray job every node of a cluster at once: versions, GPUs, shared memory,
disks, open files, clocks, storage, network, all-reduce, decoding, and with --train a short real training. Prints a
verdict a line, worst first, each with what to do. Status 0: no fault (there may be doubts), 1: a fault.
"""
EXAMPLES = (
    "tecogan doctor --storage runs --train",
    "tecogan doctor --address auto --storage s3://films/doctor --data s3://films/store --train",
)


KEPT = "nothing is kept: what was written to measure with is removed"
"""What an interruption leaves."""
MOST_PATIENCE, MOST_WORKERS = 86_400, 100_000


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`, and ``SystemExit`` with status 1 for a fault."""
    options = parse(argv)
    request = Request(
        address=options.address,
        storage=_place(options.storage),
        data=_place(options.data),
        config=settings.load(options.config) if options.config else None,
        train=options.train,
        workers=options.workers,
    )
    # In JSON mode nothing else may get onto the standard output, whoever prints it.
    with contextlib.redirect_stdout(sys.stderr), _machines(options.address, options.patience) as (machines, notes):
        with interrupted_by_sigterm():
            findings, inventories = examine(machines, request, say=_say)
        findings = in_order([*findings, *notes])
    if options.json:
        print(dump_json(as_tree(findings, inventories), indent=2))
    else:
        print("\n".join([*table(findings, machines=len(machines.all)), summary(findings)]))
    if worst(findings) == "fail":
        raise SystemExit(1)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser("doctor", description=DESCRIPTION, examples=EXAMPLES)
    add = parser.add_argument
    add("--address", help="Ray cluster to examine, auto on one of its nodes (default: $RAY_ADDRESS, else this machine)")
    add(
        "--storage",
        type=input_place,
        metavar="DIR",
        help="where runs are to be written: a folder that all nodes share, s3:// or gs://",
    )
    add(
        "--data",
        type=input_place,
        metavar="STORE",
        help="clip store to decode from, and to train on (default: clips that are made here)",
    )
    add("--train", action="store_true", help="also train 20 steps on all workers and the same on one, and compare")
    add(
        "--workers",
        type=whole_number(1, MOST_WORKERS),
        metavar="N",
        help="workers of --train (default: one on each GPU; without GPUs one on each machine, and at least 2)",
    )
    add(
        "--config",
        metavar="PRESET|FILE",
        help="settings whose windows are decoded, and which --train trains: in fp32, without weights to begin from and "
        "without the perceptual loss, which would need VGG19 (default: the published windows, a small network)",
    )
    add(
        "--patience",
        type=whole_number(5, MOST_PATIENCE),
        default=120,
        metavar="SECONDS",
        help="how long each machine gets for each answer (default 120)",
    )
    add("--json", action="store_true", help="print JSON instead (tecogan_dist/diagnosis/README.md explains it)")
    options = parser.parse_args(argv)
    if options.workers is not None and not options.train:
        raise UserError("--workers is about --train: give both.")
    return options


def _place(path: str | None) -> Location | None:
    return None if path is None else Location.of(path).absolute()


def _say(line: str) -> None:
    print(f"measuring: {printable(line, limit=1000)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _machines(address: str | None, patience: float) -> Iterator[tuple[Machines, list[Finding]]]:
    """The cluster's, or only this one; and what else is known of the cluster."""
    if not cluster_address(address):
        yield ThisMachine(patience=patience), []
        return
    with connected(address, cpus=1), nodes_of_cluster(patience=patience) as nodes:
        gone = dead_nodes()
        notes = []
        if gone:
            text = (
                f"{len(gone)} earlier node{'s are' if len(gone) > 1 else ' is'} gone ({', '.join(sorted(set(gone)))})"
            )
            notes.append(Finding(status="note", subject="nodes", text=text))
        yield nodes, notes
