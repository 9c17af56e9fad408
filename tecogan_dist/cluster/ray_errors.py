"""What is behind an exception that came through Ray."""

from __future__ import annotations

from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError

from tecogan_dist.base.errors import UserError

ACTOR_GONE = RayActorError, OutOfMemoryError
"""What a call raises whose actor is gone or does not answer; the second if Ray ended it for want of memory."""


def find_user_error(error: BaseException) -> UserError | None:
    """The :class:`UserError` behind an exception that came through Ray, or None.

    Ray wraps what a task raised, Ray Data and Ray Train wrap it again, each with another attribute to look into.
    """
    waiting, seen = [error], set[int]()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        # Ray derives a class from UserError on the way; its text holds the remote trace, the original's does not.
        cause = getattr(current, "cause", None)
        if isinstance(current, UserError) and not isinstance(cause, BaseException):
            return UserError(str(current).splitlines()[0])  # Ray Data adds lines of advice to the sentence
        inner: list[Any] = [cause, current.__cause__, getattr(current, "controller_failure", None)]
        inner += list((getattr(current, "worker_failures", None) or {}).values())
        waiting += [other for other in inner if isinstance(other, BaseException)]
    return None


def behind_controller(failure: BaseException) -> BaseException:
    """What made Ray Train's controller fail, or ``failure`` itself if it is something else."""
    cause = getattr(failure, "controller_failure", None)
    return cause if isinstance(cause, BaseException) else failure


def lost_workers(errors: dict[int, Exception]) -> dict[int, RayActorError | OutOfMemoryError]:
    """Of workers' errors by rank those that say that the worker's process is gone or does not answer."""
    # Ray Train wraps what it met when it asked a worker how it is.
    causes = {rank: getattr(error, "health_check_failure", error) for rank, error in errors.items()}
    return {rank: cause for rank, cause in causes.items() if isinstance(cause, ACTOR_GONE)}
