"""The one way from a path to weights: a file, a checkpoint or a run's folder, local or remote, verified."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import check_regular
from tecogan_dist.base.storage import Location
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.published.names import resolve
from tecogan_dist.runs.checkpoints import (
    CHECKPOINT_PREFIX,
    EMA_FILE,
    OWN_FILES,
    STATE_FILE,
    WEIGHTS_FILE,
    checkpoint_name,
    is_checkpoint_name,
    newest_checkpoint,
    opened,
)
from tecogan_dist.weights.format import SUFFIX, Weights, read_weights_file


def read_weights(place: str | Path | Location) -> Weights:
    """The weights that ``place`` stands for: a .safetensors file, a checkpoint, or a run with its newest checkpoint.

    A word of the catalogue (:mod:`tecogan_dist.published`) stands for what is published, which is fetched if need be.

    Of a checkpoint, also when its file is named, the checksum is verified; one that was not written to its end is never
    taken. Raises :class:`UserError` where there are none, or damaged ones.
    """
    location = weights_file(place)
    with verified(location) as file:
        return read_weights_file(file, name=location)


def weights_file(place: str | Path | Location) -> Location:
    """The file of the weights that ``place`` stands for, as :func:`read_weights` takes it; for :func:`verified`."""
    location = Location.of(resolve(place, "weights"))
    if location.is_file():
        if not location.name.endswith(SUFFIX):
            raise UserError(
                f"{location} is not a {SUFFIX} file: make one of a TensorFlow checkpoint, or of TecoGAN-PyTorch's .pth "
                "file, with 'tecogan convert'."
            )
        return location
    if location.is_local and os.path.lexists(location.path) and not os.path.isdir(location.path):
        check_regular(location.path, what="weights file")  # a FIFO, a device, a link to nothing: it says which
    checkpoint = location if (location / STATE_FILE).exists() else newest_checkpoint(location)
    if checkpoint is None:
        raise _no_weights(location)
    return checkpoint / WEIGHTS_FILE


def load_upscaler(place: str | Path | Location, device: torch.device | str) -> RecurrentUpscaler:
    """The upscaler that :func:`read_weights` finds: on ``device``, in eval mode, channels_last (the faster layout)."""
    return upscaler_of(read_weights(place)).to(device).to(memory_format=torch.channels_last)


def upscaler_of(weights: Weights) -> RecurrentUpscaler:
    """The upscaler that the weights are of, in eval mode, on the CPU and with their memory."""
    with torch.device("meta"):
        upscaler = build_upscaler(weights.model, degradation=weights.degradation)
    upscaler.load_state_dict(weights.upscaler, assign=True)
    if weights.warm_up is not None:
        upscaler.warm_up = weights.warm_up
    return upscaler.eval()


def measured_weights(run: Location, step: int) -> Location:
    """The file of the weights whose score a run has recorded for ``step``: their average, where there is one.

    If that step's checkpoint is not kept any more, it is the newest one's. Raises :class:`UserError` if there is none.
    """
    kept = run / checkpoint_name(step)
    checkpoint = kept if (kept / STATE_FILE).exists() else newest_checkpoint(run)
    if checkpoint is None:
        raise _no_weights(run)
    average = checkpoint / EMA_FILE
    return average if average.exists() else checkpoint / WEIGHTS_FILE


@contextlib.contextmanager
def verified(file: Location) -> Iterator[Path]:
    """A weights file here on a local disk, its checksum verified if it is a checkpoint's. Raises :class:`UserError`."""
    file = file.absolute()  # links and a command that runs inside the checkpoint's folder lead there too
    checkpoint = file.parent
    if (checkpoint / STATE_FILE).exists():
        with opened(checkpoint, only=(file.name,)) as folder:
            yield folder / file.name
    elif is_checkpoint_name(checkpoint.name) and file.name in OWN_FILES:
        raise _cut_off(checkpoint)
    elif file.is_local:
        yield file.path
    else:
        with tempfile.TemporaryDirectory(prefix="tecogan_weights_") as folder:
            file.fetch(Path(folder) / file.name)
            yield Path(folder) / file.name


def _no_weights(place: Location) -> UserError:
    if (place / WEIGHTS_FILE).exists():
        return _cut_off(place)
    return UserError(
        f"no weights are at {place}: give a {SUFFIX} file, a complete checkpoint folder (with {STATE_FILE} and "
        f"{WEIGHTS_FILE} in it) or a run's folder (with folders {CHECKPOINT_PREFIX}* in it)."
    )


def _cut_off(checkpoint: Location) -> UserError:
    return UserError(
        f"{checkpoint} is a checkpoint that was not written to its end ({STATE_FILE} is missing): give another one."
    )
