"""What libraries say of their own work: nothing below a warning, unless the user wants to hear all of it."""

from __future__ import annotations

import logging
import os

VERBOSE_VARIABLE = "TECOGAN_VERBOSE"
"""``--verbose`` sets it; processes that are started inherit it. In the environment it does the same for any command."""


def is_verbose() -> bool:
    """Whether libraries may say what they like."""
    return os.environ.get(VERBOSE_VARIABLE, "") not in ("", "0")


def be_verbose() -> None:
    """From now on, here and in processes that are started."""
    os.environ[VERBOSE_VARIABLE] = "1"


def quieten(logger: str, level: int = logging.WARNING) -> None:
    """Have a library's logger say nothing below ``level``, unless the user wants to hear it."""
    if not is_verbose():
        logging.getLogger(logger).setLevel(level)
