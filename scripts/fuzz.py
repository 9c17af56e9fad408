"""Reads real inputs of every kind with something wrong in them, and prints what was neither a value nor a UserError.

    python scripts/fuzz.py --minutes 10 --seed 1
    python scripts/fuzz.py --seconds 30 --kinds video png
    python scripts/fuzz.py --replay fuzz_finds/video-1-234.zip

Every kind gets the same share of the time. Inputs are a function of the seed, the kind and a number. What counts as
found: any other exception, an end by a signal, more time or memory than the limits, a message too long for a sentence,
a process started, a file changed outside of the input's own folder, a connection to another machine, and weights taken
that are not finite. Each find's first input is kept. Ends with status 1 if there was one.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fuzzing import samples
from fuzzing.mutating import mutated
from fuzzing.pool import Limits, apart, run
from fuzzing.samples import MAKERS, Files
from fuzzing.worker import Job, Outcome

PROGRESS_SECONDS = 10.0


@dataclasses.dataclass
class Tally:
    """Of one kind."""

    value: int = 0
    refused: int = 0
    found: int = 0
    seconds: float = 0.0

    @property
    def inputs(self) -> int:
        return self.value + self.refused + self.found


class Campaign:
    """What has been read until now, and which inputs come next."""

    def __init__(self, made: dict[str, list[Files]], *, seed: int, keep: Path, seconds: float) -> None:
        self.tallies = {kind: Tally() for kind in made}
        self.finds: dict[tuple[str, str], int] = collections.Counter()
        """How many inputs of a kind found the same."""
        self._made, self._seed, self._keep = made, seed, keep
        self._begun = time.monotonic()
        self._end = self._begun + seconds
        self._spoken = self._begun

    def jobs(self) -> Iterator[Job]:
        """The next input of the kind that had least time, until time is up."""
        given = dict.fromkeys(self.tallies, 0)
        while time.monotonic() < self._end:
            kind = min(given, key=lambda kind: (given[kind] > 0, self.tallies[kind].seconds, given[kind]))
            yield Job(kind, given[kind])
            given[kind] += 1

    def report(self, job: Job, outcome: Outcome, seconds: float) -> None:
        tally = self.tallies[job.kind]
        setattr(tally, outcome.end, getattr(tally, outcome.end) + 1)
        tally.seconds += seconds
        if outcome.end == "found":
            self.finds[job.kind, outcome.place] += 1
            if self.finds[job.kind, outcome.place] == 1:
                file = self._kept(job)
                print(f"\nFOUND {job.kind}: {outcome.place}\n{outcome.trace.rstrip()}\nkept: {file}\n", flush=True)
        if time.monotonic() > self._spoken + PROGRESS_SECONDS:
            self._spoken = time.monotonic()
            inputs = sum(tally.inputs for tally in self.tallies.values())
            left = max(0, self._end - self._spoken)
            print(f"{inputs} inputs, {len(self.finds)} finds, {left:.0f} s left", flush=True)

    def _kept(self, job: Job) -> Path:
        """A zip with the input's files, for ``--replay``."""
        self._keep.mkdir(parents=True, exist_ok=True)
        file = self._keep / f"{job.kind}-{self._seed}-{job.number}.zip"
        files = apart(_mutated, job, self._made, self._seed)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.comment = job.kind.encode()
            for name, content in files.items():
                archive.writestr(name, content)
        return file

    def print_table(self) -> None:
        print(f"\n{'kind':<12}{'inputs':>9}{'values':>9}{'refused':>9}{'found':>9}")
        total = Tally()
        for kind, tally in self.tallies.items():
            _print_row(kind, tally)
            for field in dataclasses.fields(Tally):
                setattr(total, field.name, getattr(total, field.name) + getattr(tally, field.name))
        _print_row("all", total)
        for (kind, place), count in sorted(self.finds.items()):
            print(f"{count} of {kind}: {place}")


def _print_row(name: str, tally: Tally) -> None:
    print(f"{name:<12}{tally.inputs:>9}{tally.value:>9}{tally.refused:>9}{tally.found:>9}")


def _mutated(job: Job, made: dict[str, list[Files]], seed: int) -> Files:
    return mutated(job.kind, made[job.kind], seed=seed, number=job.number or 0)


def replay(file: Path, folder: Path, limits: Limits) -> bool:
    """Read an input that was kept. Whether it is still a find."""
    with zipfile.ZipFile(file) as archive:
        kind = archive.comment.decode()
        files = {name: archive.read(name) for name in archive.namelist()}
    ends: list[Outcome] = []
    jobs = iter([Job(kind, None, files)])
    run(jobs, {}, folder=folder, processes=1, seed=0, limits=limits, report=lambda _, end, __: ends.append(end))
    for end in ends:
        print(f"{kind}: {end.end} {end.place}\n{end.trace}")
    return any(end.end == "found" for end in ends)


def main(argv: Sequence[str] | None = None) -> int:
    """The status: 1 if anything was found."""
    options = parse(argv)
    limits = Limits(seconds=options.limit_seconds, megabytes=options.limit_megabytes)
    with tempfile.TemporaryDirectory(prefix="tecogan_fuzz_") as folder:
        if options.replay:
            still = [replay(file, Path(folder), limits) for file in options.replay]
            return int(any(still))
        made = apart(samples.make, options.kinds, Path(folder) / "samples")
        campaign = Campaign(made, seed=options.seed, keep=options.keep, seconds=options.seconds or 60 * options.minutes)
        run(
            campaign.jobs(),
            made,
            folder=Path(folder),
            processes=options.processes,
            seed=options.seed,
            limits=limits,
            report=campaign.report,
        )
    campaign.print_table()
    return int(bool(campaign.finds))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, default=1.0, help="how long (default 1)")
    add("--seconds", type=float, help="the same in seconds")
    add("--seed", type=int, default=1, help="of all inputs (default 1)")
    add("--kinds", nargs="+", choices=list(MAKERS), default=list(MAKERS), metavar="KIND", help=", ".join(MAKERS))
    add("--processes", type=int, default=2, help="that read at a time (default 2)")
    add("--limit-seconds", type=float, default=10.0, help="of CPU time for an input (default 10); six times as many "
        "by the clock")  # fmt: skip
    add("--limit-megabytes", type=int, default=1024, help="of memory for an input (default 1024)")
    add("--keep", type=Path, default=Path("fuzz_finds"), metavar="DIR", help="for inputs that found something")
    add("--replay", type=Path, nargs="+", metavar="FILE", help="read inputs that were kept, once more")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
