"""A run's checkpoints as artifacts at W&B: by reference where they are on an object store, copied otherwise."""

from __future__ import annotations

from typing import Any

from tecogan_dist.base.storage import Location
from tecogan_dist.runs.checkpoints import OWN_FILES, checkpoint_step

LATEST, BEST = "latest", "best"
TYPE = "model"


def artifact_of(checkpoint: Location, *, identity: str, scores: dict[str, float]) -> Any:
    """Of a complete checkpoint.

    The same checkpoint gives the same content again, of which W&B makes no new version: it only adds the aliases.
    """
    import wandb

    artifact = wandb.Artifact(
        f"checkpoint-{identity}", type=TYPE, metadata={"step": checkpoint_step(checkpoint), **scores}
    )
    if not checkpoint.is_local:
        # Not looked into: the storage's keys are not W&B's, and its client would list and hash every object.
        artifact.add_reference(str(checkpoint), name=checkpoint.name, checksum=False)
        return artifact
    for name in OWN_FILES:
        if (checkpoint / name).is_file():
            # A copy, which waits in WANDB_DATA_DIR: the checkpoint itself may be dropped before it is sent.
            artifact.add_file(str((checkpoint / name).path), name=name, policy="mutable")
    return artifact
