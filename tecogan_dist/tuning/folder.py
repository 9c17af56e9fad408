"""The output folder of a sweep: whose it is, and whether this command may go on in it."""

from __future__ import annotations

from typing import Any

import pydantic

from tecogan_dist.base.console import printable
from tecogan_dist.base.documents import YAML_BYTES, dump_yaml, parse_yaml
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.leaves import leaves
from tecogan_dist.config.load import from_record, to_tree
from tecogan_dist.config.schema import Config
from tecogan_dist.runs.find import verified, weights_file
from tecogan_dist.runs.folder import CHANGEABLE, check_output, first_difference
from tecogan_dist.runs.owner import OWN_NAMES
from tecogan_dist.tuning.space import Pb2, Pbt, Space

SWEEP_FILE = "sweep.yaml"
"""The space, the resolved config and the clip store of the sweep."""
INITIAL_FILE = "initial.safetensors"
"""The starting weights of all trials."""
TUNE_FOLDER = "tune"
"""Ray Tune's own notes; each command makes them anew, from what the trials' folders hold."""
_SPACE = pydantic.TypeAdapter(Space)
FIXED = ("tracking.validation_scene_count", "tracking.validation_frames", "cluster.precision")
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
    check_output(output)
    notes = output / TUNE_FOLDER
    if notes.is_local and (notes.path.is_symlink() or (notes.path.exists() and not notes.path.is_dir())):
        raise UserError(f"{notes} is not a folder of its own, and a sweep's notes are made anew there: move it away.")
    if not (output / SWEEP_FILE).exists():
        if not set(output.names()) <= set(OWN_NAMES):
            raise UserError(
                f"{output} holds files but no sweep (no {SWEEP_FILE}): give --output a new or empty folder."
            )
        return False
    free = MAY_CHANGE if isinstance(space.scheduler, Pbt | Pb2) else (*MAY_CHANGE, "space.trials")
    ours = _tree(space=space, config=config, data=data)
    difference = first_difference(_read(output / SWEEP_FILE), ours, changeable=free)
    if difference is not None:
        name, before, now = difference
        theirs, ours_shown = printable(before, limit=80), printable(now, limit=80)
        raise UserError(
            f"{output} holds a sweep with {name} {theirs}, not {ours_shown}: give --output a new folder, or set it "
            "back."
        )
    return True


def write_sweep_file(output: Location, *, space: Space, config: Config, data: Location) -> None:
    """Claim the folder for this sweep, or bring its record up to date."""
    tree = _tree(space=space, config=config, data=data)
    (output / SWEEP_FILE).write_bytes(dump_yaml(tree).encode())


def starting_weights(output: Location, given: str | None) -> str | None:
    """Where trials begin: at the sweep's own copy of the weights that were given, once there is one."""
    copy = output / INITIAL_FILE
    return str(copy) if given is not None and copy.exists() else given


def keep_starting_weights(output: Location, given: str) -> str:
    """Copy the weights that trials begin with into the sweep's folder, if they are not there; returns where they are.

    The run that has them may go on. Raises :class:`UserError` if they are damaged.
    """
    copy = output / INITIAL_FILE
    if not copy.exists():
        with verified(weights_file(given)) as file:
            copy.write_bytes(file.read_bytes())
    return str(copy)


def _tree(*, space: Space, config: Config, data: Location) -> dict[str, Any]:
    return {"data": str(data), "space": _SPACE.dump_python(space, mode="json"), "config": to_tree(config)}


def _read(file: Location) -> dict[str, Any]:
    try:
        tree = parse_yaml(file.read_bytes(limit=YAML_BYTES), source=file)
        if not isinstance(tree["data"], str):
            raise TypeError("the clip store is not a text")
        space = _SPACE.dump_python(_SPACE.validate_python(tree["space"]), mode="json")
        config = to_tree(from_record(tree["config"], source=str(file)))
        return {"data": tree["data"], "space": space, "config": config}
    except (UserError, pydantic.ValidationError, KeyError, TypeError) as error:
        reason = str(error).rstrip(".") if isinstance(error, UserError) else "it is not what 'tecogan tune' writes"
        raise UserError(f"{file} is damaged ({reason}): put it right, or give --output a new folder.") from error
