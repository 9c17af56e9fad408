"""A real ``tecogan train`` on a terminal: what is seen, and what is not."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tecogan_dist.base.storage import Location
from tecogan_dist.runs.standing import standing_of
from tecogan_dist.runs.status import read_restarts, read_status
from tests.support.terminal import terminal
from tests.support.training_runs import TINY, until, write_store


@pytest.mark.slow
def test_a_run_on_a_terminal_whose_worker_dies(tmp_path: Path) -> None:
    """Ray says nothing, events stand above the panel, a worker's last words are seen, Ctrl-C leaves all in order."""
    config, run = tmp_path / "tiny.yaml", tmp_path / "run"
    config.write_text(TINY.replace("steps: 40", "steps: 100000") + "initial_weights: none\n")
    words = [sys.executable, "-m", "tecogan_dist.train", "--config", str(config), "--output", str(run)]
    words += ["--data", str(write_store(tmp_path / "store")), "--initial-weights", "none"]
    with terminal(words, columns=90, lines=40) as one:
        one.wait_for("saved    step ", 300)
        place = Location.of(run)
        status = until(lambda: (found := read_status(place)) and found.checkpoint and found, "a status", 60)
        assert standing_of(place).verdict == "running"
        assert (status.workers, status.gpus, status.device) == (2, 0, "cpu")
        below = psutil.Process(one.process.pid).children(recursive=True)
        workers = [process.pid for process in below if "ray::RayTrainWorker" in " ".join(process.cmdline())]
        assert status.pid in workers
        os.kill(status.pid, signal.SIGABRT)
        one.wait_for(f"what process {status.pid} on ", 300)
        one.wait_for("step 5 begins" if status.checkpoint.step == 5 else "begins on 2 workers", 300)
        until(lambda: len(read_restarts(place)) == 2, "the second attempt on record", 300)
        until(lambda: standing_of(place).verdict == "running", "it running again", 300)
        one.press(b"\x03")
        assert one.finish(300) == 130
        shown = one.shown()
    text = "\n".join(shown)
    assert one.after == one.before
    assert not one.cursor_is_hidden
    assert "SIGABRT" in text  # which the process itself printed
    assert "asked to stop: the run ends after this step, with a checkpoint (once more: at once)" in text
    assert not re.search(r"^losses", text, re.MULTILINE)
    assert not re.search(r"TrainController|PlacementGroup|INFO|deepspeed|WARNING", text.replace(str(tmp_path), ""))
    assert shown[-1].startswith("interrupted: what the run had saved is kept")
    assert standing_of(place).verdict == "stopped"
    restarts = read_restarts(place)
    assert restarts[0].step == 0
    assert restarts[1].step % 5 == 0
