"""The package's readers, as its commands call them: each takes a folder with an input of its kind."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from fuzzing import answers
from fuzzing.samples import CATALOGUE, COMMANDS, DATA, SPACES, cached, config
from tecogan_dist.base import web
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.failures import sentence
from tecogan_dist.base.lock import WriterLock
from tecogan_dist.base.state_dicts import read_state_dict
from tecogan_dist.base.storage import Location
from tecogan_dist.base.transfers import Limits
from tecogan_dist.commands import list_runs, status
from tecogan_dist.config.load import from_tree, load
from tecogan_dist.data.cache import scene_frames
from tecogan_dist.data.clips import ClipStore, verify
from tecogan_dist.data.prepare import sources
from tecogan_dist.data.prepare.archives import unpack
from tecogan_dist.data.prepare.download import Retrying, describe, fetch
from tecogan_dist.data.writing import ClipStoreWriter
from tecogan_dist.metrics.perceptual import find_trunk
from tecogan_dist.pages.run import render_runs
from tecogan_dist.pages.run_records import read_runs
from tecogan_dist.published.cache import Cache
from tecogan_dist.published.catalogue import FILE, parse
from tecogan_dist.published.fetching import obtain
from tecogan_dist.runs.find import measured_weights, read_weights
from tecogan_dist.runs.folder import AUTO, open_run_folder
from tecogan_dist.runs.overview import Viewer
from tecogan_dist.runs.records import METRICS_FILE, drop_after, read_metrics, read_scores
from tecogan_dist.runs.status import read_restarts
from tecogan_dist.training.begin import begin, find_origin
from tecogan_dist.training.task import TrainingTask, select_scenes
from tecogan_dist.tuning.checks import check_space
from tecogan_dist.tuning.configs import number_of_trials
from tecogan_dist.tuning.folder import check_sweep_folder
from tecogan_dist.tuning.reading import read_space
from tecogan_dist.tuning.segments import SegmentFolder, recorded_values
from tecogan_dist.video.open import open_video
from tecogan_dist.video.properties import read_properties
from tecogan_dist.video.timeline import read_timeline
from tecogan_dist.weights.pytorch_port import convert_port
from tecogan_dist.weights.tensorflow.checkpoint import read_checkpoint
from tecogan_dist.weights.tensorflow.convert import convert
from tecogan_dist.weights.vgg import read_vgg

CPU = torch.device("cpu")

QUICK = Retrying(attempts=2, first_pause=0.01, timeout=1.0)


LONGEST = 200_000
"""Characters of a message. Commands show 2000; far more than an input has were not meant to be shown."""


class Wrong(Exception):
    """A value that should have been refused, or a refusal that is not a sentence."""


def read(kind: str, folder: Path) -> bool:
    """Read an input by all readers of its kind. Whether the first of them gave a value, and did not refuse it."""
    taken = []
    for reader in READERS[kind](folder):
        try:
            reader()
            taken.append(True)
        except Exception as error:
            # Failures of the system that name a file are worded by the command.
            is_failure = isinstance(error, OSError)
            text = str(error) if isinstance(error, UserError) else sentence(error) if is_failure else ""
            if not text:
                raise
            if len(text) > LONGEST:
                raise Wrong(f"a message of {len(text)} characters: {text[:200]!r} ...") from error
            taken.append(False)
    return taken[0]


Readers = Iterable[Callable[[], object]]


def _video(folder: Path) -> Readers:
    """Every frame, as ``upscale`` and ``prepare`` read them, and what a video is beside its frames."""
    (path,) = folder.iterdir()
    yield lambda: sum(1 for _ in open_video(path, threads=1).frames())
    yield lambda: sum(1 for _ in open_video(path, threads=1).previews(32))
    yield lambda: open_video(path, threads=1).count_frames()
    if path.is_file():
        yield lambda: read_properties(path)
        yield lambda: sum(1 for _ in open_video(path, threads=1, timeline=read_timeline(path)).frames(2))
        yield lambda: sum(1 for _ in open_video(path, on_damage="repeat", deep=True).frames())


def _zip(folder: Path) -> Readers:
    (path,) = folder.iterdir()

    def read_all() -> None:
        for video in unpack(path, folder / "unpacked"):
            for _ in open_video(video.path, threads=1).frames():
                pass

    yield read_all


def _weights(folder: Path) -> Readers:
    (path,) = folder.iterdir()
    yield lambda: _finite(path)
    yield lambda: read_vgg(str(path), seed=1)


def _finite(place: Path | Location) -> None:
    weights = read_weights(place)
    for tensor in (*weights.upscaler.values(), *(weights.discriminator or {}).values()):
        if not torch.isfinite(tensor).all():
            raise Wrong("weights that are not finite numbers were taken")


def _tensorflow(folder: Path) -> Readers:
    names = {path.name.split(".data-")[0].removesuffix(".index") for path in folder.iterdir()}
    for name in sorted(names):
        yield functools.partial(read_checkpoint, folder / name)
        yield functools.partial(convert, folder / name, folder / "out.safetensors", overwrite=True)


def _state_dict(folder: Path) -> Readers:
    (path,) = folder.iterdir()
    yield lambda: read_state_dict(path, how_to_get="take another")
    yield lambda: read_vgg(str(path), seed=1)
    yield lambda: find_trunk("alex", path)

    def convert_and_read() -> None:
        convert_port(path, folder / "out.safetensors", overwrite=True)
        _finite(folder / "out.safetensors")

    yield convert_and_read


def _run(folder: Path) -> Readers:
    """What ``train`` and ``upscale`` read of a run, and its state to go on from."""
    place = Location.of(folder / "run")
    yield lambda: open_run_folder(place, config=config(), data=Location(DATA), resume=AUTO)
    yield lambda: _finite(place)
    yield lambda: measured_weights(place, 1)
    yield lambda: read_scores(place)
    task = TrainingTask(config=config(), data=Location(DATA), training_scenes=(), validation_scenes=(), output=place)
    yield lambda: begin(task, CPU, None, origin=find_origin(task, CPU)[0])
    yield lambda: read_metrics(place.path)
    yield lambda: drop_after(place.path / METRICS_FILE, 1)
    yield lambda: read_restarts(place)
    yield lambda: status.lines_of(Viewer(place).look())
    yield lambda: render_runs(read_runs([place]), [None])
    yield lambda: list_runs.lines_of(list_runs.list_runs(Location.of(folder)), width=80)


def _store(folder: Path) -> Readers:
    place = Location.of(folder / "store")
    yield lambda: list(verify(place))
    yield lambda: select_scenes(place, config())

    def read_frames() -> None:
        for scene in ClipStore.open(place).scenes[:3]:
            for _ in itertools.islice(scene_frames(place, scene, range(4), config().data), 10):
                pass

    yield read_frames

    def write() -> None:
        with ClipStoreWriter(place) as writer:
            list(writer.scenes.values())

    yield write


def _cache(folder: Path) -> Readers:
    place = Location.of(folder / "store")

    def read_frames() -> None:
        for scene in ClipStore.open(place).scenes:
            for frame in scene_frames(place, scene, range(4), cached(folder)):
                frame[:8, :8]

    yield read_frames


def _lock(folder: Path) -> Readers:
    def take() -> None:
        with WriterLock(Location.of(folder)) as lock:
            lock.check()

    yield take


def _space(folder: Path) -> Readers:
    (path,) = folder.iterdir()

    def read_and_check() -> None:
        space = read_space(path)
        check_space(space, from_tree({"data": {"validation_scenes": [2000, 2003]}}, source="the config"))
        number_of_trials(space)

    yield read_and_check


def _sweep(folder: Path) -> Readers:
    place = Location.of(folder / "sweep")
    space = read_space(SPACES / "smoke.yaml")
    yield lambda: check_sweep_folder(place, space=space, config=config(), data=Location(DATA))
    yield lambda: recorded_values(place)

    def read_segment() -> None:
        segment = SegmentFolder.read(place / "trials" / "0000")
        if segment is not None:
            segment.measured(every=1)

    yield read_segment


def _words(folder: Path) -> Readers:
    command, *words = json.loads((folder / "words.json").read_bytes())

    def parse() -> None:
        module: Any = COMMANDS[command]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            module.parse(words)

    yield parse


def _http(folder: Path) -> Readers:
    url = (folder / answers.URL_FILE).read_text()

    def ask(question: Callable[[str], object]) -> None:
        with answers.answering((folder / answers.ANSWER_FILE).read_bytes()) as address:
            question(address + url)

    yield lambda: ask(lambda address: fetch(address, folder / "downloads", retrying=QUICK))
    if (folder / answers.ANSWER_FILE).stat().st_size % 4 == 0:  # yt-dlp takes a tenth of a second for either
        yield lambda: ask(lambda address: describe(address, retrying=QUICK))
    again = web.Retrying(attempts=QUICK.attempts, first_pause=QUICK.first_pause, timeout=QUICK.timeout)
    yield lambda: ask(lambda address: web.download(address, folder / "part", limits=Limits(), retrying=again))


def _published(folder: Path) -> Readers:
    """A cache: what is in it, and what was put there by hand; nothing has an address."""
    cache, entries = Cache(folder), parse(CATALOGUE, source="the sample")

    def cached_weights() -> None:
        there = cache.look(entries["tecogan"])
        if there is None:
            raise UserError("it is not there")
        _finite(there.path)

    def by_hand(name: str) -> object:
        return obtain(entries[name], cache, say=lambda _line: None)

    yield cached_weights
    yield functools.partial(by_hand, "scenes")
    yield functools.partial(by_hand, "packed")


READERS: dict[str, Callable[[Path], Readers]] = {
    "video": _video,
    "png": _video,
    "jpg": _video,
    "zip": _zip,
    "weights": _weights,
    "tensorflow": _tensorflow,
    "state_dict": _state_dict,
    "run": _run,
    "store": _store,
    "cache": _cache,
    "lock": _lock,
    "config": lambda folder: [lambda: load(str(folder / "config.yaml"))],
    "space": _space,
    "list": lambda folder: [lambda: sources.load(str(folder / "list.yaml"))],
    "sweep": _sweep,
    "catalogue": lambda folder: [lambda: parse((folder / FILE).read_bytes(), source="the catalogue")],
    "published": _published,
    "words": _words,
    "http": _http,
}
