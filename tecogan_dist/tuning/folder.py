"""The output folder of a sweep: whose it is, and whether this command may go on in it."""

from __future__ import annotations

from typing import Any

import pydantic
import yaml

from tecogan_dist.base.documents import parse_yaml
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import LOCK_NAME
from tecogan_dist.base.storage import Location
from tecogan_dist.config.load import from_record, to_tree
from tecogan_dist.config.overrides import leaves
from tecogan_dist.config.schema import Config
from tecogan_dist.runs.folder import CHANGEABLE, first_difference
from tecogan_dist.tuning.space import Pb2, Pbt, Space

SWEEP_FILE = "sweep.yaml"
"""The space, the resolved config and the clip store of the sweep."""
_SPACE = pydantic.TypeAdapter(Space)
FIXED = (
    *("tracking.validation_scene_count", "tracking.validation_frames"),
    *("cluster.precision", "cluster.zero_stage"),
)
MAY_CHANGE = (
    *("space.concurrent", "space.repeat", "space.trial.cpus_per_worker", "space.trial.gpus_per_worker"),
    "space.trial.resources_per_worker",
    *(f"config.{name}" for name, _ in leaves(Config()) if name.startswith(CHANGEABLE) and name not in FIXED),
)
"""What may be otherwise when a sweep goes on: it changes neither what a trial computes nor how it is scored."""


def check_sweep_folder(output: Location, *, space: Space, config: Config, data: Location) -> bool:
    """Whether ``output`` holds this sweep already, without changing anything.

    More trials may be asked for than before, but of a population. Raises :class:`UserError` for a folder with another
    sweep or other files.
    """
    if output.is_local and output.path.is_file():
        raise UserError(f"{output} is a file: give --output a folder.")
    if not (output / SWEEP_FILE).exists():
        if any(name != LOCK_NAME for name in output.names()):
            raise UserError(
                f"{output} holds files but no sweep (no {SWEEP_FILE}): give --output a new or empty folder."
            )
        return False
    free = MAY_CHANGE if isinstance(space.scheduler, Pbt | Pb2) else (*MAY_CHANGE, "space.trials")
    ours = _tree(space=space, config=config, data=data)
    difference = first_difference(_read(output / SWEEP_FILE), ours, changeable=free)
    if difference is not None:
        name, before, now = difference
        raise UserError(
            f"{output} holds a sweep with {name} {before}, not {now}: give --output a new folder, or set it back."
        )
    return True


def write_sweep_file(output: Location, *, space: Space, config: Config, data: Location) -> None:
    """Claim the folder for this sweep, or bring its record up to date."""
    tree = _tree(space=space, config=config, data=data)
    (output / SWEEP_FILE).write_bytes(yaml.safe_dump(tree, sort_keys=False).encode())


def _tree(*, space: Space, config: Config, data: Location) -> dict[str, Any]:
    return {"data": str(data), "space": _SPACE.dump_python(space, mode="json"), "config": to_tree(config)}


def _read(file: Location) -> dict[str, Any]:
    text = file.read_bytes()
    try:
        tree = parse_yaml(text, source=file)
        space = _SPACE.dump_python(_SPACE.validate_python(tree["space"]), mode="json")
        config = to_tree(from_record(tree["config"], source=str(file)))
        return {"data": tree["data"], "space": space, "config": config}
    except (UserError, pydantic.ValidationError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged: give --output a new folder.") from error
