"""``tecogan prepare``: videos, folders of frames, archives and URLs, cut into a clip store for training."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import ray

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.progress import Progress
from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.connect import cluster_address, connected
from tecogan_dist.data.clips import CLIPS, INDEX_NAME, Scene, clip_files, verify
from tecogan_dist.data.prepare.cutting import Event, Finished, Found, News, Settings
from tecogan_dist.data.prepare.download import Retrying
from tecogan_dist.data.prepare.jobs import Job, Piece
from tecogan_dist.data.prepare.plan import RESERVED, plan, record
from tecogan_dist.data.prepare.run import by_ray_tasks, in_this_process
from tecogan_dist.data.prepare.scenes import DETECTED_MINIMUM, WHOLE_MINIMUM
from tecogan_dist.data.prepare.sources import ORIGINAL_MINIMUM_SIZE, Source, is_list, is_remote, list_names, load, make
from tecogan_dist.data.writing import ClipStoreWriter

SOURCES_AT_A_TIME = 4
"""Where something is to be fetched, or on a cluster: polite to a site. A decoder and an encoder alone use all cores."""
DESCRIPTION = f"""
Cut sources into scenes and store them as short clips for training. SOURCE is a YAML list of sources, the name of a
shipped one ({", ".join(list_names())}), a URL (whatever yt-dlp takes, s3://, gs://), a video, a folder of videos, a
folder of frames, a .zip of these, or a pattern; scene_2000/col_high_0000.png ... keeps its number. A video that is
named here is cut every --scene-length frames and must have no cut of its own inside; those of a list and of URLs are
cut where a cut is detected, unless the list says where. Running the same command again makes what is missing.
"""


@dataclasses.dataclass
class Row:
    """What became of a source."""

    pieces: tuple[Piece, ...] | None
    there: int = 0
    made: int = 0
    problem: str = ""
    note: str = ""

    @property
    def missing(self) -> int | None:
        """Scenes that are neither there nor made; None where it is not known how many it has."""
        return None if self.pieces is None else len(self.pieces) - self.there - self.made


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    store = Location.of(options.output).absolute()
    if options.verify and not options.sources:
        count, damaged = find_damaged(store)
        if damaged:
            raise UserError(
                f"{len(damaged)} of {count} scenes are damaged or missing: add their sources to this command to make "
                "them anew."
            )
        return
    sources = [source for argument in options.sources for source in _sources(argument, options)]
    if options.dry_run and not (store / INDEX_NAME).exists():
        Preparation(options, store, None).run(sources)
        return
    with ClipStoreWriter(store) as writer:
        Preparation(options, store, writer).run(sources)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tecogan prepare", description=DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add("sources", nargs="*", metavar="SOURCE", help="list of sources, URL, video, folder, archive or pattern")
    add("--output", required=True, metavar="STORE", help="clip store: a folder, s3://BUCKET/NAME or gs://BUCKET/NAME")
    add("--dry-run", action="store_true", help="check links and files and list what would be made; write nothing")
    add("--verify", action="store_true", help="check every clip's checksum; with sources, make damaged ones anew")
    add("--strict", action="store_true", help="end with status 2 if anything of any source could not be made")
    add("--first-scene", type=int, default=2000, metavar="N", help="number of the first scene (default 2000)")
    add("--scene-length", type=int, default=120, metavar="N", help="frames of a scene (default 120)")
    add("--cut", choices=["fixed", "detected", "whole"], help="where to cut (see above)")
    add("--minimum-size", type=int, metavar="N", help=f"fewest pixels of height and width (default "
        f"{ORIGINAL_MINIMUM_SIZE}; 1 for what is named here and local)")  # fmt: skip
    add("--minimum-length", type=int, metavar="N", help=f"fewest frames of a detected scene (default "
        f"{DETECTED_MINIMUM}) or of a video shorter than a scene (default {WHOLE_MINIMUM})")  # fmt: skip
    add("--max-scenes", type=int, metavar="N", help=f"most scenes of a source, spread evenly (default {RESERVED} "
        "where their number is not known beforehand)")  # fmt: skip
    add("--downscale", type=int, default=1, metavar="F", help="average F x F pixels; 2 hides softness")
    add("--encoding", choices=["lossy", "lossless", "original"], default="lossy", help="lossy: visually lossless "
        "(default); original: keep the bytes of videos that are one scene")  # fmt: skip
    add("--start-frame", type=int, default=0, metavar="A", help="first frame of every source to use")
    add("--end-frame", type=int, metavar="B", help="frame to stop before (default: the end)")
    add("--downloads", type=Path, metavar="DIR", help="folder for downloads, shared if machines are to resume each "
        "other's (default: STORE/downloads, ./downloads for a remote store)")  # fmt: skip
    add("--remove-source", action="store_true", help="delete a download when its scenes are made")
    add(
        "--workers",
        type=int,
        metavar="N",
        help=f"sources at a time; 1: in this process, more: on Ray (default {SOURCES_AT_A_TIME} where something is "
        "fetched or on a cluster, else 1)",
    )
    add("--address", help="Ray cluster to use (default: $RAY_ADDRESS, else this machine)")
    options = parser.parse_args(argv)
    if not options.sources and not options.verify:
        parser.error("give at least one SOURCE")
    if options.first_scene < 0 or (options.workers is not None and options.workers < 1):
        raise UserError("--first-scene must be at least 0 and --workers at least 1.")
    return options


def _sources(argument: str, options: argparse.Namespace) -> list[Source]:
    settings = {
        "cut": options.cut,
        "scene_length": options.scene_length,
        "minimum_length": options.minimum_length,
        "maximum_scenes": options.max_scenes,
        "downscale": options.downscale,
        "encoding": options.encoding,
        "start_frame": options.start_frame,
        "end_frame": options.end_frame,
    }
    if options.minimum_size is not None:
        settings["minimum_size"] = options.minimum_size
    if is_list(argument):
        return load(argument, **settings)
    if not is_remote(argument):
        # What a user names is taken as it is.
        settings = {"minimum_size": 1, **settings, "cut": options.cut or "fixed"}
    return [make({"source": argument}, name=argument, **settings)]


def find_damaged(store: Location) -> tuple[int, set[int]]:
    """The number of scenes, and the numbers of those whose clip is not what was written, after printing each."""
    count, damaged = 0, set()
    for scene, problem in verify(store):
        count += 1
        if problem is not None:
            damaged.add(scene.number)
            print(f"scene {scene.number}: {problem}", flush=True)
    print(f"{count - len(damaged)} of {count} scenes of {store} are what was written.", flush=True)
    return count, damaged


class Preparation:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace, store: Location, writer: ClipStoreWriter | None) -> None:
        self._options, self._store, self._writer = options, store, writer
        self._rows: dict[Job, Row] = {}
        self._absent: set[int] = set()
        """Scenes in the index that have to be made anew."""
        self._is_quiet = sys.stderr.isatty()  # a bar is shown

    def run(self, sources: Sequence[Source]) -> None:
        """Do it all, and print the table whatever happens. Raises :class:`UserError` as the command's help says."""
        if self._writer is not None:
            self._absent = _without_clip(self._store, self._writer.scenes.values())
            self._absent |= find_damaged(self._store)[1] if self._options.verify else set()
        written = None if self._writer is None else self._store
        jobs = plan(sources, first_number=self._options.first_scene, scenes=self.scenes(), store=written)
        for job in jobs:
            there = sum(job.is_there(piece, self.scenes()) for piece in job.pieces or ())
            self._rows[job] = Row(job.pieces, there=there, problem=job.problem, note=job.note)
        todo = [job for job in self._rows if not job.problem and self._rows[job].missing != 0]
        if self._options.dry_run:
            todo = [job for job in todo if job.source.is_remote]
        fatal = ""
        try:
            fatal = self._work(todo)
        finally:
            self._print_table()
        failed = [row for row in self._rows.values() if row.problem]
        usable = sum(row.made + row.there for row in self._rows.values())
        if self._options.dry_run:
            usable = len(self._rows) - len(failed)
        if fatal:
            raise UserError(fatal)
        if failed and (self._options.strict or not usable):
            raise UserError(f"{len(failed)} of {len(self._rows)} inputs could not be used in full, see the table.")
        if not usable:
            raise UserError("no scene was made: the inputs hold too few frames.")

    def scenes(self) -> Mapping[int, Scene]:
        """The index, as far as its clips can be used."""
        if self._writer is None:
            return {}
        return {number: scene for number, scene in self._writer.scenes.items() if number not in self._absent}

    def _work(self, todo: Sequence[Job]) -> str:
        """Run the jobs; returns why all had to stop, or nothing."""
        counts = [self._rows[job].missing for job in todo]
        total = None if None in counts else sum(count for count in counts if count is not None)
        if not todo:
            return ""
        unit = "source" if self._options.dry_run else "scene"
        with (
            Progress(len(todo) if self._options.dry_run else total, unit=unit) as progress,
            self._happening(todo) as events,
        ):
            for job, event in events:
                if isinstance(event, Scene) or (self._options.dry_run and isinstance(event, Finished)):
                    progress.advance()
                self._note(job, event)
                if isinstance(event, Finished) and event.is_fatal:
                    return event.problem
        return ""

    @contextlib.contextmanager
    def _happening(self, todo: Sequence[Job]) -> Iterator[Iterator[tuple[Job, Event]]]:
        """What happens to the jobs, here or on Ray."""
        downloads = self._options.downloads
        if downloads is None:
            downloads = self._store.path / "downloads" if self._store.is_local else Path("downloads")
        settings = Settings(
            store=self._store,
            downloads=downloads.resolve(),
            remove_source=self._options.remove_source,
            dry_run=self._options.dry_run,
            retrying=Retrying(attempts=3) if self._options.dry_run else Retrying(),
        )
        address, workers = self._options.address, self._options.workers
        has_ray = bool(cluster_address(address)) or ray.is_initialized()
        if workers is None:
            workers = SOURCES_AT_A_TIME if has_ray or any(job.source.is_remote for job in todo) else 1
        workers = min(workers, len(todo))
        if workers == 1 and not has_ray:
            with contextlib.closing(in_this_process(todo, self.scenes, settings)) as events:
                yield events
        else:
            with (
                connected(address, cpus=workers),
                contextlib.closing(by_ray_tasks(todo, self.scenes, settings, workers=workers)) as events,
            ):
                yield events

    def _note(self, job: Job, event: Event) -> None:
        """Enter what came into the index and the table."""
        row = self._rows[job]
        if isinstance(event, Scene):
            assert self._writer is not None
            self._writer.enter(event)
            self._absent.discard(event.number)
            row.made += 1
            self._say(
                f"scene {event.number}: {event.frames} frames {event.width}x{event.height} of {event.source} from "
                f"frame {event.source_start}"
            )
        elif isinstance(event, Found):
            row.pieces = event.pieces
            row.there = sum(job.is_there(piece, self.scenes()) for piece in event.pieces) - row.made
            if event.is_certain:
                record(job, event.pieces, self._store)
        elif isinstance(event, News):
            self._say(event.text)
        else:
            row.problem = event.problem
            row.note = event.note or row.note

    def _say(self, text: str) -> None:
        if not self._is_quiet:
            print(text, flush=True)

    def _print_table(self) -> None:
        made = "to do" if self._options.dry_run else "made"
        print(f"{made:>7} {'there':>7} {'missing':>7}  source")
        for job, row in self._rows.items():
            missing = "?" if row.missing is None else row.missing
            counts = (missing, row.there, "") if self._options.dry_run else (row.made, row.there, missing)
            remark = row.problem or row.note
            name = remark if remark.startswith(job.name) else f"{job.name}{': ' if remark else ''}{remark}"
            print("{:>7} {:>7} {:>7}  ".format(*counts) + name)
        scenes = len(self.scenes())
        print(f"{self._store} holds {scenes} scene{'' if scenes == 1 else 's'}.", flush=True)


def _without_clip(store: Location, scenes: Iterable[Scene]) -> set[int]:
    """Numbers of scenes whose clip is gone."""
    files = {f"{CLIPS}/{entry.base_name}" for entry in (store / CLIPS).entries()}
    return {scene.number for scene in scenes if any(file not in files for file, _ in clip_files(scene))}
