"""Ctrl-C and SIGTERM stay what a command made them, whatever a library that is started sets them to."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from tecogan_dist.base.errors import SIGNALS


@contextlib.contextmanager
def keeping_handlers() -> Iterator[None]:
    """As before when it is left. Ray's own handler prints addresses of its code and ends a process with status 15."""
    before = {kind: signal.getsignal(kind) for kind in SIGNALS}
    try:
        yield
    finally:
        for kind, handler in before.items():
            if handler is not None:
                with contextlib.suppress(ValueError):  # outside the main thread nobody sets any
                    signal.signal(kind, handler)
