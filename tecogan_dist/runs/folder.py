"""The output folder of a run: whose it is, and whether this command may go on in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tecogan_dist.base.documents import dump_yaml, parse_yaml
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.load import from_record, to_tree
from tecogan_dist.config.schema import Config
from tecogan_dist.runs.checkpoints import find_checkpoint, is_checkpoint_name, newest_checkpoint
from tecogan_dist.runs.owner import OWN_NAMES
from tecogan_dist.runs.records import ELSEWHERE

RUN_FILE = "run.yaml"
"""The resolved config of the run, the clip store it reads and what it was resumed from."""
RUN_BYTES = 2**20
CHANGEABLE = ("steps", "cluster", "tracking", "data.cache_dir", "data.decoded_cache", "data.cache_gigabytes")
"""Settings that may change while a run goes on: they do not change what a step computes."""
AUTO, NEVER = "auto", "never"


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    path: Location
    checkpoint: Location | None
    """The newest one that the run has kept itself."""
    resume_from: Location | None
    """A checkpoint of another run, where this one begins."""


def open_run_folder(output: Location, *, config: Config, data: Location, resume: str) -> RunFolder:
    """Look at ``output`` without changing it. ``resume`` is AUTO, NEVER or a path of another run or checkpoint.

    A folder that is new or empty starts a run; one with a run of the same settings goes on with it. Raises
    :class:`UserError` for everything else.
    """
    elsewhere = find_checkpoint(Location.of(resume).absolute()) if resume not in (AUTO, NEVER) else None
    check_output(output)
    if set(output.names()) <= set(OWN_NAMES):
        return RunFolder(path=output, checkpoint=None, resume_from=elsewhere)
    if not holds_run(output):
        raise UserError(f"{output} holds files but no run (no {RUN_FILE}): give --output a new or empty folder.")
    if resume == NEVER:
        raise UserError(f"{output} already holds a run: give --output a new folder, or --resume auto to go on with it.")
    settings, their_data, begun_from = read_run_file(output / RUN_FILE)
    if elsewhere is not None and begun_from != str(elsewhere):
        raise UserError(
            f"{output} already holds a run that did not begin from {elsewhere}: give --output a new folder."
        )
    difference = first_difference({**settings, "data path": their_data}, {**to_tree(config), "data path": str(data)})
    if difference is not None:
        name, theirs, ours = difference
        raise UserError(
            f"{output} holds a run with {name} {theirs}, not {ours}: give --output a new folder, or set it back."
        )
    return RunFolder(
        path=output,
        checkpoint=newest_checkpoint(output),
        resume_from=None if begun_from is None else Location(begun_from),
    )


def holds_run(output: Location) -> bool:
    """Whether a run was begun there."""
    return (output / RUN_FILE).exists()


def check_output(output: Location) -> None:
    """Raise :class:`UserError` for what cannot be a run's folder: a file, a whole bucket, a link in its place."""
    if not output.is_local:
        if output.is_bucket:
            raise UserError(f"{output} is a whole bucket: give --output a folder in it.")
        return
    if output.path.is_symlink() and not output.exists():
        raise UserError(f"{output} is a symbolic link to what is not there: mend it, or give --output another folder.")
    if output.is_file():
        raise UserError(f"{output} is a file: give --output a folder.")
    if output.exists() and not output.path.is_dir():
        raise UserError(f"{output} is not a folder: give --output a folder.")
    for name in output.names() if output.exists() else ():
        if is_checkpoint_name(name) and (output / name).path.is_symlink():
            raise UserError(
                f"{output / name} is a symbolic link in a checkpoint's place: put the folder itself there, or move the "
                "link away."
            )


def read_run_file(file: Location) -> tuple[dict[str, Any], str, str | None]:
    """The settings of the run, its clip store, and what it was resumed from. Raises :class:`UserError`."""
    try:
        before = parse_yaml(file.read_bytes(limit=RUN_BYTES), source="it")
        tree, data, begun_from = before["config"], before["data"], before["resume_from"]
        if not (isinstance(tree, dict) and isinstance(data, str) and isinstance(begun_from, str | None)):
            raise TypeError("a setting has another type")
        Location(data if begun_from is None else begun_from)
    except (UserError, KeyError, TypeError) as error:
        reason = "it is not what 'tecogan train' writes"
        if isinstance(error, UserError):
            reason = str(error).removesuffix(ELSEWHERE).replace(str(file), "it").rstrip(".")
        raise UserError(f"{file} is damaged ({reason}): put it right, or give --output a new folder.") from error
    # Settings that are newer than the run have their defaults in it.
    return to_tree(from_record(tree, source=str(file))), data, begun_from


def write_run_file(folder: RunFolder, *, config: Config, data: Location) -> None:
    """Claim the folder for this run, or bring its record up to date."""
    begun_from = None if folder.resume_from is None else str(folder.resume_from)
    tree = {"data": str(data), "resume_from": begun_from, "config": to_tree(config)}
    (folder.path / RUN_FILE).write_bytes(dump_yaml(tree).encode())


def first_difference(
    theirs: dict[str, Any], ours: dict[str, Any], *, changeable: Sequence[str] = CHANGEABLE
) -> tuple[str, Any, Any] | None:
    """Dotted name and both values of the first setting that differs and may not; None if there is none."""
    before, now = dict(_flatten(theirs)), dict(_flatten(ours))
    free = tuple(f"{section}." for section in changeable)
    for name in now | before:
        if not f"{name}.".startswith(free) and before.get(name) != now.get(name):
            return name, before.get(name), now.get(name)
    return None


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for name, value in tree.items():
        leaves += _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return leaves
