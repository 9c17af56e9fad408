"""From a fetched file to what the cache holds of it: our weights files, checked, and folders of images."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tecogan_dist.base.errors import UserError
from tecogan_dist.published.catalogue import Entry
from tecogan_dist.published.unpacking import unpack_checkpoint, unpack_scenes
from tecogan_dist.weights.format import SUFFIX, read_weights_file
from tecogan_dist.weights.tensorflow.convert import convert
from tecogan_dist.weights.vgg import read_vgg, save_vgg

ANOTHER = "take another copy"


def make(entry: Entry, source: Path, folder: Path) -> str:
    """Fill the empty ``folder`` from the fetched file ``source``; returns what it has become, for the record.

    The folder then holds one file, or folders of images. Raises :class:`UserError` for a file that is not what the
    catalogue says.
    """
    if entry.kind == "scenes":
        scenes = unpack_scenes(source, folder, wanted=entry.scenes)
        frames = [len(list((folder / scene).iterdir())) for scene in scenes]
        return ", ".join(f"{scene} ({count} frames)" for scene, count in zip(scenes, frames, strict=True))
    if entry.kind == "lpips":
        shutil.copyfile(source, folder / entry.file)  # the reader takes torchvision's file, without executing it
        return "torchvision's file as it is"
    return _make_weights(entry, source, folder / f"{entry.name}{SUFFIX}")


def _make_weights(entry: Entry, source: Path, target: Path) -> str:
    # Beside the target: the disk that has room for it, and a folder that a killed process leaves is removed with it.
    with tempfile.TemporaryDirectory(prefix="unpacked_", dir=target.parent) as place:
        if entry.member:
            checkpoint = unpack_checkpoint(source, Path(place), name=entry.file, member=entry.member)
            convert(checkpoint, target)
        else:
            readable = Path(place) / entry.file
            readable.symlink_to(source.resolve())  # by its own name, whose ending says what it is
            save_vgg(target, read_vgg(str(readable), seed=0, how_to_get=ANOTHER))
    if entry.kind == "vgg":
        return f"VGG19, inputs as {read_vgg(str(target), seed=0, how_to_get=ANOTHER).preprocessing} has them"
    weights = read_weights_file(target)
    if entry.blocks is not None and weights.model.blocks != entry.blocks:
        raise UserError(
            f"the weights have {weights.model.blocks} residual blocks and not {entry.blocks}: they are others than "
            f"{entry.name}."
        )
    model = weights.model
    return f"upscaler with {model.blocks} residual blocks of {model.channels} channels, step {weights.step}"
