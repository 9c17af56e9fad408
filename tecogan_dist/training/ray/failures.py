"""What Ray Train's controller does when workers fail or their number changes, and what the user reads of it."""

from __future__ import annotations

import re
import time
from typing import Any

import ray
import ray.train
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayError
from ray.train import WorkerGroupError

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.internals.ray_train import (
    ControllerCallback,
    PreemptingState,
    ReschedulingState,
    ResizingState,
    WorkerGroupStartupTimeoutError,
)
from tecogan_dist.cluster.ray_errors import ACTOR_GONE, behind_controller, find_user_error, lost_workers
from tecogan_dist.runs.checkpoints import newest_checkpoint

SHOWN_RANKS = 8
_CONNECTION_LOST = re.compile("Connection closed by peer|Connection reset by peer|Broken pipe|ncclRemoteError")
"""What gloo and NCCL say in a worker whose peer is gone."""
SAVING_PATIENCE = 120.0
"""Seconds that a change of the number of workers waits for a checkpoint. The controller does nothing else meanwhile."""


class AfterFailure(ray.train.UserCallback):
    """Runs in the controller when a worker has failed: no new attempt after a :class:`UserError`."""

    def __init__(self, board: Any, *, max_failures: int) -> None:
        self._board, self._max_failures, self._failures = board, max_failures, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        sentence = ray.get(self._board.given_up.remote())
        if sentence is not None:
            raise UserError(sentence)  # ends the run: the controller retries only what failed in workers
        for pid, ip in filter(None, map(_place, lost_workers(worker_exceptions).values())):
            self._board.lost.remote(pid, ip)
        self._failures += 1
        if self._failures <= self._max_failures:
            self._board.say.remote(
                f"{describe(worker_exceptions)}; all start again from the last checkpoint "
                f"({self._failures} of {self._max_failures} times, cluster.max_failures)"
            )


class BeforeChange(ControllerCallback):
    """Runs in the controller: as little work as possible is lost when machines come, go or are missing."""

    def __init__(self, board: Any, *, elastic: bool) -> None:
        self._board, self._elastic = board, elastic

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        if type(current_state) is type(previous_state):
            return
        if isinstance(current_state, ResizingState):
            decision: Any = current_state.scaling_decision
            self._board.say.remote(
                f"the number of workers becomes {decision.num_workers}; all start again from a checkpoint"
            )
            self._save()
        elif isinstance(current_state, PreemptingState):
            self._board.say.remote("a machine is about to be taken away: a checkpoint is written")
            self._board.ask_to_save.remote()
        elif isinstance(current_state, ReschedulingState):
            failure = behind_controller(current_state.training_failed_error)
            if isinstance(failure, WorkerGroupStartupTimeoutError):
                instead = "or going on with fewer" if self._elastic else "cluster.min_workers would go on with fewer"
                self._board.say.remote(f"the cluster has no room for all workers: waiting for machines, {instead}")
            else:
                self._board.say.remote("a worker was lost while it started; all start again")

    def _save(self) -> None:
        """Have a checkpoint written, and wait until it is."""
        deadline = time.monotonic() + SAVING_PATIENCE
        ray.get(self._board.ask_to_save.remote())
        while ray.get(self._board.asked_to_save.remote()) and time.monotonic() < deadline:
            time.sleep(0.2)


def explained(failure: BaseException, output: Location) -> BaseException:
    """What a failed run raises: one sentence for what the user can put right or what died, else the failure itself."""
    problem = find_user_error(failure)
    if problem is not None:
        return problem
    if isinstance(failure, WorkerGroupError):
        if lost_workers(failure.worker_failures) or all(map(_connection_lost, failure.worker_failures.values())):
            what = f"{describe(failure.worker_failures)}, and cluster.max_failures allows no further start"
            return UserError(f"{what}: {same_command(output)}.")
        # Its own text is cut short.
        rank, error = _telling(failure.worker_failures)
        failure.add_note(f"worker {rank}: {error}")
    cause = behind_controller(failure)
    if isinstance(cause, ACTOR_GONE):
        return UserError(f"{_reason(cause)}, and the run needs it: {same_command(output)}.")
    return failure


def same_command(output: Location) -> str:
    """How an interrupted run goes on. Half a sentence."""
    return f"the same command goes on from {newest_checkpoint(output) or 'the beginning'}"


def describe(errors: dict[int, Exception]) -> str:
    """What happened to workers, given their errors by rank. Half a sentence.

    A worker that is gone makes the collectives of the others fail: then only the gone ones are named. Where Ray does
    not know of one yet, the others' lost connection is what is known.
    """
    lost = lost_workers(errors)
    if not lost:
        rank, error = _telling(errors)
        text = (str(error).strip() or "no reason given").splitlines()[-1].rstrip(".")
        if broken := _connection_lost(error):
            return f"worker {rank} lost the connection to another worker ({broken})"
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return f"worker {rank} failed ({kind}{text})"
    ranks = sorted(lost)
    named = ", ".join(str(rank) for rank in ranks[:SHOWN_RANKS]) + (" and more" if len(ranks) > SHOWN_RANKS else "")
    who = f"worker {named} was lost" if len(ranks) == 1 else f"workers {named} were lost"
    return f"{who}: {_reason(lost[ranks[0]])}"


def _telling(errors: dict[int, Exception]) -> tuple[int, Exception]:
    """The first of workers' errors that is more than the echo of another worker's; else the first."""
    return min(errors.items(), key=lambda item: (bool(_connection_lost(item[1])), item[0]))


def _connection_lost(error: Exception) -> str:
    """What a collective says that lacks another worker; empty for all other errors.

    Both backends raise a ``RuntimeError`` of torch's. Ray's errors are such, too, with whatever happened in their text.
    """
    if not isinstance(error, RuntimeError) or isinstance(error, RayError | UserError):
        return ""
    found = _CONNECTION_LOST.search(str(error))
    return found[0] if found else ""


def _reason(error: RayActorError | OutOfMemoryError) -> str:
    if isinstance(error, OutOfMemoryError):
        return "the machine ran out of memory, and Ray ended the process"
    if isinstance(error, ActorUnavailableError):
        return "the machine or process does not answer"
    found = _facts(error)
    if "node has died" in str(error):
        return f"the machine {found.get('ip', '')} is gone"
    place = f" ({found['pid']} on {found['ip']})" if {"pid", "ip"} <= found.keys() else ""
    return f"the process{place} died"


def _facts(error: Exception) -> dict[str, str]:
    """``pid`` and ``ip`` of an actor, as far as Ray tells them."""
    return dict(re.findall(r"^\t(pid|ip): (\S+)$", str(error), re.MULTILINE))


def _place(error: Exception) -> tuple[int, str] | None:
    """The process that is gone, and its machine."""
    found = _facts(error)
    return (int(found["pid"]), found["ip"]) if found.get("pid", "").isdigit() and "ip" in found else None
