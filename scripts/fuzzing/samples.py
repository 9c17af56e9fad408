"""Real inputs of every kind, made by the package itself: what is changed afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import io
import itertools
import json
import shlex
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from fuzzing import answers
from tecogan_dist.base.lock import WriterLock
from tecogan_dist.base.storage import Location
from tecogan_dist.commands import (
    convert,
    doctor,
    evaluate,
    export,
    fetch,
    list_runs,
    prepare,
    status,
    submit,
    train,
    tune,
    upscale_options,
)
from tecogan_dist.config.load import from_tree, to_tree
from tecogan_dist.config.schema import Config, DataConfig
from tecogan_dist.data.cache import scene_frames
from tecogan_dist.data.clips import ClipStore
from tecogan_dist.data.stream.windows import WindowConfig, crop_side
from tecogan_dist.data.writing import ClipStoreWriter, write_clip
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.published.cache import Cache, FileRecord
from tecogan_dist.published.catalogue import FILE, parse
from tecogan_dist.runs.folder import RunFolder, write_run_file
from tecogan_dist.training import loop
from tecogan_dist.training.reporter import PlainReporter
from tecogan_dist.training.task import TrainingTask
from tecogan_dist.tuning.folder import write_sweep_file
from tecogan_dist.tuning.reading import read_space
from tecogan_dist.tuning.segments import Pointer, SegmentFolder
from tecogan_dist.video.writer import FrameWriter
from tecogan_dist.weights.pytorch_port import port_name

Files = dict[str, bytes]
"""A folder: the content of each file, by its path below the folder."""
REPOSITORY = Path(__file__).parents[2]
CHECKPOINTS = REPOSITORY / "tests" / "weights" / "checkpoints"
"""Small ones that TensorFlow wrote."""
SPACES = REPOSITORY / "tune_spaces"
DATA = "/store"
"""The clip store of the sample run, which nothing opens."""
TREE: dict[str, Any] = {
    "steps": 2,
    "batch_size": 1,
    "model": {"blocks": 1, "channels": 8, "flow_width": 4},
    "loss": {"perceptual": 0},
    "data": {"sequence_length": 3, "crop_size": 16},
    "optimizer": {"ema_decay": 0.9},
    "tracking": {"display_every": 1, "save_every": 1},
}
LIST = """
sources:
  - source: https://vimeo.com/121649159
    starts: [0, 310, 460]
  - {source: films/*.mkv, minimum_length: 48, downscale: 2}
  - {hr: sharp/*, lr: bicubic/*}
"""
CATALOGUE = """
tecogan: {kind: weights, about: a, file: model.zip, addresses: [], licence: b, trained_on: c, member: TecoGAN}
packed: {kind: weights, about: a, file: model.tar.gz, addresses: [], licence: b, trained_on: c, member: TecoGAN}
scenes: {kind: scenes, about: a, file: scenes.zip, addresses: [], licence: b, trained_on: c}
"""
"""One entry that is in the cache, and two whose files somebody has put there."""
COMMANDS = {
    "convert": convert,
    "doctor": doctor,
    "evaluate": evaluate,
    "export": export,
    "fetch": fetch,
    "list": list_runs,
    "prepare": prepare,
    "status": status,
    "submit": submit,
    "train": train,
    "tune": tune,
    "upscale": upscale_options,
}


def config() -> Config:
    """Of the sample run."""
    return from_tree(TREE, source="the sample")


def make(kinds: Sequence[str], folder: Path) -> dict[str, list[Files]]:
    """The samples of each kind; ``folder`` is for what has to be on a disk to be read."""
    torch.set_num_threads(1)
    made = {}
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        made[kind] = MAKERS[kind](folder / kind)
    return made


def files_of(folder: Path) -> Files:
    """All files below a folder, but for locks."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def write(files: Files, folder: Path) -> None:
    """Make a new folder of these files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def frames(count: int, *, height: int = 48, width: int = 64) -> Iterator[np.ndarray]:
    """Coloured noise that moves, (height, width, 3) uint8."""
    noise = np.random.default_rng(1).integers(0, 255, (height, width + count, 3), dtype=np.uint8)
    yield from (noise[:, index : index + width] for index in range(count))


def _film(folder: Path, suffix: str, pix_fmt: str = "yuv420p") -> bytes:
    path = folder / f"film{suffix}"
    with FrameWriter(path, rate=Fraction(25), pix_fmt=pix_fmt) as writer:
        for frame in frames(6):
            writer.write(frame)
    return path.read_bytes()


def _videos(folder: Path) -> list[Files]:
    return [{f"film{suffix}": _film(folder, suffix)} for suffix in (".mp4", ".mkv", ".avi")]


def _pictures(kind: str, modes: tuple[str, ...]) -> list[Files]:
    found = []
    for mode in modes:
        pictures = {}
        for index, frame in enumerate(frames(2)):
            file = io.BytesIO()
            Image.fromarray(frame).convert(mode).save(file, kind)
            pictures[f"frames/{index:04d}.{kind}"] = file.getvalue()
        found.append(pictures)
    return found


def _archives(folder: Path) -> list[Files]:
    return [{"films.zip": _zip(_pictures("png", ("RGB",))[0] | {"film.mp4": _film(folder, ".mp4")})}]


@functools.cache
def _run(folder: Path) -> Files:
    place, made = Location.of(folder / "run"), config()
    write_run_file(RunFolder(path=place, checkpoint=None, resume_from=None), config=made, data=Location(DATA))
    task = TrainingTask(config=made, data=Location(DATA), training_scenes=(), validation_scenes=(), output=place)
    with contextlib.redirect_stdout(io.StringIO()):
        loop.train(task, device=torch.device("cpu"), reporter=PlainReporter(), stream=_noise)
    scores = {"1": {"psnr": 20.0, "tof": 0.5}, "2": {"psnr": 21.0, "tof": 0.4}}
    (place / "scores.json").write_bytes(json.dumps(scores).encode())
    return {name: data for name, data in files_of(folder).items() if "events.out" not in name}


def _noise(
    _store: Location, *, data: WindowConfig, batch_size: int, first_step: int, steps: int, **_: Any
) -> Iterator[Tensor]:
    side = crop_side(data)
    for step in range(first_step, first_step + steps):
        generator = torch.Generator().manual_seed(step)
        yield torch.randint(
            0, 256, (batch_size, data.sequence_length, side, side, 3), dtype=torch.uint8, generator=generator
        )


def _weights(folder: Path) -> list[Files]:
    run = _run(folder.parent / "trained")
    names = [name for name in run if name.endswith(("weights.safetensors", "ema.safetensors"))]
    return [{"weights.safetensors": run[name]} for name in names]


def _tensorflow(_folder: Path) -> list[Files]:
    content = files_of(CHECKPOINTS)
    prefixes = sorted({name.partition(".")[0] for name in content})
    return [{name: data for name, data in content.items() if name.startswith(f"{prefix}.")} for prefix in prefixes]


def _state_dict(_folder: Path) -> list[Files]:
    generator = torch.Generator().manual_seed(1)
    state = {
        f"features.{i}.{name}": torch.randn(2, 3, generator=generator) for i in (0, 3) for name in ("weight", "bias")
    }
    found = []
    for content, is_zip in itertools.product((state, _port()), (True, False)):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=is_zip)
        found.append({"weights.pth": file.getvalue()})
    return found


def _port() -> dict[str, Tensor]:
    """A small generator of TecoGAN-PyTorch."""
    torch.manual_seed(1)
    state = build_upscaler(dataclasses.replace(config().model, arithmetic="pytorch_port")).state_dict()
    return {port_name(name): tensor for name, tensor in state.items()}


def _store(folder: Path) -> list[Files]:
    """A store, and as it is while it is written: with a row in the index and one in a part."""
    for number in (2000, 2001):
        with ClipStoreWriter(folder / "store") as writer:
            scene = write_clip(
                writer.location,
                number,
                frames(6, height=80, width=96),
                rate=Fraction(25),
                source="made",
                source_start=0,
                downscale=1,
            )
            writer.enter(scene)
            while_written = files_of(folder)
    return [files_of(folder), while_written]


def _cache(folder: Path) -> list[Files]:
    """The store, and what a machine keeps of it."""
    found = _store(folder)[0]
    store = Location.of(folder / "store")
    for scene in ClipStore.open(store).scenes:
        for _ in scene_frames(store, scene, range(1), cached(folder)):
            pass
    content = files_of(folder / "cache")
    return [found | {f"cache/{name}": data for name, data in content.items() if "locks/" not in name}]


def cached(folder: Path) -> DataConfig:
    """Settings of a run that keeps decoded frames below a folder."""
    return dataclasses.replace(config().data, decoded_cache=True, cache_dir=str(folder / "cache"))


def _lock(folder: Path) -> list[Files]:
    with WriterLock(Location.of(folder)):
        return [{".lock": (folder / ".lock").read_bytes()}]


def _sweep(folder: Path) -> list[Files]:
    output = Location.of(folder / "sweep")
    write_sweep_file(output, space=read_space(SPACES / "smoke.yaml"), config=config(), data=Location(DATA))
    run = _run(folder.parent / "trained")
    trial = output / "trials" / "0000"
    write({name.removeprefix("run/"): data for name, data in run.items() if "safetensors" not in name}, trial.path)
    origin = Pointer(trial="0001", folder="trials/0001", checkpoint="checkpoint_00000001", step=1, weights="0" * 64)
    SegmentFolder(
        folder=trial, values={"loss.pingpong": 0.5}, origin=origin, began=1.5, times={1: 2.5, 2: 3.5}, passed=1
    ).write()
    return [{name: data for name, data in files_of(folder).items() if name.startswith("sweep/")}]


def _words(_folder: Path) -> list[Files]:
    lines = [(name, example) for name, command in COMMANDS.items() for example in command.EXAMPLES]
    words = [[name, *shlex.split(example.partition(" -- ")[0])[2:]] for name, example in lines]
    return [{"words.json": json.dumps(line).encode()} for line in words]


def _configs(_folder: Path) -> list[Files]:
    texts = [yaml.safe_dump(to_tree(config()), sort_keys=False), yaml.safe_dump(TREE)]
    return [{"config.yaml": text.encode()} for text in texts]


def _catalogues(_folder: Path) -> list[Files]:
    shipped = REPOSITORY / "tecogan_dist" / "published" / FILE
    return [{FILE: shipped.read_bytes()}, {FILE: CATALOGUE.encode()}]


def _published(folder: Path) -> list[Files]:
    """A cache of published files."""
    cache, entry = Cache(folder / "cache"), parse(CATALOGUE, source="the sample")["tecogan"]
    cache.folder.mkdir()
    with cache.replacing(entry) as made:
        (made / "tecogan.safetensors").write_bytes(_weights(folder)[0]["weights.safetensors"])
        origin = FileRecord(bytes=1, sha256="0" * 64)
        cache.keep(made, entry, address="https://example.org/model.zip", download=origin, note="a sample")
    content = files_of(CHECKPOINTS)
    parts = {name.replace("tf_v2.", "TecoGAN."): data for name, data in content.items() if name.startswith("tf_v2.")}
    images = {f"walk/{PurePath(name).name}": data for name, data in _pictures("png", ("RGB",))[0].items()}
    by_hand = {"by-hand/model.tar.gz": _tar(parts), "by-hand/scenes.zip": _zip(images)}
    return [files_of(cache.folder) | by_hand]


def _zip(files: Files) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _tar(files: Files) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return gzip.compress(file.getvalue(), mtime=0)


MAKERS = {
    "video": _videos,
    "png": lambda _: _pictures("png", ("RGB", "L", "P", "RGBA")),
    "jpg": lambda _: _pictures("jpeg", ("RGB", "L", "CMYK")),
    "zip": _archives,
    "weights": _weights,
    "tensorflow": _tensorflow,
    "state_dict": _state_dict,
    "run": lambda folder: [_run(folder.parent / "trained")],
    "store": _store,
    "cache": _cache,
    "lock": _lock,
    "config": _configs,
    "space": lambda _: [{"space.yaml": path.read_bytes()} for path in sorted(SPACES.glob("*.yaml"))],
    "list": lambda _: [{"list.yaml": LIST.encode()}],
    "sweep": _sweep,
    "catalogue": _catalogues,
    "published": _published,
    "words": _words,
    "http": lambda folder: [answers.sample(_film(folder, ".mp4"))],
}
"""How the samples of each kind are made."""
