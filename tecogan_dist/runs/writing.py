"""What a checkpoint's files are made of, and how they are written: by training, and by the conversion of another's run.

The files are written into a local folder first. ``state.json``, which makes a checkpoint of a folder, is for whoever
puts them in their place: it comes last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tecogan_dist.config.schema import Config, ModelConfig
from tecogan_dist.runs.checkpoints import (
    EMA_FILE,
    MOMENTS_FILE,
    WEIGHTS_FILE,
    StateFile,
    TrainingState,
    file_digest,
)
from tecogan_dist.weights.format import save_weights
from tecogan_dist.weights.tensors import write_tensors

NETWORKS = ("upscaler", "discriminator")
"""Each has an optimiser of its own, with a count of its updates."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's first and second moments, as torch.optim.Adam names them."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A run at one step, in memory of its own on the CPU: training may go on while it is written."""

    state: TrainingState
    upscaler: Mapping[str, Tensor]
    discriminator: Mapping[str, Tensor] | None
    average: Mapping[str, Tensor] | None = None
    average_updates: int = 0
    moments: Mapping[str, Tensor]
    """By :func:`moment_name`; none of a network without updates."""
    updates: dict[str, int]
    """Adam's count of updates of each of NETWORKS that there is."""


def moment_name(network: str, kind: str, weight: str) -> str:
    """The name of a weight's moment in ``moments.safetensors``; ``kind`` is one of MOMENTS."""
    return f"{network}.{kind}.{weight}"


def write_files(folder: Path, snapshot: Snapshot, *, model: ModelConfig, run_config: Config | None) -> StateFile:
    """Write all files of a checkpoint but ``state.json`` into a local folder; returns what that has to hold.

    ``run_config`` is None for a run that was not ours. Raises :class:`UserError` if they cannot be written.
    """

    def weights(name: str, upscaler: Mapping[str, Tensor], discriminator: Mapping[str, Tensor] | None) -> None:
        save_weights(
            folder / name,
            upscaler_state=upscaler,
            discriminator_state=discriminator,
            model=model,
            run_config=run_config,
            step=snapshot.state.step,
        )

    written = [WEIGHTS_FILE, MOMENTS_FILE]
    weights(WEIGHTS_FILE, snapshot.upscaler, snapshot.discriminator)
    if snapshot.average is not None:
        weights(EMA_FILE, snapshot.average, None)
        written.append(EMA_FILE)
    write_tensors(folder / MOMENTS_FILE, snapshot.moments, {})
    return StateFile(snapshot.state, snapshot.updates, snapshot.average_updates, _digests(folder, written))


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: file_digest(folder / name) for name in sorted(names)}
