"""How a Ray job is stopped, as its driver sees it: whether it will have time for a checkpoint."""

from __future__ import annotations

import os

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""Seconds between the request to stop a job and the end by force. Ray reads it where it runs the job's command, which
has the head's environment and the job's own, and 3 where it is missing."""
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the environment of a job's command, and nowhere else."""


def warn_of_short_stops() -> None:
    """Say so if this is the command of a Ray job that Ray would end 3 seconds after it is asked to stop."""
    if IN_JOB in os.environ and STOP_WAIT not in os.environ:
        print(
            "note: 'ray job stop' would kill this job after 3 seconds, and what it did since its last checkpoint would "
            f"be lost: submit it with 'tecogan submit', or start the head with {STOP_WAIT}=600.",
            flush=True,
        )
