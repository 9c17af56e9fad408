"""An orderly end where Ctrl-C or SIGTERM asks for one."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stopping_by_signal(stop: Callable[[], None], *, what: str) -> Iterator[None]:
    """Make SIGTERM and Ctrl-C ask for an orderly end; a second one interrupts. ``what`` says what ends, and how."""

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for kind, handler in before.items():
            signal.signal(kind, signal.default_int_handler if kind == signal.SIGTERM else handler)
        print(f"asked to stop: {what} (once more: at once)", flush=True)
        stop()

    # Only now: Ray sets its own when a cluster is joined.
    before = {kind: signal.signal(kind, ask) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
