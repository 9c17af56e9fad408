"""W&B's client: no question, short waits, and a record on the disk where W&B cannot be reached or refuses.

Read in wandb 0.31. All of it is called in a thread of its own, where training goes on beside it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tecogan_dist.base.console import printable
from tecogan_dist.base.waiting import TooSlowError, within
from tecogan_dist.tracking.wandb_variables import (
    BASE_URL,
    DIR,
    ENTITY,
    GROUP,
    JOB_TYPE,
    KEY,
    MODE,
    NOTES,
    OFFLINE,
    TAGS,
    WandbVariables,
)

START_SECONDS, FINISH_SECONDS, TEARDOWN_SECONDS = 10, 30, 15.0
"""For which W&B is waited for. Its client takes some ten seconds more to give up a start."""
SERVICE = "WANDB_SERVICE"
"""Where the client finds its process: ``3-PID-unix-PATH``, with the number of the process that started it."""
FLUSH_SECONDS = 2.0
"""After which a row is on the disk, should the process be killed; the client's own is 15."""
_open: set[object] = set()
"""This process's runs that have not ended, and starts that are on their way. W&B's own process is one for all of them:
who ends last ends it."""


def start_wandb(
    folder: Path,
    *,
    place: str,
    say: Callable[[str], None],
    variables: WandbVariables,
    identity: str,
    command: str = "",
    settings: dict[str, Any] | None = None,
    **given: Any,
) -> Any:
    """A W&B run that keeps its files in ``folder``, or in WANDB_DIR; ``place`` is what people call that folder.

    ``given`` is ``wandb.init``'s, ``settings`` more of ``wandb.Settings``, ``command`` what W&B shows as the command.
    If W&B does not answer in 20 s, refuses or has no key, the run is recorded offline, and ``say`` is told so in one
    line. None, and a line, if the client cannot be used at all.
    """

    start = object()
    _open.add(start)
    try:
        run = _started(
            folder,
            place=place,
            say=say,
            variables=variables,
            identity=identity,
            command=command,
            settings=settings or {},
            **given,
        )
        if run is not None:
            _open.add(run)
        return run
    finally:
        _open.remove(start)


def _started(
    folder: Path,
    *,
    place: str,
    say: Callable[[str], None],
    variables: WandbVariables,
    identity: str,
    command: str,
    settings: dict[str, Any],
    **given: Any,
) -> Any:
    import wandb

    folder = Path(variables.values.get(DIR, folder))
    place = shlex.quote(variables.values[DIR]) if DIR in variables.values else place
    mode = variables.mode
    problem = "" if mode in ("online", *OFFLINE) else f"it is not used with {MODE}={printable(mode)}"
    advice = "it is sent"
    try:
        _use_no_other_service()
        wandb.setup(wandb.Settings(silent=True))
        limits = _settings(variables, settings)
        folder.mkdir(parents=True, exist_ok=True)
        given = {"dir": str(folder), "id": identity, **given}
        if not problem and mode not in OFFLINE:
            if KEY in variables.values:
                limits.api_key = variables.values[KEY]
            if KEY in variables.values or wandb.login(host=limits.base_url, prompt=False, verify=False):
                with _called_as(command):
                    return wandb.init(settings=limits, mode="online", **given)
            problem, advice = "it has no key here", "with WANDB_API_KEY set, or after 'wandb login', it is sent"
    except Exception as error:  # whatever the client raises
        problem = f"it does not answer ({_reason(error)})"
        if _is_refusal(error):
            problem, advice = f"it refuses the key ({_reason(error)})", "with a key that may write it is sent"
        # Its service would go on trying, and hold the run's name.
        if len(_open) == 1:
            with contextlib.suppress(TooSlowError, Exception):
                within(TEARDOWN_SECONDS, wandb.teardown, what="W&B's client to end")
    try:
        wandb.setup(wandb.Settings(silent=True))
        with _called_as(command):
            run = wandb.init(settings=_settings(variables, settings), mode="offline", **given)
    except Exception as error:
        say(
            f"warning: W&B's client cannot be used ({_reason(error)}): the run goes on without it; check its variables "
            "(WANDB_...), and the same command goes on with what W&B lacks"
        )
        return None
    if problem:
        say(f"warning: W&B: {problem}: the run goes on and is recorded offline; {advice} by '{sync(place, identity)}'")
    return run


def _use_no_other_service() -> None:
    """A command that was started beside a W&B run inherits where that run's service listens: it may end before ours."""
    if f"-{os.getpid()}-" not in os.environ.get(SERVICE, ""):
        os.environ.pop(SERVICE, None)


def _settings(variables: WandbVariables, more: dict[str, Any]) -> Any:
    """Raises what pydantic raises for a value that W&B does not take."""
    import wandb

    own = {
        name: variables.values[variable]
        for name, variable in (
            ("base_url", BASE_URL),
            ("entity", ENTITY),
            ("run_group", GROUP),
            ("run_job_type", JOB_TYPE),
            ("run_notes", NOTES),
        )
        if variable in variables.values
    }
    tags = [tag.strip() for tag in variables.values.get(TAGS, "").split(",") if tag.strip()]
    return wandb.Settings(
        **{
            **own,
            **({"run_tags": tags} if tags else {}),
            "init_timeout": START_SECONDS,
            "finish_timeout": FINISH_SECONDS,
            "finish_timeout_raises": True,
            "resume": "allow",
            "reinit": "create_new",  # a trial's process may still have the run before in it
            "silent": True,  # a worker's terminal is nobody's
            "console": "off",
            "disable_code": True,  # it would be Ray's
            "save_code": False,
            "x_transaction_log_flush_interval": FLUSH_SECONDS,
            **more,
        }
    )


def sync(place: str, identity: str) -> str:
    """The command that sends what was recorded offline, of all attempts in their order."""
    return f"wandb sync {place}/wandb/offline-run-*-{identity}"


def finish_wandb(run: Any, *, say: Callable[[str], None], failed: bool = False) -> None:
    """End a W&B run, and wait for W&B's own process: when ``finish`` of wandb 0.31 comes back, the file of an offline
    run is not written yet, and Ray may end both processes next. Where another run is open here, that one waits for it.

    What W&B has not taken by then stays in the run's files, and ``say`` is told so.
    """
    import wandb

    def finish() -> None:
        run.finish(exit_code=int(failed))
        _open.discard(run)
        if not _open:
            wandb.teardown()

    try:
        within(FINISH_SECONDS + TEARDOWN_SECONDS, finish, what="W&B to take the rest of the run's records")
    except (TooSlowError, Exception) as error:
        say(
            f"warning: W&B has not taken all records of the run ({_reason(error)}): 'wandb sync "
            f"{Path(str(run.dir)).parent}' sends them"
        )
    finally:
        _open.discard(run)


@contextlib.contextmanager
def _called_as(command: str) -> Iterator[None]:
    """The client takes the process's arguments for the command: those of a worker are Ray's own."""
    before = sys.argv
    if command:
        sys.argv = command.split(" ")
    try:
        yield
    finally:
        sys.argv = before


def _is_refusal(error: BaseException) -> bool:
    import wandb

    return isinstance(error, wandb.errors.AuthenticationError) or any(
        word in str(error) for word in ("401", "403", "PERMISSION", "API key")
    )


def _reason(error: BaseException) -> str:
    """The first line of it, or of pydantic's errors the one that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 2 and "validation error" in lines[0]:
        lines = [f"{lines[1]}: {lines[2].partition(' [type=')[0]}"]
    return printable((lines[0] if lines else "").rstrip(".") or type(error).__name__, limit=200)
