"""How often Python looks for unreachable cycles of objects."""

from __future__ import annotations

import gc

ALLOCATIONS = 50_000
"""More objects made than freed before Python looks; its default is 700. Importing torch and Ray makes a million that
stay: looking through them again and again was a fifth of the time that imports took (2.6 instead of 3.4 s)."""


def collect_rarely() -> None:
    """Look through objects less often than Python does by default: in commands, and in workers of a Ray inside one."""
    gc.set_threshold(ALLOCATIONS, *gc.get_threshold()[1:])
