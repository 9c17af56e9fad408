"""The one exception a user is meant to see, and the way a command shows it."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something the user can put right.

    Its text is one sentence that says what is wrong and what to do. Commands print it without a stack trace; every
    other exception is a defect of ours and keeps its trace.
    """


def run_command(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> None:
    """Run a command's ``main`` and end the process: 0 done, 2 a :class:`UserError`, 130 interrupted."""
    try:
        main(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
