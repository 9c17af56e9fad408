"""W&B's client: no question, short waits, and a record on the disk where W&B cannot be reached or refuses.

Read in wandb 0.31. All of it is called in a thread of its own, where training goes on beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tecogan_dist.base.console import printable
from tecogan_dist.base.waiting import TooSlowError, within
from tecogan_dist.tracking.wandb_variables import (
    BASE_URL,
    DIR,
    DISABLED,
    ENTITY,
    GROUP,
    JOB_TYPE,
    KEY,
    NOTES,
    OFFLINE,
    TAGS,
    WandbVariables,
)

START_SECONDS, FINISH_SECONDS, TEARDOWN_SECONDS = 10, 30, 15.0
"""For which W&B is waited for. Its client takes some ten seconds more to give up a start."""
FLUSH_SECONDS = 2.0
"""After which a row is on the disk, should the process be killed; the client's own is 15."""


def start_wandb(
    folder: Path,
    *,
    place: str,
    say: Callable[[str], None],
    variables: WandbVariables,
    identity: str,
    settings: dict[str, Any] | None = None,
    **given: Any,
) -> Any:
    """A W&B run that keeps its files in ``folder``, or in WANDB_DIR; ``place`` is what people call that folder.

    ``given`` is ``wandb.init``'s, ``settings`` more of ``wandb.Settings``. If W&B does not answer in 20 s, refuses or
    has no key, the run is recorded offline, and ``say`` is told so, in one line. None, and a line, if the client cannot
    be used at all.
    """
    import wandb

    values = variables.values
    folder, place = (Path(values[DIR]), values[DIR]) if DIR in values else (folder, place)
    offline = variables.mode in OFFLINE
    problem = "" if variables.mode in ("online", *OFFLINE, *DISABLED) else f"WANDB_MODE={variables.mode} is not used"
    advice = "it is sent"
    try:
        limits = wandb.Settings(
            **{
                "init_timeout": START_SECONDS,
                "finish_timeout": FINISH_SECONDS,
                "finish_timeout_raises": True,
                # A trial's process may still have the run before in it.
                "reinit": "create_new",
                "resume": "allow",
                # What it prints is a worker's, whom nobody hears.
                "silent": True,
                "console": "off",
                # Of a worker's folder these would be.
                "disable_code": True,
                "save_code": False,
                "x_transaction_log_flush_interval": FLUSH_SECONDS,
                **({"base_url": values[BASE_URL]} if BASE_URL in values else {}),
                **({"entity": values[ENTITY]} if ENTITY in values else {}),
                **({"run_group": values[GROUP]} if GROUP in values else {}),
                **({"run_job_type": values[JOB_TYPE]} if JOB_TYPE in values else {}),
                **({"run_notes": values[NOTES]} if NOTES in values else {}),
                **({"run_tags": _tags(values[TAGS])} if TAGS in values else {}),
                **(settings or {}),
            }
        )
        folder.mkdir(parents=True, exist_ok=True)
        given = {"dir": str(folder), "id": identity, **given}
        if not offline and not problem:
            if KEY in values:
                limits.api_key = values[KEY]
            elif not _has_key(limits):
                problem, advice = "it has no key here", "with WANDB_API_KEY set, or after 'wandb login', it is sent"
    except Exception as error:  # whatever the client raises
        say(_unusable(error))
        return None
    if not offline and not problem:
        try:
            return wandb.init(settings=limits, mode="online", **given)
        except Exception as error:
            problem = f"it does not answer ({_reason(error)})"
            if isinstance(error, wandb.errors.AuthenticationError) or any(
                code in str(error) for code in ("401", "403", "PERMISSION", "API key")
            ):
                problem, advice = f"it refuses the key ({_reason(error)})", "with a key that may write it is sent"
            # Its service would go on trying, and hold the run's name.
            with contextlib.suppress(TooSlowError, Exception):
                within(TEARDOWN_SECONDS, wandb.teardown, what="W&B's client to end")
    try:
        limits.api_key = None
        run = wandb.init(settings=limits, mode="offline", **given)
    except Exception as error:
        say(_unusable(error))
        return None
    if problem:
        say(f"warning: W&B: {problem}: the run goes on and is recorded offline; {advice} by '{sync(place, identity)}'")
    return run


def sync(place: str, identity: str) -> str:
    """The command that sends what was recorded offline, of all attempts in their order."""
    return f"wandb sync {place}/wandb/offline-run-*-{identity}"


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


def _has_key(settings: Any) -> bool:
    """Whether the machine has one: in the environment, or where ``wandb login`` puts it. Asks nobody."""
    import wandb

    return bool(wandb.login(host=settings.base_url, prompt=False, verify=False))


def _tags(text: str) -> list[str]:
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def _unusable(error: BaseException) -> str:
    return (
        f"warning: W&B's client cannot be used ({_reason(error)}): the run goes on without it; check its variables "
        "(WANDB_...), and the same command goes on with what W&B lacks"
    )


def _reason(error: BaseException) -> str:
    """The first line of it, or of pydantic's errors the one that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 2 and "validation error" in lines[0]:
        lines = [f"{lines[1]}: {lines[2].partition(' [type=')[0]}"]
    return printable((lines[0] if lines else "").rstrip(".") or type(error).__name__, limit=200)
