"""``tecogan prepare``: videos, folders of frames, archives and URLs, cut into a clip store for training."""

from __future__ import annotations

import argparse
import contextlib
import sys

from tecogan_dist.base.addresses import shown_url
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.progress import Progress
from tecogan_dist.base.storage import Location
from tecogan_dist.commands.parser import CommandParser, input_path, input_place, number, output_place, whole_number
from tecogan_dist.data.clips import Scene, Scenes, read_index, written_scenes
from tecogan_dist.data.index import MOST_FRAMES
from tecogan_dist.data.prepare.cutting import Event, Finished, News
from tecogan_dist.data.prepare.limits import GIGABYTE, Limits
from tecogan_dist.data.prepare.plan import RESERVED
from tecogan_dist.data.prepare.run import FIRST_SCENE, INPUTS_AT_A_TIME, Preparation
from tecogan_dist.data.prepare.scene_plans import InputPlan
from tecogan_dist.data.prepare.scenes import DETECTED_MINIMUM, WHOLE_MINIMUM
from tecogan_dist.data.prepare.sources import ORIGINAL_MINIMUM_SIZE, Source, is_list, is_remote, list_names, load, make
from tecogan_dist.data.prepare.verifying import verified
from tecogan_dist.data.scenes import SceneMap
from tecogan_dist.data.writing import ClipStoreWriter

ORDINARY = Limits()
DESCRIPTION = f"""
Cut sources into scenes and store them as short clips for training. SOURCE is a YAML list of sources, the name of a
shipped one ({", ".join(list_names())}), a URL (whatever yt-dlp takes, s3://, gs://), a video, a folder of videos, a
folder of frames, a .zip of these, or a pattern; scene_2000/col_high_0000.png ... keeps its number. A video that is
named here is cut every --scene-length frames and must not have a cut of its own inside a scene; those of a list and of
URLs are cut where a cut is detected, unless the list says where. Running the same command again makes what is missing.
"""
EXAMPLES = (
    "tecogan prepare films/*.mkv --output clips",
    "tecogan prepare tecogan_vimeo --output clips --downscale 2",
)


KEPT = "finished scenes are kept, and the same command makes what is missing"
"""What an interruption leaves."""


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`."""
    options = parse(argv)
    store = Location.of(options.output).absolute()
    if not options.sources:
        scenes = written_scenes(store)
        damaged = _print_damaged(store, scenes, options)
        if damaged:
            raise UserError(
                f"{len(damaged)} of {len(scenes)} scenes are damaged or missing: add their sources to this command to "
                "make them again."
            )
        return
    sources = [source for argument in options.sources for source in _sources(argument, options)]
    with contextlib.ExitStack() as stack:
        writer, known = None, SceneMap(Scenes.of(()))
        if options.dry_run:
            known = SceneMap(read_index(store) or Scenes.of(()))
        else:
            writer = stack.enter_context(ClipStoreWriter(store))
        there = (writer.scenes if writer else known).all()
        damaged = _print_damaged(store, there, options) if options.verify and (writer or there) else set()
        preparation = Preparation(
            sources,
            store,
            writer,
            first_scene=options.first_scene,
            damaged=damaged,
            downloads=options.downloads,
            remove_source=options.remove_source,
            dry_run=options.dry_run,
            scenes=known,
            thorough=options.verify,
            remake_changed=options.remake_changed,
            limits=Limits(
                bytes=round(options.max_download_gigabytes * GIGABYTE),
                seconds=options.download_timeout,
                archive_bytes=round(options.max_archive_gigabytes * GIGABYTE),
            ),
        )
        try:
            _run(preparation, options)
        finally:
            _print_table(preparation, store, is_dry=options.dry_run)
    _check(preparation, options)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser("prepare", description=DESCRIPTION, examples=EXAMPLES)
    add, positive, frames = parser.add_argument, whole_number(1), whole_number(1, MOST_FRAMES)
    add("sources", nargs="*", type=input_place, metavar="SOURCE", help="list of sources, URL, video, folder, archive "
        "or pattern")  # fmt: skip
    add("--output", required=True, type=output_place, metavar="STORE", help="clip store: a folder, s3://BUCKET/NAME or "
        "gs://BUCKET/NAME")  # fmt: skip
    add("--dry-run", action="store_true", help="check links and files and list what would be made; write nothing")
    add("--verify", action="store_true", help="check every clip's checksum; with sources, make damaged ones again, "
        "and compare every byte of local sources with what they were")  # fmt: skip
    add("--remake-changed", action="store_true", help="make the scenes of local sources again that hold something else "
        "than when they were made")  # fmt: skip
    add("--strict", action="store_true", help="end with status 2 if anything of any source could not be made")
    add("--first-scene", type=whole_number(0), default=FIRST_SCENE, metavar="N", help="number of the first scene "
        f"(default {FIRST_SCENE})")  # fmt: skip
    add("--scene-length", type=frames, default=120, metavar="N", help="frames of a scene (default 120)")
    add("--cut", choices=["fixed", "detected", "whole"], help="where to cut (see above)")
    add("--minimum-size", type=frames, metavar="N", help=f"fewest pixels of height and width (default "
        f"{ORIGINAL_MINIMUM_SIZE}; 1 for what is named here and local)")  # fmt: skip
    add("--minimum-length", type=frames, metavar="N", help=f"fewest frames of a detected scene (default "
        f"{DETECTED_MINIMUM}) or of a video shorter than a scene (default {WHOLE_MINIMUM})")  # fmt: skip
    add("--max-scenes", type=frames, metavar="N", help=f"most scenes of a source, spread evenly (default {RESERVED} "
        "where their number is not known beforehand)")  # fmt: skip
    add("--downscale", type=frames, default=1, metavar="F", help="average F x F pixels; 2 hides softness")
    add("--encoding", choices=["lossy", "lossless", "original"], default="lossy", help="lossy: visually lossless "
        "(default); original: keep the bytes of videos that are one scene")  # fmt: skip
    add("--start-frame", type=whole_number(0, MOST_FRAMES), default=0, metavar="A", help="first frame of every source "
        "to use")  # fmt: skip
    add("--end-frame", type=frames, metavar="B", help="frame to stop before (default: the end)")
    add("--downloads", type=input_path, metavar="DIR", help="folder for downloads, shared if machines are to resume "
        "each other's (default: STORE/downloads, ./downloads for a remote store)")  # fmt: skip
    add("--max-download-gigabytes", type=number(1e-6, 1e9), default=ORDINARY.bytes / GIGABYTE, metavar="N",
        help="largest download (default %(default)g)")  # fmt: skip
    add("--download-timeout", type=number(1, 1e9), default=ORDINARY.seconds, metavar="SECONDS", help="time of one "
        "download, further attempts included; it goes on with the same command (default %(default)g)")  # fmt: skip
    add("--max-archive-gigabytes", type=number(1e-6, 1e9), default=ORDINARY.archive_bytes / GIGABYTE, metavar="N",
        help="most that is unpacked of an archive (default %(default)g)")  # fmt: skip
    add("--remove-source", action="store_true", help="delete a download when its scenes are made")
    add("--workers", type=positive, metavar="N", help=f"sources at a time; 1: in this process, more: on Ray (default "
        f"{INPUTS_AT_A_TIME} where something is fetched or on a cluster, else 1)")  # fmt: skip
    add("--address", help="Ray cluster to use (default: $RAY_ADDRESS, else this machine)")
    options = parser.parse_args(argv)
    if not options.sources and not options.verify:
        parser.error("give at least one SOURCE")
    return options


def _sources(argument: str, options: argparse.Namespace) -> list[Source]:
    """The sources that an argument names, with the options for what a list leaves open."""
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
    return [make({"source": argument}, name=shown_url(argument), **settings)]


def _print_damaged(store: Location, scenes: Scenes, options: argparse.Namespace) -> set[int]:
    """The numbers of scenes whose clips are not what was written, after printing each."""
    damaged, has_bar = set(), sys.stderr.isatty()
    with (
        contextlib.closing(verified(store, scenes, workers=options.workers, address=options.address)) as verdicts,
        Progress(len(scenes), unit="scene", what="verified") as progress,
    ):
        for scene, problem in verdicts:
            progress.advance()
            if problem is not None:
                damaged.add(scene.number)
                if has_bar:
                    print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # above the bar
                print(f"scene {scene.number}: {problem}", flush=True)
    print(f"{len(scenes) - len(damaged)} of {len(scenes)} scenes of {store} are what was written.", flush=True)
    return damaged


def _run(preparation: Preparation, options: argparse.Namespace) -> None:
    """Make what is missing; shows a bar on a terminal, and a line for every scene elsewhere."""
    todo = preparation.todo()
    if not todo:
        return
    counts = [preparation.results[plan].missing for plan in todo]
    total = None if None in counts else sum(count for count in counts if count is not None)
    has_bar = sys.stderr.isatty()

    def watch(_plan: InputPlan, event: Event) -> None:
        text = ""
        if isinstance(event, Scene):
            text = (
                f"scene {event.number}: {event.frames} frames {event.width}x{event.height} of {event.source} from "
                f"frame {event.source_start}"
            )
        elif isinstance(event, News):
            text = event.text
        if isinstance(event, Finished if options.dry_run else Scene):
            progress.advance()
        if text and not has_bar:
            print(text, flush=True)
        elif isinstance(event, News):
            print(f"\r\x1b[K{text}", file=sys.stderr, flush=True)  # above the bar

    unit = "source" if options.dry_run else "scene"
    with Progress(len(todo) if options.dry_run else total, unit=unit) as progress:
        preparation.run(workers=options.workers, address=options.address, watch=watch)


def _print_table(preparation: Preparation, store: Location, *, is_dry: bool) -> None:
    print(f"{'to do' if is_dry else 'made':>7} {'there':>7} {'missing':>7}  source")
    for plan, result in preparation.results.items():
        missing = "?" if result.missing is None else result.missing
        counts = (missing, result.there, "") if is_dry else (result.made, result.there, missing)
        remark = result.problem or result.note
        name = remark if remark.startswith(plan.name) else f"{plan.name}{': ' if remark else ''}{remark}"
        print("{:>7} {:>7} {:>7}  ".format(*counts) + name)
    count = len(preparation.scenes())
    failed = sum(bool(result.problem) for result in preparation.results.values())
    rest = ""
    if failed:
        total = len(preparation.results)
        rest = f"; {failed} of {total} inputs could not be used in full, see the table (--strict makes that an error)"
    print(f"{store} holds {count} scene{'' if count == 1 else 's'}{rest}.", flush=True)


def _check(preparation: Preparation, options: argparse.Namespace) -> None:
    """Raise :class:`UserError` if nothing can be used, or with --strict not everything."""
    results = preparation.results.values()
    failed = [result for result in results if result.problem]
    usable = sum(result.made + result.there for result in results)
    if options.dry_run:
        usable = len(results) - len(failed)
    if failed and (options.strict or not usable):
        raise UserError(f"{len(failed)} of {len(results)} inputs could not be used in full, see the table.")
    if not usable:
        raise UserError("no scene was made: the inputs hold too few frames.")
