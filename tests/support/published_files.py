"""A catalogue of a test's own, and archives as they are published, small."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from tecogan_dist.published import catalogue
from tecogan_dist.weights.tensorflow.table import crc32c
from tests.support.tensorflow_files import by_rule, upscaler_shapes, write_v2


@contextmanager
def using(text: str) -> Iterator[None]:
    """With this catalogue in place of the package's, in this process."""
    before = catalogue._text
    catalogue._text = lambda: text
    catalogue.catalogue.cache_clear()
    try:
        yield
    finally:
        catalogue._text = before
        catalogue.catalogue.cache_clear()


def entry(name: str, *addresses: str, kind: str = "weights", more: str = "") -> str:
    """An entry of a catalogue; weights are TecoGAN of 2 blocks in model.zip."""
    member = "\n  member: TecoGAN\n  blocks: 2" if kind == "weights" else ""
    listed = "".join(f"\n    - {address}" for address in addresses) or " []"
    about = "about: a test's\n  file: model.zip\n  licence: none\n  trained_on: nothing"
    return f"{name}:\n  kind: {kind}\n  {about}{member}\n  addresses:{listed}\n{more}"


def checkpoint_zip(*, prefix: str = "TecoGAN", blocks: int = 2, seed: int = 1, folder: str = "") -> bytes:
    """The original's checkpoint in a zip archive, tiny, with the graph beside it that is never read."""
    with tempfile.TemporaryDirectory() as place:
        tensors = by_rule(upscaler_shapes(blocks=blocks, channels=8, flow_width=4), seed=seed)
        write_v2(Path(place) / prefix, tensors, crc32c)
        files = {path.name: path.read_bytes() for path in Path(place).iterdir()}
    return zipped({f"{folder}{name}": data for name, data in files.items()} | {f"{folder}{prefix}.meta": b"graph"})


def scenes_zip(*scenes: str, folder: str = "", frames: int = 2) -> bytes:
    """Folders of small PNG images in a zip archive."""
    return zipped(
        {f"{folder}{scene}/{number:04d}.png": png(number) for scene in scenes for number in range(1, frames + 1)}
    )


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.RandomState(seed).randint(0, 255, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    """A .tar.gz."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()
