"""The one exception a user is meant to see, and the one way in which a command begins, speaks and ends.

This module imports next to nothing: what it imports, Ctrl-C in the first moment would meet before it is ready.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

FAILED, DEFECT, INTERRUPTED, CLOSED_PIPE = 2, 70, 130, 141
"""Statuses. The last is what a shell reports of any program whose reader is gone: 128 and the number of SIGPIPE."""
TRACE_VARIABLE = "TECOGAN_TRACE"
LONGEST_ERROR = 2000
"""Characters of a sentence."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SPIN_VARIABLE, SPINS = "GOMP_SPINCOUNT", "1000"
"""How often a thread of OpenMP looks for its next work before it sleeps: some 50 us. GCC's own 300,000 keep a CPU for
milliseconds that others need. A step of the upscaler with 2 threads on 2 cores: 0.16 s either way while they are idle;
beside two busy processes 0.38 s, and 0.5 to 4 s with GCC's."""

TYPE_CHECKING = False  # typing's own takes a while to import, and type checkers know this one
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    Main = Callable[[list[str] | None], None]


class UserError(ValueError):
    """Something the user can put right.

    Its text is one sentence that says what is wrong and what to do. Commands print it without a stack trace; what is
    neither this nor a failure of the system that the user can mend is a defect of ours, and its trace is kept.
    """


def run_command(main: Main, argv: list[str] | None = None) -> None:
    """Run a command's ``main``; return when it is done, else raise ``SystemExit`` with a status, never anything else.

    Statuses: 2 a :class:`UserError`, or a failure of the system that the user can mend; 70 a defect of ours, whose
    trace is in a file; 130 interrupted by Ctrl-C or SIGTERM; 141 the pipe that it printed to was closed; else what
    ``main`` itself raised. With ``TECOGAN_TRACE=1`` in the environment traces are printed, too. Without ``argv`` the
    process is taken to be the command's own, and about to end.
    """
    signals = _Signals()
    try:
        signals.begin()
        if "OMP_WAIT_POLICY" not in os.environ:  # before torch is imported; processes that are started inherit it
            os.environ.setdefault(SPIN_VARIABLE, SPINS)
        status = _run(main, argv, signals)
    except KeyboardInterrupt:  # in the first moment, or another one while the first was dealt with
        status = INTERRUPTED
        if not signals.said:
            os.write(2, b"interrupted\n")
    finally:
        if argv is not None:
            signals.end()
    if argv is None:
        signals.end_with(status or 0)
        gc.freeze()  # what is left goes with the process: Python would look through a million objects, for 0.7 s
    if argv is None and status and not os.environ.get(TRACE_VARIABLE):
        from tecogan_dist.base import console

        console.silence()  # all has been said: libraries that are torn down would add traces
    if status is not None:
        sys.exit(status)


def run_module(name: str, argv: list[str] | None) -> None:
    """Import a command's module and run its ``main``, as the ``main`` of :func:`run_command`.

    While it is imported, which takes seconds, Ctrl-C and SIGTERM end the process at once: nothing has begun, and
    libraries that are being imported do not all pass a ``KeyboardInterrupt`` on. ``KEPT`` of the module says what an
    interruption leaves and how to go on.
    """
    signals = _Signals()
    signals.begin(at_once=True)
    try:
        import importlib

        from tecogan_dist.base.garbage import collect_rarely

        collect_rarely()
        module: Any = importlib.import_module(name)
    finally:
        signals.end()
    try:
        module.main(argv)
    except (KeyboardInterrupt, SystemExit) as error:
        # While a cluster is joined, Ray has SIGTERM end a process with its own number as status.
        if isinstance(error, SystemExit) and error.code != signal.SIGTERM:
            raise
        kept = error.args if isinstance(error, KeyboardInterrupt) and error.args else (getattr(module, "KEPT", ""),)
        raise KeyboardInterrupt(*kept) from error


def _run(main: Main, argv: list[str] | None, signals: _Signals) -> int | None:
    """The status; None if ``main`` came to its end."""
    from tecogan_dist.base import console

    try:
        console.prepare_streams()
        main(argv)
        console.flush()
    except SystemExit as ended:
        return _ended(ended, signals)
    except BaseException as error:
        return _failed(error, signals)
    return None


def _ended(ended: SystemExit, signals: _Signals) -> int:
    """The status of a command that raised ``SystemExit``, as for its help."""
    from tecogan_dist.base import console

    if signals.arrived:
        return _failed(KeyboardInterrupt(), signals)
    try:
        console.flush()
    except OSError as error:
        return _failed(error, signals)
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or 0
    console.say(f"error: {console.printable(ended.code)}")
    return FAILED


def _failed(error: BaseException, signals: _Signals) -> int:
    """Say what happened, and return the status."""
    from tecogan_dist.base import console
    from tecogan_dist.base.failures import sentence

    if os.environ.get(TRACE_VARIABLE):
        import traceback

        console.say("".join(traceback.format_exception(error)))
    if isinstance(error, KeyboardInterrupt) or signals.arrived:
        signals.said = True
        text = str(error) if isinstance(error, KeyboardInterrupt) else ""
        console.say("interrupted" + (f": {console.printable(text, limit=LONGEST_ERROR)}" if text else ""))
        return INTERRUPTED
    if isinstance(error, OSError) and console.reader_is_gone():
        return CLOSED_PIPE
    text = str(error) if isinstance(error, UserError) else sentence(error)
    if isinstance(error, OSError) and error.filename is None and console.output_is_full():
        text = "there is no space left where the output goes: send it elsewhere, or free some."
    if text:
        console.say(f"error: {console.printable(text, limit=LONGEST_ERROR)}")
        return FAILED
    try:
        from tecogan_dist.base.defects import report

        text = report(error)
    except Exception as another:  # the machine is in such a state that not even this can be done
        text = (
            f"{type(error).__name__}, and no file about it could be written ({type(another).__name__}); please report "
            f"it with what {TRACE_VARIABLE}=1 in the environment shows."
        )
    console.say(f"internal error: {console.printable(text, limit=LONGEST_ERROR)}")
    return DEFECT


class _Signals:
    """Ctrl-C and SIGTERM as a ``KeyboardInterrupt``, or as the end of the process."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self.arrived = False
        self.said = False

    def begin(self, *, at_once: bool = False) -> None:
        """From now on. Not outside the main thread, where Python has no signals."""
        for kind in SIGNALS:
            handler = signal.getsignal(kind)
            # One that is ignored, as by nohup or for what a shell runs in the background, stays ignored.
            if handler is not signal.SIG_IGN and handler is not None:
                try:
                    self._before[kind] = signal.signal(kind, _end_at_once if at_once else self._interrupt)
                except ValueError:
                    return

    def end(self) -> None:
        """As it was."""
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def end_with(self, status: int) -> None:
        """The process is about to end: one that comes while libraries are torn down ends it now, with its status."""
        for kind in self._before:
            signal.signal(kind, lambda _number, _frame: os._exit(status))

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.arrived = True
        raise KeyboardInterrupt


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
