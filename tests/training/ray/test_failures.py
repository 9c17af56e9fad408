"""What the user reads when workers or the run's other processes die."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location, UnreachableError
from tecogan_dist.training.ray.failures import SHOWN_RANKS, describe, explained

DEAD = RayActorError(
    error_msg="It died.\n\tclass_name: X\n\tpid: 12\n\tip: 10.0.0.7\nThe actor is dead because: killed."
)
GONE = RayActorError(
    error_msg="It died.\n\tpid: 12\n\tip: 10.0.0.7\nThe actor died because its node has died. Node Id: f."
)
NO_MEMORY = OutOfMemoryError("1 worker(s) were killed due to the node running low on memory.\nRefer to ...")
SILENT = ActorUnavailableError("unavailable", None)
COLLECTIVE = RuntimeError("Connection closed by peer [127.0.0.1]:1")


def asked(error: RayActorError | OutOfMemoryError) -> WorkerHealthCheckFailedError:
    """As Ray Train hands it on."""
    return WorkerHealthCheckFailedError("it does not answer", error)


@pytest.mark.parametrize(
    ("errors", "sentence"),
    [
        ({0: asked(DEAD)}, "worker 0 was lost: the process (12 on 10.0.0.7) died"),
        ({3: asked(GONE)}, "worker 3 was lost: the machine 10.0.0.7 is gone"),
        ({2: asked(NO_MEMORY)}, "worker 2 was lost: the machine ran out of memory, and Ray ended the process"),
        ({1: asked(SILENT)}, "worker 1 was lost: the machine or process does not answer"),
        # The others fail because of it.
        ({0: COLLECTIVE, 2: asked(DEAD)}, "worker 2 was lost: the process (12 on 10.0.0.7) died"),
        ({1: asked(DEAD), 0: asked(DEAD)}, "workers 0, 1 were lost: the process (12 on 10.0.0.7) died"),
        # Ray may hear of theirs first.
        ({1: COLLECTIVE}, "worker 1 lost the connection to another worker (Connection closed by peer)"),
        ({1: RuntimeError("ncclRemoteError: 7")}, "worker 1 lost the connection to another worker (ncclRemoteError)"),
        ({0: COLLECTIVE, 1: ValueError("bad")}, "worker 1 failed (ValueError: bad)"),
        ({0: BrokenPipeError("Broken pipe")}, "worker 0 failed (BrokenPipeError: Broken pipe)"),
        ({1: UnreachableError("Connection reset by peer.")}, "worker 1 failed (Connection reset by peer)"),
        ({1: ValueError()}, "worker 1 failed (ValueError: no reason given)"),
        ({1: UnreachableError("no answer.")}, "worker 1 failed (no answer)"),
    ],
)
def test_what_is_said_of_workers(errors: dict[int, Exception], sentence: str) -> None:
    assert describe(errors) == sentence


def test_many_lost_workers_are_not_all_named() -> None:
    sentence = describe({rank: asked(DEAD) for rank in range(64)})
    assert sentence.startswith(f"workers 0, 1, 2, 3, 4, 5, 6, {SHOWN_RANKS - 1} and more were lost: ")


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (
            WorkerGroupError("", {1: COLLECTIVE}),
            "worker 1 lost the connection to another worker .* cluster.max_failures allows no further start",
        ),
        (WorkerGroupError("", {0: asked(DEAD)}), "worker 0 was lost: .* cluster.max_failures allows no further start"),
        (ControllerError(DEAD), r"the process \(12 on 10.0.0.7\) died, and the run needs it"),
        (DEAD, r"the process \(12 on 10.0.0.7\) died, and the run needs it"),
        (NO_MEMORY, "the machine ran out of memory, and Ray ended the process, and the run needs it"),
        (ControllerError(UserError("change this.")), "^change this.$"),
        (WorkerGroupError("", {0: UnreachableError("no answer.")}), "^no answer.$"),
    ],
)
def test_what_died_ends_a_run_in_one_sentence(failure: BaseException, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        raise explained(failure, Location.of(tmp_path))
    assert "\n" not in str(error.value)
    if "change" not in sentence and "answer" not in sentence:
        assert str(error.value).endswith(": the same command goes on from the beginning.")


def test_a_defect_keeps_its_trace(tmp_path: Path) -> None:
    """In the file about it, where Ray's own text is cut short."""
    failure = WorkerGroupError("", {1: KeyError("x")})
    assert explained(failure, Location.of(tmp_path)) is failure
    assert "worker 1: 'x'" in "".join(traceback.format_exception(failure))
