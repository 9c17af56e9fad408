"""Which W&B run the run in a folder is: the same for all its attempts, and no other run's."""

from __future__ import annotations

import hashlib
import json
import secrets

from tecogan_dist.base.storage import Location
from tecogan_dist.config.load import to_tree
from tecogan_dist.config.schema import Config

IDENTITY_FILE = "wandb_identity.txt"
FILE_BYTES = 200


def identity_of(output: Location, config: Config, *, first_step: int) -> str:
    """The id at W&B of the run in ``output``, of which ``first_step`` steps are done: 16 hexadecimal digits.

    It is made of the folder's path and of a random word, which is kept in the folder: the same path on another machine,
    a run begun anew where one was removed, and a copy that goes its own way are runs of their own. So is one without a
    checkpoint that begins again with other settings, as W&B has its first steps already. Raises :class:`UserError` if
    the word can be neither read nor written.
    """
    settings = _hash(json.dumps(to_tree(config), sort_keys=True))
    return _identity(output, settings, begins=first_step == 0)


def sweep_identity(output: Location) -> str:
    """The id at W&B of a sweep's own run, made likewise."""
    return _identity(output, "sweep", begins=False)


def _identity(folder: Location, settings: str, *, begins: bool) -> str:
    file = folder / IDENTITY_FILE
    try:
        word, _, known = file.read_bytes(limit=FILE_BYTES).decode("ascii").strip().partition(" ")
    except (FileNotFoundError, UnicodeDecodeError):
        word = known = ""
    if not word or (begins and known != settings):
        word = secrets.token_hex(8)
        file.write_bytes(f"{word} {settings}\n".encode())
    return _hash(f"{folder.absolute()} {word}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
