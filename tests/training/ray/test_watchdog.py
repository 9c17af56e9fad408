"""The watchdog of a worker, in processes of their own: it ends them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tecogan_dist.training.ray.watchdog import HUNG

WORKER = """
import sys, time
from tecogan_dist.training.ray import watchdog

watchdog.GRACE = 0.0
watched = watchdog.Watchdog(0.4, say=lambda line: print(line, flush=True), rank=0)
watched.heartbeat(float(sys.argv[1]))
time.sleep(2.0)
watched.close()
"""


@pytest.mark.parametrize(("patience", "status"), [("0", HUNG), ("60", 0)])
def test_a_worker_that_is_quiet_is_ended_unless_it_said_so(patience: str, status: int) -> None:
    """A worker that brings its last records to W&B is quiet for longer than a step."""
    words = [sys.executable, "-c", WORKER, patience]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    assert ("hangs, the workers are replaced" in done.stdout) == (status == HUNG)
