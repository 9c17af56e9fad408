"""W&B, which may be out of reach: a short wait, then the run is recorded offline, and a line says how to send it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.waiting import TooSlowError, within

START_SECONDS, FINISH_SECONDS, TEARDOWN_SECONDS = 10, 30, 15.0
"""For which W&B is waited for. Its client takes some ten seconds more to give up a start."""
MODE = "WANDB_MODE"
WITHOUT_NETWORK = ("offline", "disabled", "dryrun")


def start_wandb(folder: Path, *, place: str, say: Callable[[str], None], **settings: Any) -> Any:
    """A W&B run that keeps its files in ``folder``; ``place`` is what people call that folder.

    If W&B does not answer in 20 s or fails, the run is recorded offline, and ``say`` is told so. Raises
    :class:`UserError` if W&B does not accept the key, if there is none, or if the client cannot be used at all.
    """
    import wandb

    limits = wandb.Settings(init_timeout=START_SECONDS, finish_timeout=FINISH_SECONDS, finish_timeout_raises=True)
    if os.environ.get(MODE, "").lower() not in WITHOUT_NETWORK:
        say(f"connecting to W&B, {2 * START_SECONDS} s at most")
    try:
        return wandb.init(dir=str(folder), settings=limits, **settings)
    except Exception as error:  # whatever the client raises
        reason = _reason(error)
        # Its service would go on trying, and hold the run's name.
        with contextlib.suppress(TooSlowError, Exception):
            within(TEARDOWN_SECONDS, wandb.teardown, what="W&B's client to end")
        known = isinstance(error, wandb.errors.AuthenticationError | wandb.errors.UsageError)
        if known or "error 401" in reason or "error 403" in reason:
            raise UserError(
                f"W&B cannot be used ({reason}): set WANDB_API_KEY to a key that may write to the project, or record "
                f"offline with {MODE}=offline."
            ) from error
    try:
        run = wandb.init(dir=str(folder), settings=limits, mode="offline", **settings)
    except Exception as error:
        raise UserError(
            f"W&B's client does not start ({_reason(error)}): check its variables, or leave tracking.wandb_project out."
        ) from error
    say(
        f"warning: W&B does not answer ({reason}): the run goes on and is recorded offline; 'wandb sync "
        f"{place}/wandb/offline-run-*' sends it when W&B can be reached"
    )
    return run


def finish_wandb(run: Any, *, say: Callable[[str], None], failed: bool = False) -> None:
    """End a W&B run, and wait for W&B's own process: when ``finish`` of wandb 0.31 comes back, the file of an offline
    run is not written yet, and Ray may end both processes next.

    What W&B has not taken by then stays in the run's files, and ``say`` is told so.
    """
    import wandb

    def finish() -> None:
        run.finish(exit_code=int(failed))
        wandb.teardown()

    try:
        within(FINISH_SECONDS + TEARDOWN_SECONDS, finish, what="W&B to take the rest of the run's records")
    except (TooSlowError, Exception) as error:
        say(
            f"warning: W&B has not taken all records of the run ({_reason(error)}): 'wandb sync "
            f"{Path(str(run.dir)).parent}' sends them"
        )


def _reason(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return printable(line.rstrip(".") or type(error).__name__, limit=200)
